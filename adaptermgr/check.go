package adaptermgr

import (
	"errors"
	"fmt"
	"slices"

	"chorale/adaptermgr/store"
)

// Check compares registry, memory and blobs and returns what does not hold
// together; nil when all does. It waits for changes in progress to finish.
func (m *Manager) Check() error {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	var records []store.Record
	var revision uint64
	err := m.o.Registry.View(func(tx store.Tx) error {
		var err error
		revision = tx.Revision()
		records, err = tx.List()
		return err
	})
	if err != nil {
		return err
	}
	blobs, err := m.o.Blobs.List()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	errs := []error{m.checkRecords(records), m.checkBlobs(records, blobs)}
	if revision != m.revision {
		errs = append(errs, fmt.Errorf("registry at revision %d, memory at %d", revision, m.revision))
	}
	return errors.Join(errs...)
}

// checkRecords compares the registry with the entries. mu is held.
func (m *Manager) checkRecords(records []store.Record) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(records) != len(m.entries) {
		fail("%d records, %d entries", len(records), len(m.entries))
	}
	loaded := 0
	for i := range records {
		r := &records[i]
		e := m.entries[r.Name]
		switch {
		case e == nil:
			fail("record %q has no entry", r.Name)
		case e.rec.State != r.State || e.rec.Current != r.Current || e.rec.Pinned != r.Pinned || e.rec.Generation != r.Generation ||
			!slices.EqualFunc(e.rec.Versions, r.Versions, sameVersion):
			fail("record %q is %+v, the entry %+v", r.Name, *r, e.rec)
		}
		if err := checkRecord(r); err != nil {
			fail("record %q: %w", r.Name, err)
		}
		for _, v := range r.Versions {
			if r.State == store.StateLive && v.Loaded {
				loaded++
			}
		}
	}
	if m.o.MaxLoaded > 0 && loaded > m.o.MaxLoaded {
		fail("%d versions loaded, at most %d may be", loaded, m.o.MaxLoaded)
	}
	return errors.Join(errs...)
}

func sameVersion(a, b store.Version) bool {
	return a.Number == b.Number && a.Digest == b.Digest && a.Loaded == b.Loaded && a.Weight == b.Weight
}

// checkRecord tells what of a record contradicts itself.
func checkRecord(r *store.Record) error {
	var last uint64
	for _, v := range r.Versions {
		switch {
		case v.Number <= last || v.Number > r.LastNumber:
			return fmt.Errorf("version %d after %d, the last is %d", v.Number, last, r.LastNumber)
		case v.Digest == "" || v.ConfigBlob == "" || v.WeightsBlob == "":
			return fmt.Errorf("version %d has no content", v.Number)
		case v.Weight < 0 || v.Weight > 0 && v.Number == r.Current:
			return fmt.Errorf("version %d has weight %d", v.Number, v.Weight)
		}
		last = v.Number
	}
	for _, n := range r.Line {
		if n == r.Current || versionOf(r, n) == nil {
			return fmt.Errorf("version %d would be rolled back to", n)
		}
	}
	switch current := versionOf(r, r.Current); {
	case r.State == store.StateLive && current == nil:
		return fmt.Errorf("version %d answers, and is not there", r.Current)
	case weights(r) > 100:
		return fmt.Errorf("the weights are %d %%", weights(r))
	}
	return nil
}

// checkBlobs compares the registry with the stored files. mu is held.
func (m *Manager) checkBlobs(records []store.Record, blobs []string) error {
	var errs []error
	referenced := map[string]bool{}
	for _, r := range records {
		for _, v := range r.Versions {
			for _, b := range []string{v.ConfigBlob, v.WeightsBlob} {
				referenced[b] = true
				if !m.o.Blobs.Has(b) && m.faults[v.Digest] == nil {
					errs = append(errs, fmt.Errorf("record %q: blob %s is missing", r.Name, b))
				}
			}
		}
	}
	for _, s := range m.staged {
		referenced[s.ConfigBlob], referenced[s.WeightsBlob] = true, true
	}
	for _, b := range blobs {
		if !referenced[b] {
			errs = append(errs, fmt.Errorf("blob %s belongs to nobody", b))
		}
	}
	return errors.Join(errs...)
}
