package lora

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"chorale/worker/nn"
)

// Errors of the store, wrapped with the digest.
var (
	// ErrNotLoaded reports a digest that is not in host memory, or is going.
	ErrNotLoaded = errors.New("adapter is not loaded on this worker")
	// ErrBuild reports an adapter that could not be brought onto the device.
	ErrBuild = errors.New("adapter could not be brought onto the device")
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
	Pinned bool
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
	used   uint64 // tick of the last use, for LRU
	// drops are told when the entry is gone; non-empty means it is going.
	drops []func()
}

// Store holds both tiers.
type Store struct {
	capacity int
	// arrive hands an Arrival to the engine's goroutine.
	arrive  func(Arrival)
	entries map[string]*entry
	tick    uint64
	onGone  func(digest string)

	loads, evictions uint64
}

// NewStore makes a store with room for capacity adapters on the device. arrive
// is called from other goroutines and must lead to Arrived being called by the
// store's owner; gone is called when a digest leaves host memory.
func NewStore(capacity int, arrive func(Arrival), gone func(digest string)) *Store {
	return &Store{capacity: capacity, arrive: arrive, onGone: gone, entries: map[string]*entry{}}
}

// Add puts an adapter into host memory. An adapter that is there stays as it
// is, but takes over the pin; one that is being dropped stays for good.
func (s *Store) Add(h Host) {
	if e, ok := s.entries[h.Digest]; ok {
		s.keep(e, h.Pinned)
		if h.Release != nil {
			h.Release()
		}
		return
	}
	s.entries[h.Digest] = &entry{Host: h}
}

// Adopt sets the pin of an adapter that is in host memory and keeps it from
// being dropped; false when it is not there.
func (s *Store) Adopt(digest string, pinned bool) bool {
	e, ok := s.entries[digest]
	if ok {
		s.keep(e, pinned)
	}
	return ok
}

// keep takes back a drop, telling those who wait for it that it is over.
func (s *Store) keep(e *entry, pinned bool) {
	e.Pinned, e.failed = pinned, nil
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
	return nil
}

// Return gives a lease back.
func (s *Store) Return(digest string) {
	e := s.entries[digest]
	e.leases--
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
	s.onGone(e.Digest)
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

// Want starts to bring an adapter onto the device, putting out the one that
// was used longest ago if there is no room. It returns false when all that are
// there are in use or pinned.
func (s *Store) Want(digest string) bool {
	e, ok := s.entries[digest]
	if !ok || e.packed != nil || e.loading || e.failed != nil {
		return true
	}
	if s.occupied() >= s.capacity && !s.evict() {
		return false
	}
	e.loading = true
	s.loads++
	go func() {
		p, err := e.Pack()
		s.arrive(Arrival{Digest: digest, Packed: p, Err: err})
	}()
	return true
}

// occupied counts the device's places that are taken or promised.
func (s *Store) occupied() int {
	n := 0
	for _, e := range s.entries {
		if e.packed != nil || e.loading {
			n++
		}
	}
	return n
}

func (s *Store) evict() bool {
	var victim *entry
	for _, e := range s.entries {
		if e.packed == nil || e.uses > 0 || e.Pinned {
			continue
		}
		if victim == nil || e.used < victim.used || e.used == victim.used && e.Digest < victim.Digest {
			victim = e
		}
	}
	if victim == nil {
		return false
	}
	s.unpack(victim)
	s.evictions++
	return true
}

// Arrived takes in the outcome of a Pack.
func (s *Store) Arrived(a Arrival) {
	e := s.entries[a.Digest]
	e.loading = false
	if a.Err != nil {
		e.failed = fmt.Errorf("%w: %s: %w", ErrBuild, a.Digest, a.Err)
	} else {
		e.packed = &a.Packed
	}
	s.settle(e)
}

// Use keeps an adapter on the device for a running sequence.
func (s *Store) Use(digest string) {
	e := s.entries[digest]
	e.uses++
	s.tick++
	e.used = s.tick
}

// Unuse ends a Use.
func (s *Store) Unuse(digest string) {
	e := s.entries[digest]
	e.uses--
	s.tick++
	e.used = s.tick
	s.settle(e)
}

// Loading counts the adapters on their way to the device.
func (s *Store) Loading() int {
	n := 0
	for _, e := range s.entries {
		if e.loading {
			n++
		}
	}
	return n
}

// Info describes an adapter of the store.
type Info struct {
	Digest      string
	Resident    bool
	Pinned      bool
	Leases      int
	HostBytes   int64
	DeviceBytes int64
	// Draining adapters go when their last lease is returned.
	Draining bool
}

// List describes all adapters, by digest.
func (s *Store) List() []Info {
	out := make([]Info, 0, len(s.entries))
	for _, e := range s.entries {
		i := Info{Digest: e.Digest, Resident: e.packed != nil, Pinned: e.Pinned, Leases: e.leases, HostBytes: e.Bytes, Draining: len(e.drops) > 0}
		if e.packed != nil {
			i.DeviceBytes = e.packed.Bytes
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.Digest, b.Digest) })
	return out
}

// Resident lists the digests on the device, sorted.
func (s *Store) Resident() []string {
	var out []string
	for _, e := range s.entries {
		if e.packed != nil {
			out = append(out, e.Digest)
		}
	}
	slices.Sort(out)
	return out
}

// Counts tells how often adapters were brought onto the device and put out.
func (s *Store) Counts() (loads, evictions uint64) { return s.loads, s.evictions }

// Check verifies the store's invariants, for tests.
func (s *Store) Check() error {
	if n := s.occupied(); n > s.capacity {
		return fmt.Errorf("lora: %d adapters on the device, room for %d", n, s.capacity)
	}
	for d, e := range s.entries {
		if e.leases < 0 || e.uses < 0 || e.uses > e.leases {
			return fmt.Errorf("lora: %s has %d leases and %d uses", d, e.leases, e.uses)
		}
		if e.uses > 0 && e.packed == nil {
			return fmt.Errorf("lora: %s is in use but not on the device", d)
		}
	}
	return nil
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
}
