package adaptermgr

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"chorale/adaptermgr/store"
)

// request is a change that a client asks for.
type request struct {
	op, id, name string
	body         any
}

// fingerprint tells requests apart that have one id.
func (r request) fingerprint() (string, error) {
	b, err := json.Marshal(struct {
		Op   string
		Body any
	}{r.op, r.body})
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), err
}

// calls are the changes with a request id that run or were made lately.
type calls struct {
	running map[string]*call
	answers map[string]answer
	order   []string // ids of answers, oldest first
}

type call struct {
	fingerprint string
	done        chan struct{}
}

type answer struct {
	fingerprint string
	result      Result
}

// maxAnswers is how many answers are kept word for word. The registry
// remembers more requests, and of those what is so now is the answer.
const maxAnswers = 1024

func newCalls() calls { return calls{running: map[string]*call{}, answers: map[string]answer{}} }

// once makes a change that has a request id happen once: the same request again
// gets the first one's answer, a concurrent one waits for it. One that failed
// has changed nothing and may be tried again. do writes what it is given with
// its change.
func (m *Manager) once(ctx context.Context, q request, do func(context.Context, *store.Request) (Result, error)) (Result, error) {
	if q.id == "" {
		return do(ctx, nil)
	}
	print, err := q.fingerprint()
	if err != nil {
		return Result{}, err
	}
	a, first, err := m.begin(ctx, q.id, print)
	if err != nil || !first {
		return a.result, err
	}
	defer m.end(q.id)
	known, ok, err := m.remembered(q.id)
	switch {
	case err != nil:
		return Result{}, err
	case ok && known.Fingerprint != print:
		return Result{}, fmt.Errorf("%w: %q", ErrRequestID, q.id)
	case ok:
		return m.replay(ctx, known)
	}
	done := &store.Request{ID: q.id, Fingerprint: print, Name: q.name, Removed: q.op == "unload"}
	r, err := do(ctx, done)
	if err == nil {
		err = m.remember(*done)
	}
	if err == nil {
		m.keep(q.id, answer{print, r})
	}
	return r, err
}

// begin finds the answer, or waits for the call that makes it, or tells that
// this is the first.
func (m *Manager) begin(ctx context.Context, id, print string) (a answer, first bool, err error) {
	for {
		m.mu.Lock()
		a, answered := m.calls.answers[id]
		c := m.calls.running[id]
		if !answered && c == nil {
			m.calls.running[id] = &call{print, make(chan struct{})}
		}
		m.mu.Unlock()
		switch {
		case answered && a.fingerprint != print, c != nil && c.fingerprint != print:
			return answer{}, false, fmt.Errorf("%w: %q", ErrRequestID, id)
		case answered:
			return a, false, nil
		case c == nil:
			return answer{}, true, nil
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return answer{}, false, context.Cause(ctx)
		case <-m.closed:
			return answer{}, false, ErrClosed
		}
	}
}

func (m *Manager) end(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.calls.running[id].done)
	delete(m.calls.running, id)
}

func (m *Manager) keep(id string, a answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &m.calls
	c.answers[id] = a
	c.order = append(c.order, id)
	if len(c.order) > maxAnswers {
		delete(c.answers, c.order[0])
		c.order = c.order[1:]
	}
}

func (m *Manager) remembered(id string) (r store.Request, ok bool, err error) {
	err = m.o.Registry.View(func(tx store.Tx) (err error) {
		r, ok, err = tx.Request(id)
		return err
	})
	return r, ok, classify(err)
}

// remember notes a request that changed nothing, and so was not written yet.
func (m *Manager) remember(r store.Request) error {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	if _, ok, err := m.remembered(r.ID); ok || err != nil {
		return err
	}
	return m.commitLocked(func() (change, error) { return change{done: &r}, nil }, nil)
}

// replay answers a request whose change was made and whose answer is not known
// any more, by what is so now.
func (m *Manager) replay(ctx context.Context, r store.Request) (Result, error) {
	if r.Removed {
		if err := m.drained(ctx, r.Name); err != nil {
			return Result{}, err
		}
		return Result{Adapter: Adapter{Name: r.Name, State: Removed}, Revision: m.Revision()}, nil
	}
	m.mu.Lock()
	loaded := m.isLoaded(r.Name)
	m.mu.Unlock()
	if loaded {
		if err := m.pushed(ctx, m.digestOf(r.Name), ""); err != nil {
			return Result{}, err
		}
	}
	return m.result(r.Name, nil)
}
