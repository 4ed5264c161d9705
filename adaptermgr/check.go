package adaptermgr

import (
	"errors"
	"fmt"

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
	for _, r := range records {
		e := m.entries[r.Name]
		switch {
		case e == nil:
			fail("record %q has no entry", r.Name)
		case e.rec.State != r.State || e.rec.Digest != r.Digest || e.rec.Version != r.Version || e.rec.Pinned != r.Pinned:
			fail("record %q is %s %s, the entry %s %s", r.Name, r.State, r.Digest, e.rec.State, e.rec.Digest)
		case r.Digest == "" && r.State != store.StateFetching && r.State != store.StateFailed:
			fail("record %q is %s without content", r.Name, r.State)
		}
		if r.State == store.StateLoaded {
			loaded++
		}
	}
	if m.o.MaxLoaded > 0 && loaded > m.o.MaxLoaded {
		fail("%d names loaded, at most %d may be", loaded, m.o.MaxLoaded)
	}
	return errors.Join(errs...)
}

// checkBlobs compares the registry with the stored files. mu is held.
func (m *Manager) checkBlobs(records []store.Record, blobs []string) error {
	var errs []error
	referenced := map[string]bool{}
	for _, r := range records {
		if r.Digest == "" {
			continue
		}
		e := m.entries[r.Name]
		for _, b := range []string{r.ConfigBlob, r.WeightsBlob} {
			referenced[b] = true
			if !m.o.Blobs.Has(b) && (e == nil || e.fault == nil) {
				errs = append(errs, fmt.Errorf("record %q: blob %s is missing", r.Name, b))
			}
		}
	}
	for _, r := range m.staged {
		referenced[r.ConfigBlob], referenced[r.WeightsBlob] = true, true
	}
	for _, b := range blobs {
		if !referenced[b] {
			errs = append(errs, fmt.Errorf("blob %s belongs to nobody", b))
		}
	}
	return errors.Join(errs...)
}
