package adaptermgr

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"chorale/adaptermgr/store"
)

// change is what one transaction does.
type change struct {
	put []store.Record
	del []string
	// why is the reason of the transitions that it brings.
	why string
	// done is the request that asked for it, nil for none or one without an id.
	done *store.Request
}

// commit runs one change: plan, with the entries as they are, tells what to
// write; after the transaction apply changes the memory. Blobs that nobody
// references any more go last.
func (m *Manager) commit(plan func() (change, error), apply func()) error {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	return m.commitLocked(plan, apply)
}

func (m *Manager) commitLocked(plan func() (change, error), apply func()) error {
	m.mu.Lock()
	c, err := plan()
	shown := make([]map[uint64]State, len(c.put))
	if err == nil {
		for i := range c.put {
			shown[i] = m.recordTransitions(&c.put[i], c.why)
		}
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	var written []store.Record
	revision, err := m.o.Registry.Update(func(tx store.Tx) (err error) {
		written, err = write(tx, c, m.now())
		return err
	})
	if err != nil {
		m.tidyFailed(c.put)
		return classify(err)
	}
	m.mu.Lock()
	old := m.take(written, c.del)
	if m.revision != revision {
		m.revision, m.minor = revision, 0
	}
	if apply != nil {
		apply()
	}
	for i := range written {
		e := m.entries[written[i].Name]
		e.shown = shown[i]
		m.observe(e, c.why) // workers may have changed meanwhile
	}
	m.notify()
	m.mu.Unlock()
	m.tidy(old)
	return nil
}

// take brings a written change into the memory. It returns the blobs that the
// records before it referenced. mu is held.
func (m *Manager) take(put []store.Record, del []string) (old []string) {
	m.desired = nil
	for _, r := range put {
		m.lookAgain(digestsOf(&r)...)
		e := m.entries[r.Name]
		if e == nil {
			e = newEntry(r)
			m.entries[r.Name], m.sorted = e, nil
		}
		m.lookAgain(digestsOf(&e.rec)...)
		e.seen = false
		old = append(old, blobsOf(e.rec)...)
		e.rec = r
		for _, v := range r.Versions {
			if v.Turn > e.used[v.Number].turn {
				e.used[v.Number] = use{v.LastUsed, v.Turn}
			}
		}
	}
	for _, name := range del {
		m.removed(name)
		if e := m.entries[name]; e != nil {
			m.lookAgain(digestsOf(&e.rec)...)
			old = append(old, blobsOf(e.rec)...)
		}
		delete(m.entries, name)
		m.sorted = nil
	}
	return old
}

// write is the transaction of a change. It returns the records as written: with
// the generation of this transaction where they ask for one by 0, and never
// with a version number that the name had before.
func write(tx store.Tx, c change, now time.Time) ([]store.Record, error) {
	out := slices.Clone(c.put)
	for i := range out {
		r := &out[i]
		if r.Generation == 0 {
			r.Generation = tx.Revision() + 1
		}
		last, err := tx.LastNumber(r.Name)
		if err != nil {
			return nil, err
		}
		r.LastNumber = max(r.LastNumber, last)
		if err := tx.Put(*r); err != nil {
			return nil, err
		}
	}
	for _, name := range c.del {
		if err := tx.Delete(name); err != nil {
			return nil, err
		}
	}
	if c.done == nil {
		return out, nil
	}
	done := *c.done
	done.At = now
	return out, tx.PutRequest(done)
}

func digestsOf(r *store.Record) []string {
	out := make([]string, len(r.Versions))
	for i := range r.Versions {
		out[i] = r.Versions[i].Digest
	}
	return out
}

func blobsOf(r store.Record) []string {
	var out []string
	for _, v := range r.Versions {
		out = append(out, v.ConfigBlob, v.WeightsBlob)
	}
	return out
}

// tidy removes those of the blobs that nobody needs. What cannot be removed
// stays until the next start. commitMu is held.
func (m *Manager) tidy(blobs []string) {
	if len(blobs) == 0 {
		return
	}
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
	var blobs []string
	for _, r := range put {
		blobs = append(blobs, blobsOf(r)...)
	}
	_ = m.tidyUnregistered(blobs) // a registry that cannot be read keeps them
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
		for _, d := range blobsOf(e.rec) {
			needed[d] = true
		}
	}
	for _, s := range m.staged {
		needed[s.ConfigBlob], needed[s.WeightsBlob] = true, true
	}
	return needed
}

// wanted returns the digests that the workers should hold. It is not to be
// changed. mu is held.
func (m *Manager) wanted() map[string]content {
	if m.desired != nil {
		return m.desired
	}
	w := map[string]content{}
	add := func(v *store.Version, pinned bool) {
		w[v.Digest] = content{v.ConfigBlob, v.WeightsBlob, v.SizeBytes, pinned || w[v.Digest].pinned}
	}
	for _, s := range m.staged {
		add(&s.Version, s.pinned)
	}
	for _, e := range m.entries {
		if e.rec.State != store.StateLive {
			continue
		}
		for i := range e.rec.Versions {
			if v := &e.rec.Versions[i]; v.Loaded && m.faults[v.Digest] == nil {
				add(v, e.rec.Pinned && v.Number == e.rec.Current)
			}
		}
	}
	m.desired = w
	m.wants++
	return w
}

// forced returns the digests whose sequences are to be aborted. mu is held.
func (m *Manager) forced() map[string]bool {
	f := map[string]bool{}
	for d := range m.forcing {
		if m.heldAnywhere(d) {
			f[d] = true
		} else {
			delete(m.forcing, d)
		}
	}
	for _, e := range m.entries {
		if e.rec.State == store.StateDraining && e.rec.Force {
			for _, v := range e.rec.Versions {
				f[v.Digest] = true
			}
		}
	}
	return f
}

// setFault takes a digest whose files are bad off the workers.
func (m *Manager) setFault(digest string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults[digest], m.desired = err, nil
	m.observeDigest(digest, err.Error())
	m.notify()
}
