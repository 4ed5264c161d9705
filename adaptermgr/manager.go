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
	"chorale/internal/eviction"
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
	staged  map[string]staged  // versions on their way to the workers
	faults  map[string]error   // digests whose stored files cannot be used
	forcing map[string]bool    // digests of removed versions whose sequences are aborted
	desired map[string]content // what wanted returns, nil when it or forced is to change
	wants   uint64             // counts the desired
	locks   map[string]*nameLock
	calls   calls
	groups  []*group
	// launch runs a group while the manager runs, nil before and after.
	launch   func(*group)
	base     *WorkerInfo   // as last described
	revision uint64        // the registry's
	minor    uint64        // changes since the registry's
	changed  chan struct{} // closed and replaced by each change
	seq      uint64        // counts changes
	turn     uint64        // counts uses
	often    *eviction.Counter
	preload  preloading
	cache    *catalogue
	sorted   []string  // names in order, nil when they are to be sorted
	gone     []removal // names that were removed, oldest first
	kept     uint64    // changes after this revision are known
}

// entry is a registered name.
type entry struct {
	rec store.Record
	// progress is that of a load that runs.
	progress *Progress
	// used are the last uses by version.
	used map[uint64]use
	// often are the counts of uses by version.
	often map[uint64]*frequency
	// shown are the states that the history ends with, by version.
	shown map[uint64]State
	// seen tells that the cached catalogue has it as it is.
	seen bool
	// forceAt is when a drain becomes forced; zero: never by itself.
	forceAt time.Time
}

func newEntry(r store.Record) *entry {
	e := &entry{rec: r, used: map[uint64]use{}, often: map[uint64]*frequency{}, shown: map[uint64]State{}}
	for _, v := range r.Versions {
		e.used[v.Number] = use{v.LastUsed, v.Turn}
	}
	for _, t := range r.History {
		e.shown[t.Version] = stateOf(t.State)
	}
	return e
}

// current returns the version that answers, nil when there is none.
func (e *entry) current() *store.Version { return e.version(e.rec.Current) }

// version returns a version, nil when there is none of the number.
func (e *entry) version(number uint64) *store.Version { return versionOf(&e.rec, number) }

// staged is a version on its way to the workers, beside those of its name.
type staged struct {
	store.Version
	pinned bool
}

// content is what a digest stands for.
type content struct {
	config, weights string // blobs
	size            int64
	pinned          bool
}

// New reads the registry, puts right what a crash left and returns a Manager
// that Run sets to work. It uses the disk, not the network.
func New(o Options) (*Manager, error) {
	o.setDefaults()
	m := &Manager{
		o: o, log: o.Log, staging: make(chan struct{}, o.MaxStaging), closed: make(chan struct{}),
		entries: map[string]*entry{}, staged: map[string]staged{}, locks: map[string]*nameLock{},
		faults: map[string]error{}, forcing: map[string]bool{}, changed: make(chan struct{}), calls: newCalls(),
		often: eviction.NewCounter(o.Eviction),
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
			r.History = addTransition(r.History, Transition{At: m.now(), State: Failed, Reason: r.Message})
			if err := tx.Put(*r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("adapter registry: %w", classify(err))
	}
	m.revision, m.kept = revision, revision<<32
	for _, r := range records {
		for _, v := range r.Versions {
			m.turn = max(m.turn, v.Turn)
			if !m.o.Blobs.Has(v.ConfigBlob) || !m.o.Blobs.Has(v.WeightsBlob) {
				m.faults[v.Digest] = errors.New("its stored files are missing; load it again")
			}
		}
		m.entries[r.Name] = newEntry(r)
	}
	m.resumeDrains()
	m.observeAll("the adapter manager was started")
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
	wg.Go(func() { m.collectNowAndThen(ctx) })
	wg.Go(func() { m.keepPreloaded(ctx) })
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
	m.observeAll("the worker groups were changed")
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
	return m.awaitTick(ctx, idle, nil, check)
}

// awaitTick is await that also calls check at each tick.
func (m *Manager) awaitTick(ctx context.Context, idle time.Duration, tick <-chan time.Time, check func() (done, progress bool)) error {
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
		case <-tick:
		case <-timeout:
			return ErrUnavailable
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.closed:
			return ErrClosed
		}
	}
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

// sortedNames returns the registered names in order; it is not to be changed. mu
// is held.
func (m *Manager) sortedNames() []string {
	if m.sorted == nil {
		m.sorted = slices.Sorted(maps.Keys(m.entries))
	}
	return m.sorted
}
