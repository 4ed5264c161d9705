package adaptermgr

import (
	"fmt"
	"slices"

	"chorale/adaptermgr/store"
)

// checkPins refuses a pin that would let pinned adapters fill a batch. mu is held.
func (m *Manager) checkPins(name, digest string, pinned bool) error {
	if !pinned || m.base == nil || m.base.MaxLoRAsPerBatch <= 0 {
		return nil
	}
	digests := map[string]bool{digest: true}
	for n, e := range m.entries {
		if v := e.current(); n != name && e.rec.Pinned && v != nil && e.rec.State != store.StateDraining {
			digests[v.Digest] = true
		}
	}
	if limit := m.base.MaxLoRAsPerBatch - 1; len(digests) > limit {
		return fmt.Errorf("%w (max_loras_per_batch is %d, so at most %d may be pinned)", ErrStarvation, limit+1, limit)
	}
	return nil
}

// evict takes versions off the workers to make room for those that the records
// of put want there: within MaxLoaded of them, and within the bytes that a
// worker group holds. Those in keep are not taken. It returns put with the
// records that change as well, and the names of what was taken. mu is held.
func (m *Manager) evict(put []store.Record, keep map[unit]bool) (_ []store.Record, evicted []string, err error) {
	at := make(map[string]int, len(put)) // of the records of put
	for i := range put {
		at[put[i].Name] = i
	}
	load := newLoad()
	var victims []unit
	count := func(r *store.Record) {
		for i := range r.Versions {
			v, u := &r.Versions[i], unit{r.Name, r.Versions[i].Number}
			if r.State != store.StateLive || !v.Loaded {
				continue
			}
			load.add(v)
			if !keep[u] && (!r.Pinned || v.Number != r.Current) {
				victims = append(victims, u)
			}
		}
	}
	for i := range put {
		count(&put[i])
	}
	for name, e := range m.entries {
		if _, changing := at[name]; !changing {
			count(&e.rec)
		}
	}
	if m.fits(load) == nil {
		return put, nil, nil
	}
	slices.SortFunc(victims, m.byUse)
	for _, u := range victims {
		if m.fits(load) == nil {
			break
		}
		i, ok := at[u.name]
		if !ok {
			i = len(put)
			at[u.name] = i
			put = append(put, editable(m.entries[u.name].rec))
		}
		v := versionOf(&put[i], u.number)
		load.remove(v)
		v.Loaded, put[i].Updated = false, m.now()
		m.entries[u.name].used[u.number].of(v)
		evicted = append(evicted, m.label(u))
	}
	return put, evicted, m.fits(load)
}

// fits tells what of a load is too much. mu is held.
func (m *Manager) fits(l load) error {
	if m.o.MaxLoaded > 0 && l.count > m.o.MaxLoaded {
		return fmt.Errorf("%w: %d, and the others are pinned or in use by this request", ErrCapacity, m.o.MaxLoaded)
	}
	if m.base != nil && m.base.MaxLoadedBytes > 0 && l.bytes > m.base.MaxLoadedBytes {
		return fmt.Errorf("%w: %d bytes, %d are wanted, and the others are pinned or in use by this request", ErrHostMemory, m.base.MaxLoadedBytes, l.bytes)
	}
	return nil
}

// load counts what is loaded: versions, and the bytes of each content once.
type load struct {
	count  int
	bytes  int64
	sharer map[string]int // versions by digest
}

func newLoad() load { return load{sharer: map[string]int{}} }

func (l *load) add(v *store.Version) {
	l.count++
	if l.sharer[v.Digest]++; l.sharer[v.Digest] == 1 {
		l.bytes += v.SizeBytes
	}
}

func (l *load) remove(v *store.Version) {
	l.count--
	if l.sharer[v.Digest]--; l.sharer[v.Digest] == 0 {
		l.bytes -= v.SizeBytes
	}
}
