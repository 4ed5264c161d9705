package engine

import (
	"context"
	"sync"
)

// Conn is one router's connection. Its methods may be called from any
// goroutine; Recv from one at a time.
type Conn struct {
	e *Engine
	// seqs and hints are the engine goroutine's.
	seqs  map[uint64]*sequence
	hints []string

	mu     sync.Mutex
	queue  []Output
	status Status
	fresh  bool // something to receive
	closed bool
	ready  chan struct{} // capacity 1
}

// Connect opens a connection.
func (e *Engine) Connect() *Conn {
	c := &Conn{e: e, seqs: map[uint64]*sequence{}, ready: make(chan struct{}, 1)}
	e.do(func() {
		e.conns[c] = struct{}{}
		c.push(nil, e.status())
	})
	return c
}

// Submit hands over sequences. What is wrong with one is told by its Output.
func (c *Conn) Submit(reqs []Request) {
	c.e.do(func() {
		for i := range reqs {
			c.e.accept(c, &reqs[i])
		}
	})
}

// Abort ends sequences; those that ended already are ignored.
func (c *Conn) Abort(ids []uint64) {
	c.e.do(func() {
		for _, id := range ids {
			if q, ok := c.seqs[id]; ok {
				c.e.end(q, Output{Reason: Abort})
			}
		}
	})
}

// Prefetch names adapters of sequences that are still to come, those first whose
// turn comes first, instead of those that were named before: they are brought onto
// the device if that takes a place from nobody.
func (c *Conn) Prefetch(digests []string) {
	c.e.do(func() {
		c.hints = digests[:min(len(digests), 2*c.e.opts.MaxAdapters)]
		c.e.hint()
	})
}

// hint tells the store what all connections hint at.
func (e *Engine) hint() {
	var all []string
	for c := range e.conns {
		all = append(all, c.hints...)
	}
	e.store.Hint(all)
}

// Close aborts the connection's sequences.
func (c *Conn) Close() {
	c.shut()
	c.e.do(func() {
		for _, q := range c.seqs {
			c.e.end(q, Output{Reason: Abort})
		}
		delete(c.e.conns, c)
		if len(c.hints) > 0 {
			c.e.hint()
		}
	})
}

func (c *Conn) shut() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
}

func (c *Conn) signal() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// push leaves outputs and the newest status for Recv. Messages that were not
// received yet are merged.
func (c *Conn) push(outs []Output, st Status) {
	c.mu.Lock()
	if !c.closed {
		c.queue = append(c.queue, outs...)
		c.status, c.fresh = st, true
	}
	c.mu.Unlock()
	c.signal()
}

// Recv waits for the next message. After Close, or the engine's end, it gives
// what is left and then ErrClosed.
func (c *Conn) Recv(ctx context.Context) (Message, error) {
	for {
		c.mu.Lock()
		m := Message{Outputs: c.queue, Status: c.status}
		fresh, closed := c.fresh, c.closed
		c.queue, c.fresh = nil, false
		c.mu.Unlock()
		if fresh {
			return m, nil
		}
		if closed {
			return Message{}, ErrClosed
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			return Message{}, ctx.Err()
		}
	}
}
