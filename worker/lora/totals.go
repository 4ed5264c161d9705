package lora

import (
	"cmp"
	"fmt"
	"slices"
)

// Totals are a store's contents and counts since its start.
type Totals struct {
	// Loads counts the adapters brought onto the device, begun or done;
	// Evictions those put out to make room.
	Loads, Evictions uint64
	// HostBytes are in host memory or reserved, of HostLimit (0: no bound);
	// DeviceBytes are on the device.
	HostBytes, HostLimit, DeviceBytes int64
	// LoadTime is how long adapters were on their way onto the device.
	LoadTime Times
}

// TimeBounds are the upper bounds of the classes of Times, in seconds.
var TimeBounds = [...]float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, 1}

// Times is a histogram of durations.
type Times struct {
	// Classes counts durations up to each bound, and last those above all.
	Classes [len(TimeBounds) + 1]uint64
	// Sum is that of all, in seconds.
	Sum float64
}

// Add counts a duration in seconds.
func (t *Times) Add(seconds float64) {
	i, _ := slices.BinarySearch(TimeBounds[:], seconds)
	t.Classes[i]++
	t.Sum += seconds
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
	for e := range s.device {
		if e.packed != nil {
			out = append(out, e.Digest)
		}
	}
	slices.Sort(out)
	return out
}

// Totals tells what the store holds and what it has done.
func (s *Store) Totals() Totals {
	t := s.totals
	t.HostBytes, t.HostLimit = s.hosted+s.reserved, s.hostLimit
	for e := range s.device {
		if e.packed != nil {
			t.DeviceBytes += e.packed.Bytes
		}
	}
	return t
}

// Check verifies the store's invariants, for tests.
func (s *Store) Check() error {
	var hosted int64
	places := 0
	for _, e := range s.entries {
		hosted += e.Bytes
		if _, there := s.device[e]; there != (e.packed != nil || e.loading) {
			return fmt.Errorf("lora: %s is counted among those on the device: %v", e.Digest, there)
		}
		if e.packed != nil || e.loading {
			places++
		}
	}
	if places != len(s.device) || s.capacity > 0 && places > s.capacity {
		return fmt.Errorf("lora: %d adapters on the device, counted %d, room for %d", places, len(s.device), s.capacity)
	}
	if hosted != s.hosted || s.reserved < 0 {
		return fmt.Errorf("lora: %d bytes in host memory, counted %d, and %d reserved", hosted, s.hosted, s.reserved)
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
