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
// make room. Names in keep are not taken. mu is held.
func (m *Manager) evict(put []store.Record, keep map[string]bool) ([]store.Record, error) {
	if m.o.MaxLoaded <= 0 {
		return put, nil
	}
	adding := map[string]bool{}
	for _, r := range put {
		adding[r.Name] = true
	}
	loaded := len(put)
	var victims []*entry
	for name, e := range m.entries {
		if adding[name] || e.rec.State != store.StateLoaded {
			continue
		}
		loaded++
		if !e.rec.Pinned && !keep[name] {
			victims = append(victims, e)
		}
	}
	surplus := loaded - m.o.MaxLoaded
	if surplus > len(victims) {
		return nil, fmt.Errorf("%w: %d, and the others are pinned or in use by this request", ErrCapacity, m.o.MaxLoaded)
	}
	slices.SortFunc(victims, func(a, b *entry) int {
		return cmp.Or(a.lastUsed.Compare(b.lastUsed), cmp.Compare(a.rec.Name, b.rec.Name))
	})
	for _, e := range victims[:max(0, surplus)] {
		r := e.rec
		r.State, r.LastUsed, r.Updated = store.StateReady, e.lastUsed.UTC(), time.Now().UTC()
		put = append(put, r)
	}
	return put, nil
}

func namesOf(records []store.Record) []string {
	var names []string
	for _, r := range records {
		names = append(names, r.Name)
	}
	return names
}
