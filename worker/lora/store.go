package lora

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"chorale/internal/eviction"
	"chorale/worker/nn"
)

// Errors of the store, wrapped with the digest.
var (
	// ErrNotLoaded reports a digest that is not in host memory, or is going.
	ErrNotLoaded = errors.New("adapter is not loaded on this worker")
	// ErrBuild reports an adapter that could not be brought onto the device.
	ErrBuild = errors.New("adapter could not be brought onto the device")
	// ErrTogether reports adapters that the device cannot hold at once.
	ErrTogether = errors.New("adapters do not fit into device memory together")
	// ErrHostFull reports that there is no host memory left for an adapter.
	ErrHostFull = errors.New("host memory for adapters is full")
)

// Packed is an adapter in device memory.
type Packed struct {
	Adapter *nn.Adapter
	Bytes   int64
	// Free gives the device memory back.
	Free func()
}

// Host is an adapter in host memory.
type Host struct {
	Digest string
	Bytes  int64
	// Device is the device memory that Pack takes; 0 is as much as Bytes.
	Device int64
	// Reserved is what Reserve has set aside for it; Add gives that back.
	Reserved int64
	Pinned   bool
	// Pack brings it onto the device. It runs outside the engine's goroutine.
	Pack func() (Packed, error)
	// Release frees the host memory; nil when there is nothing to do.
	Release func()
}

// Arrival is the outcome of a Pack.
type Arrival struct {
	Digest string
	Packed Packed
	Err    error
	// Took is how long it was on its way.
	Took time.Duration
}

type entry struct {
	Host
	leases int
	uses   int
	packed *Packed
	// loading is true while Pack runs.
	loading bool
	// failed keeps the error of the last Pack until the next Add.
	failed error
	// chunks of the device's pool are taken while it is packed or loading.
	chunks int
	used   uint64 // tick of the last use
	often  eviction.Uses
	// fresh adapters have not been used since they came.
	fresh bool
	// usedAt and arrived are the steps of its last use and of its arrival.
	usedAt, arrived uint64
	// drops are told when the entry is gone; non-empty means it is going.
	drops []func()
	// early counts the preloads that have it among theirs; hinted tells that Hint
	// has.
	early  int
	hinted bool
	counts
}

// Store holds both tiers.
type Store struct {
	capacity int
	// hostLimit bounds hosted, the bytes in host memory, and reserved, those that
	// will be; 0: no bound.
	hostLimit, hosted, reserved int64
	// arrive hands an Arrival to the engine's goroutine.
	arrive  func(Arrival)
	entries map[string]*entry
	tick    uint64
	onGone  func(digest string)
	// device are the entries that have a place on the device, or are promised one.
	device map[*entry]struct{}
	often  *eviction.Counter

	totals   Totals
	changes  uint64 // counts what Counts tells
	preloads []*preload
	hints    []*entry
	sharing
}

// NewStore makes a store with room for capacity adapters on the device and for
// hostLimit bytes of them in host memory, 0 for any number of either. arrive is called
// from other goroutines and must lead to Arrived being called by the store's
// owner; gone is called when a digest leaves host memory.
func NewStore(capacity int, hostLimit int64, arrive func(Arrival), gone func(digest string)) *Store {
	return &Store{
		capacity: capacity, hostLimit: hostLimit, arrive: arrive, onGone: gone, entries: map[string]*entry{}, device: map[*entry]struct{}{},
		often: eviction.NewCounter(eviction.LRU),
	}
}

// SetPolicy says which idle adapter leaves the device first, by default the one
// used longest ago. It precedes Add.
func (s *Store) SetPolicy(p eviction.Policy) { s.often = eviction.NewCounter(p) }

// Reserve sets host memory aside for an adapter that is on its way, until
// Unreserve. There is none left: ErrHostFull, with the numbers. Nothing is put
// out for it: which adapters a worker holds is the adapter manager's to decide,
// and it would bring them back.
func (s *Store) Reserve(bytes int64) error {
	if s.hostLimit > 0 && bytes > s.hostLimit-s.hosted-s.reserved {
		return fmt.Errorf("%w: %d MiB are wanted, %d of %d MiB are taken by %d adapters", ErrHostFull,
			(bytes+1<<20-1)>>20, (s.hosted+s.reserved)>>20, s.hostLimit>>20, len(s.entries))
	}
	s.reserved += bytes
	return nil
}

// Unreserve gives back what Reserve set aside when no Add follows.
func (s *Store) Unreserve(bytes int64) { s.reserved -= bytes }

// Add puts an adapter into host memory. An adapter that is there stays as it
// is, but takes over the pin; one that is being dropped stays for good.
// One that could never come onto the device is refused and stays the caller's,
// with what was set aside for it: memory.ErrTooLarge.
func (s *Store) Add(h Host) error {
	if h.Device == 0 {
		h.Device = h.Bytes
	}
	if err := s.fit(h.Digest, h.Device, h.Pinned); err != nil {
		return err
	}
	s.Unreserve(h.Reserved)
	if e, ok := s.entries[h.Digest]; ok {
		s.keep(e, h.Pinned)
		if h.Release != nil {
			h.Release()
		}
		return nil
	}
	e := &entry{Host: h}
	s.entries[h.Digest] = e
	s.begin(e)
	s.hosted += h.Bytes
	return nil
}

// Adopt sets the pin of an adapter that is in host memory and keeps it from
// being dropped; false when it is not there. A pin that would leave too little
// to others is refused: memory.ErrTooLarge.
func (s *Store) Adopt(digest string, pinned bool) (bool, error) {
	e, ok := s.entries[digest]
	if !ok {
		return false, nil
	}
	if err := s.fit(digest, e.Device, pinned); err != nil {
		return false, err
	}
	s.keep(e, pinned)
	return true, nil
}

// keep takes back a drop, telling those who wait for it that it is over.
func (s *Store) keep(e *entry, pinned bool) {
	e.Pinned, e.failed = pinned, nil
	s.stale()
	drops := e.drops
	e.drops = nil // first: who is told may drop it again
	for _, tell := range drops {
		tell()
	}
}

// Has tells whether a digest is in host memory and not going.
func (s *Store) Has(digest string) bool {
	e, ok := s.entries[digest]
	return ok && len(e.drops) == 0
}

// Lease claims an adapter for a sequence. One that failed to reach the device
// is refused with what it failed of: its sequences would wait for ever.
func (s *Store) Lease(digest string) error {
	if !s.Has(digest) {
		return fmt.Errorf("%w: %s", ErrNotLoaded, digest)
	}
	e := s.entries[digest]
	if e.failed != nil {
		return e.failed
	}
	e.leases++
	s.asked(e)
	s.stale()
	return nil
}

// Return gives a lease back.
func (s *Store) Return(digest string) {
	e := s.entries[digest]
	e.leases--
	s.stale()
	s.settle(e)
}

// Drop removes an adapter once its last lease is returned, then calls gone.
// New leases are refused from now on. A digest that is not there is gone at once.
func (s *Store) Drop(digest string, gone func()) {
	e, ok := s.entries[digest]
	if !ok {
		gone()
		return
	}
	e.drops = append(e.drops, gone)
	s.settle(e)
}

// settle removes an entry that is being dropped and that nobody holds.
func (s *Store) settle(e *entry) {
	if len(e.drops) == 0 || e.leases > 0 || e.uses > 0 || e.loading {
		return
	}
	s.unpack(e)
	if e.Release != nil {
		e.Release()
	}
	delete(s.entries, e.Digest)
	s.hosted -= e.Bytes
	s.onGone(e.Digest)
	s.preloaded(e, fmt.Errorf("%w: %s", ErrNotLoaded, e.Digest))
	for _, tell := range e.drops {
		tell()
	}
}

func (s *Store) unpack(e *entry) {
	if e.packed != nil {
		if e.packed.Free != nil {
			e.packed.Free()
		}
		e.packed = nil
		delete(s.device, e)
		s.giveRoom(e)
	}
}

// Ready tells whether an adapter is on the device.
func (s *Store) Ready(digest string) bool {
	e, ok := s.entries[digest]
	return ok && e.packed != nil
}

// Pinned tells whether an adapter stays on the device even when unused.
func (s *Store) Pinned(digest string) bool {
	e, ok := s.entries[digest]
	return ok && e.Pinned
}

// Failed gives the error that keeps an adapter off the device, if any.
func (s *Store) Failed(digest string) error {
	if e, ok := s.entries[digest]; ok {
		return e.failed
	}
	return fmt.Errorf("%w: %s", ErrNotLoaded, digest)
}

// Adapter gives an adapter that is Ready.
func (s *Store) Adapter(digest string) *nn.Adapter { return s.entries[digest].packed.Adapter }

// Want starts to bring an adapter onto the device, making room if there is
// none: by putting out adapters that nobody uses, if possible such as nobody
// waits for either and of those the one that the policy names, or by taking
// memory of the cache. It returns false when what is there is in use or pinned.
func (s *Store) Want(digest string) bool { return s.bring(digest, false) }

// Prefetch starts to bring an adapter onto the device if that takes it from
// nobody: there is room, or it can be had without an adapter that a sequence
// holds a lease on.
func (s *Store) Prefetch(digest string) { s.bring(digest, true) }

// bring is Want, or Prefetch when it is ahead of need.
func (s *Store) bring(digest string, ahead bool) bool {
	e, ok := s.entries[digest]
	if !ok || e.packed != nil || e.loading || e.failed != nil {
		return true
	}
	if !s.makeRoom(e, ahead) {
		return false
	}
	e.loading = true
	s.device[e] = struct{}{}
	s.totals.Loads++
	go func() {
		start := time.Now()
		p, err := e.Pack()
		s.arrive(Arrival{Digest: digest, Packed: p, Err: err, Took: time.Since(start)})
	}()
	return true
}

// evict puts out one of those that are idle.
func (s *Store) evict(ahead bool) bool {
	var victim *entry
	for e := range s.device {
		if e.idle(ahead) && (victim == nil || s.sooner(e, victim)) {
			victim = e
		}
	}
	if victim == nil {
		return false
	}
	s.putOut(victim)
	return true
}

func (s *Store) putOut(e *entry) {
	s.unpack(e)
	s.evicted(e)
}

// idle tells whether an adapter may be put out. One that somebody waits for may
// not for one that is fetched ahead of need, nor before he has had his turn: two
// that do not fit together would push each other out for ever.
func (e *entry) idle(ahead bool) bool {
	return e.packed != nil && e.uses == 0 && !e.Pinned && !(ahead && e.claim() > free || e.fresh && e.leases > 0)
}

// claim is who waits for an adapter.
type claim int

const (
	free    claim = iota
	hinted        // a sequence that has not come yet
	awaited       // one that has, or a preload that is not done
)

func (e *entry) claim() claim {
	switch {
	case e.leases > 0 || e.early > 0:
		return awaited
	case e.hinted:
		return hinted
	}
	return free
}

// sooner tells whether e is put out before o.
func (s *Store) sooner(e, o *entry) bool {
	return cmp.Or(cmp.Compare(e.claim(), o.claim()), s.often.Compare(e.often, o.often), cmp.Compare(e.used, o.used), cmp.Compare(e.Digest, o.Digest)) < 0
}

// Arrived takes in the outcome of a Pack.
func (s *Store) Arrived(a Arrival) {
	e := s.entries[a.Digest]
	e.loading = false
	if a.Err != nil {
		e.failed = fmt.Errorf("%w: %s: %w", ErrBuild, a.Digest, a.Err)
		delete(s.device, e)
		s.giveRoom(e)
	} else {
		e.packed = &a.Packed
		// Having come counts as use: what was just brought for somebody is not
		// the first to go before he had his turn.
		s.touch(e)
		e.arrived, e.fresh = e.usedAt, true
		s.came(e, a.Took)
	}
	s.preloaded(e, e.failed)
	s.settle(e)
}

func (s *Store) touch(e *entry) {
	s.tick++
	e.used = s.tick
	if s.room != nil {
		e.usedAt = s.room.Step()
	}
	s.stale()
}

// Use keeps an adapter on the device for a running sequence.
func (s *Store) Use(digest string) {
	e := s.entries[digest]
	e.uses++
	e.fresh = false
	s.often.Use(&e.often, len(s.device))
	s.touch(e)
}

// Unuse ends a Use.
func (s *Store) Unuse(digest string) {
	e := s.entries[digest]
	e.uses--
	s.touch(e)
	s.settle(e)
}

// Loading counts the adapters on their way to the device.
func (s *Store) Loading() int {
	n := 0
	for e := range s.device {
		if e.loading {
			n++
		}
	}
	return n
}

// Close gives everything back. No lease may be out and no Pack running.
func (s *Store) Close() {
	for _, e := range s.entries {
		s.unpack(e)
		if e.Release != nil {
			e.Release()
		}
	}
	clear(s.entries)
	s.hosted = 0
}
