package adaptermgr

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"chorale/adaptermgr/store"
)

// checkPins refuses a pin that would let pinned adapters fill a batch. mu is held.
func (m *Manager) checkPins(name, digest string, pinned bool) error {
	if !pinned || m.base == nil || m.base.MaxLoRAsPerBatch <= 0 {
		return nil
	}
	digests := map[string]bool{digest: true}
	for n, e := range m.entries {
		if n != name && e.rec.Pinned && e.rec.Digest != "" && e.rec.State != store.StateDraining {
			digests[e.rec.Digest] = true
		}
	}
	if limit := m.base.MaxLoRAsPerBatch - 1; len(digests) > limit {
		return fmt.Errorf("%w (max_loras_per_batch is %d, so at most %d may be pinned)", ErrStarvation, limit+1, limit)
	}
	return nil
}

// evict appends to put, which will be loaded, the records that become ready to
// make room: within MaxLoaded names, and within the bytes that a worker group
// holds. Names in keep are not taken. mu is held.
func (m *Manager) evict(put []store.Record, keep map[string]bool) ([]store.Record, error) {
	adding := map[string]bool{}
	load := newLoad()
	for _, r := range put {
		adding[r.Name] = true
		load.add(&r)
	}
	var victims []*entry
	for name, e := range m.entries {
		if adding[name] || e.rec.State != store.StateLoaded {
			continue
		}
		load.add(&e.rec)
		if !e.rec.Pinned && !keep[name] {
			victims = append(victims, e)
		}
	}
	slices.SortFunc(victims, func(a, b *entry) int {
		return cmp.Or(a.lastUsed.Compare(b.lastUsed), cmp.Compare(a.rec.Name, b.rec.Name))
	})
	for _, e := range victims {
		if m.fits(load) == nil {
			break
		}
		load.remove(&e.rec)
		r := e.rec
		r.State, r.LastUsed, r.Updated = store.StateReady, e.lastUsed.UTC(), time.Now().UTC()
		put = append(put, r)
	}
	return put, m.fits(load)
}

// fits tells what of a load is too much. mu is held.
func (m *Manager) fits(l load) error {
	if m.o.MaxLoaded > 0 && l.names > m.o.MaxLoaded {
		return fmt.Errorf("%w: %d, and the others are pinned or in use by this request", ErrCapacity, m.o.MaxLoaded)
	}
	if m.base != nil && m.base.MaxLoadedBytes > 0 && l.bytes > m.base.MaxLoadedBytes {
		return fmt.Errorf("%w: %d bytes, %d are wanted, and the others are pinned or in use by this request", ErrHostMemory, m.base.MaxLoadedBytes, l.bytes)
	}
	return nil
}

// load counts what is loaded: names, and the bytes of each content once.
type load struct {
	names  int
	bytes  int64
	sharer map[string]int // names by digest
}

func newLoad() load { return load{sharer: map[string]int{}} }

func (l *load) add(r *store.Record) {
	l.names++
	if l.sharer[r.Digest]++; l.sharer[r.Digest] == 1 {
		l.bytes += r.SizeBytes
	}
}

func (l *load) remove(r *store.Record) {
	l.names--
	if l.sharer[r.Digest]--; l.sharer[r.Digest] == 0 {
		l.bytes -= r.SizeBytes
	}
}

func namesOf(records []store.Record) []string {
	var names []string
	for _, r := range records {
		names = append(names, r.Name)
	}
	return names
}
