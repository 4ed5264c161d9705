package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"chorale/adaptermgr/store"
	"chorale/internal/peft"
)

// Manager is the adapter manager. Its methods may be called concurrently.
type Manager struct {
	o       Options
	log     *zap.Logger
	staging chan struct{} // semaphore of MaxStaging
	closed  chan struct{} // when Run has ended
	limit   atomic.Pointer[peft.Limits]

	// commitMu orders changes of registry, blobs and entries; see the package
	// comment. Taken before mu.
	commitMu sync.Mutex

	mu      sync.Mutex
	entries map[string]*entry
	staged  map[string]store.Record // replacements on their way to the workers
	locks   map[string]*nameLock
	groups  []*group
	// launch runs a group while the manager runs, nil before and after.
	launch   func(*group)
	base     *WorkerInfo   // as last described
	revision uint64        // the registry's
	minor    uint64        // changes since the registry's
	changed  chan struct{} // closed and replaced by each change
	seq      uint64        // counts changes
	cache    *catalogue
}

// entry is a registered name.
type entry struct {
	rec store.Record
	// phase is Fetching or Validating while a load of a new name runs.
	phase State
	// fault tells why stored files cannot be pushed.
	fault    error
	lastUsed time.Time
	// force drops a draining adapter without waiting for its sequences.
	force bool
}

// content is what a digest stands for.
type content struct {
	config, weights string // blobs
	size            int64
	pinned          bool
}

func contentOf(r store.Record) content {
	return content{r.ConfigBlob, r.WeightsBlob, r.SizeBytes, r.Pinned}
}

// New reads the registry, puts right what a crash left and returns a Manager
// that Run sets to work. It uses the disk, not the network.
func New(o Options) (*Manager, error) {
	o.setDefaults()
	m := &Manager{
		o: o, log: o.Log, staging: make(chan struct{}, o.MaxStaging), closed: make(chan struct{}),
		entries: map[string]*entry{}, staged: map[string]store.Record{}, locks: map[string]*nameLock{},
		changed: make(chan struct{}),
	}
	m.Restrict(o.Limits)
	if err := m.recover(); err != nil {
		return nil, err
	}
	for _, w := range o.Workers {
		m.groups = append(m.groups, newGroup(m, w))
	}
	return m, nil
}

// recover makes the entries from the registry.
func (m *Manager) recover() error {
	var records []store.Record
	revision, err := m.o.Registry.Update(func(tx store.Tx) error {
		var err error
		if records, err = tx.List(); err != nil {
			return err
		}
		tx.Bump() // revisions told by the process before must not come again
		for i := range records {
			r := &records[i]
			if r.State != store.StateFetching {
				continue
			}
			r.State, r.Message = store.StateFailed, "the load was interrupted by a restart; load it again"
			if err := tx.Put(*r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("adapter registry: %w", classify(err))
	}
	m.revision = revision
	for _, r := range records {
		e := &entry{rec: r, lastUsed: r.LastUsed}
		if r.WeightsBlob != "" && (!m.o.Blobs.Has(r.ConfigBlob) || !m.o.Blobs.Has(r.WeightsBlob)) {
			e.fault = errors.New("its stored files are missing; load it again")
		}
		m.entries[r.Name] = e
	}
	return m.collect()
}

// Run serves until ctx ends and all goroutines have. It may be called once.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	m.mu.Lock()
	m.launch = func(g *group) {
		own, cancel := context.WithCancel(ctx)
		g.cancel = cancel
		wg.Go(func() {
			defer cancel()
			g.run(own)
		})
	}
	for _, g := range m.groups {
		m.launch(g)
	}
	m.mu.Unlock()
	wg.Go(func() { m.finishDrains(ctx) })
	<-ctx.Done()
	close(m.closed)
	m.mu.Lock()
	m.launch = nil
	m.mu.Unlock()
	wg.Wait()
	return nil
}

// SetWorkers makes ws the worker groups, told apart by address. New ones get what
// is wanted; those that are not among ws any more keep what they hold, and nobody
// looks after them.
func (m *Manager) SetWorkers(ws []Worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := map[string]*group{}
	for _, g := range m.groups {
		was[g.w.Address()] = g
	}
	m.groups = nil
	for _, w := range ws {
		g := was[w.Address()]
		if g == nil {
			g = newGroup(m, w)
			if m.launch != nil {
				m.launch(g)
			}
		}
		delete(was, w.Address())
		m.groups = append(m.groups, g)
	}
	for _, g := range was {
		if g.cancel != nil {
			g.cancel()
		}
	}
	m.notify()
}

// notify tells watchers, waiting operations and groups of a change. mu is held.
func (m *Manager) notify() {
	m.seq++
	m.minor++
	close(m.changed)
	m.changed = make(chan struct{})
	for _, g := range m.groups {
		select {
		case g.kick <- struct{}{}:
		default:
		}
	}
}

// published returns the revision that clients see: the registry's in the upper
// half, in the lower the changes since that only the workers made. So a client
// that waits for the revision of an answer sees all that the answer tells.
// mu is held.
func (m *Manager) published() uint64 { return m.revision<<32 | m.minor }

// await calls check under mu, again after each change, until it reports done.
// idle, if positive, is how long it waits without check reporting progress.
func (m *Manager) await(ctx context.Context, idle time.Duration, check func() (done, progress bool)) error {
	var timeout <-chan time.Time
	for {
		m.mu.Lock()
		done, progress := check()
		changed := m.changed
		m.mu.Unlock()
		switch {
		case done:
			return nil
		case progress:
			timeout = nil
		case timeout == nil && idle > 0:
			timeout = time.After(idle)
		}
		select {
		case <-changed:
		case <-timeout:
			return ErrUnavailable
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.closed:
			return ErrClosed
		}
	}
}

// commit runs one change: plan, with the entries as they are, returns the
// records to put and the names to delete; after the transaction apply changes
// the memory. Blobs that nobody references any more go last.
func (m *Manager) commit(plan func() (put []store.Record, del []string, err error), apply func()) (uint64, error) {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	return m.commitLocked(plan, apply)
}

func (m *Manager) commitLocked(plan func() (put []store.Record, del []string, err error), apply func()) (uint64, error) {
	m.mu.Lock()
	put, del, err := plan()
	m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	revision, err := m.o.Registry.Update(write(put, del))
	if err != nil {
		m.tidyFailed(put)
		return 0, classify(err)
	}
	var old []string
	m.mu.Lock()
	for _, r := range put {
		e := m.entries[r.Name]
		if e == nil {
			e = &entry{}
			m.entries[r.Name] = e
		}
		old = append(old, e.rec.ConfigBlob, e.rec.WeightsBlob)
		if e.rec.Version != r.Version {
			e.fault = nil
		}
		e.rec = r
	}
	for _, name := range del {
		if e := m.entries[name]; e != nil {
			old = append(old, e.rec.ConfigBlob, e.rec.WeightsBlob)
		}
		delete(m.entries, name)
	}
	if m.revision != revision {
		m.revision, m.minor = revision, 0
	}
	if apply != nil {
		apply()
	}
	m.notify()
	m.mu.Unlock()
	m.tidy(old)
	return revision, nil
}

// write returns the transaction that puts and deletes. A record with a digest
// and no version gets the registry's next revision as its version, which grows
// also across unloads of the name.
func write(put []store.Record, del []string) func(store.Tx) error {
	fresh := make([]bool, len(put))
	for i, r := range put {
		fresh[i] = r.Version == 0 && r.Digest != ""
	}
	return func(tx store.Tx) error {
		for i := range put {
			if fresh[i] {
				put[i].Version = tx.Revision() + 1
			}
			if err := tx.Put(put[i]); err != nil {
				return err
			}
		}
		for _, name := range del {
			if err := tx.Delete(name); err != nil {
				return err
			}
		}
		return nil
	}
}

// tidy removes those of the blobs that nobody needs. What cannot be removed
// stays until the next start. commitMu is held.
func (m *Manager) tidy(blobs []string) {
	needed := m.needed()
	for _, d := range blobs {
		if d == "" || needed[d] {
			continue
		}
		needed[d] = true // once is enough
		if err := m.o.Blobs.Remove(d); err != nil {
			m.log.Warn("surplus blob not removed", zap.String("blob", d), zap.Error(err))
		}
	}
}

// tidyFailed removes the blobs of a change that failed, unless the registry
// has it all the same: a disk may fail after the write. commitMu is held.
func (m *Manager) tidyFailed(put []store.Record) {
	registered := map[string]bool{}
	err := m.o.Registry.View(func(tx store.Tx) error {
		records, err := tx.List()
		for _, r := range records {
			registered[r.ConfigBlob], registered[r.WeightsBlob] = true, true
		}
		return err
	})
	if err != nil {
		return
	}
	var surplus []string
	for _, r := range put {
		for _, d := range []string{r.ConfigBlob, r.WeightsBlob} {
			if !registered[d] {
				surplus = append(surplus, d)
			}
		}
	}
	m.tidy(surplus)
}

// collect removes all blobs that no record needs. Called before anybody else
// is there.
func (m *Manager) collect() error {
	have, err := m.o.Blobs.List()
	if err != nil {
		return classify(err)
	}
	m.tidy(have)
	return nil
}

// needed returns the blobs in use.
func (m *Manager) needed() map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	needed := map[string]bool{}
	for _, e := range m.entries {
		needed[e.rec.ConfigBlob], needed[e.rec.WeightsBlob] = true, true
	}
	for _, r := range m.staged {
		needed[r.ConfigBlob], needed[r.WeightsBlob] = true, true
	}
	return needed
}

// wanted returns the digests that the workers should hold. mu is held.
func (m *Manager) wanted() map[string]content {
	w := map[string]content{}
	add := func(r store.Record) {
		c := contentOf(r)
		c.pinned = c.pinned || w[r.Digest].pinned
		w[r.Digest] = c
	}
	for _, r := range m.staged {
		add(r)
	}
	for _, e := range m.entries {
		if e.rec.State == store.StateLoaded && e.fault == nil {
			add(e.rec)
		}
	}
	return w
}

// forced returns the digests whose sequences are to be aborted. mu is held.
func (m *Manager) forced() map[string]bool {
	f := map[string]bool{}
	for _, e := range m.entries {
		if e.rec.State == store.StateDraining && e.force {
			f[e.rec.Digest] = true
		}
	}
	return f
}

// setFault takes a digest whose files are bad off the workers.
func (m *Manager) setFault(digest string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		if e.rec.Digest == digest {
			e.fault = err
		}
	}
	m.notify()
}

// nameLock lets one operation at a time change a name.
type nameLock struct {
	held chan struct{}
	refs int
	// cancel ends the load that holds the lock.
	cancel context.CancelCauseFunc
}

// lockName waits for its turn. With interrupt it ends a load that holds the
// lock: one that is registered already stays registered.
func (m *Manager) lockName(ctx context.Context, name string, interrupt bool) (*nameLock, func(), error) {
	m.mu.Lock()
	l := m.locks[name]
	if l == nil {
		l = &nameLock{held: make(chan struct{}, 1)}
		m.locks[name] = l
	}
	l.refs++
	if interrupt && l.cancel != nil {
		l.cancel(ErrUnloaded)
	}
	m.mu.Unlock()
	release := func(locked bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if locked {
			l.cancel = nil
			<-l.held
		}
		if l.refs--; l.refs == 0 {
			delete(m.locks, name)
		}
	}
	select {
	case l.held <- struct{}{}:
		return l, func() { release(true) }, nil
	case <-ctx.Done():
		release(false)
		return nil, nil, context.Cause(ctx)
	case <-m.closed:
		release(false)
		return nil, nil, ErrClosed
	}
}

// sortedNames returns the registered names in order. mu is held.
func (m *Manager) sortedNames() []string { return slices.Sorted(maps.Keys(m.entries)) }
