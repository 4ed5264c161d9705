// Package storetest is the suite that every store.Store must pass.
package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"chorale/adaptermgr/store"
)

// Run checks a store. open opens the registry in dir, which persists between
// calls with the same dir.
func Run(t *testing.T, open func(dir string) (store.Store, error)) {
	for name, f := range map[string]func(*testing.T, func(string) (store.Store, error)){
		"RoundTrip":    roundTrip,
		"Revisions":    revisions,
		"Rollback":     rollback,
		"Concurrent":   concurrent,
		"AgainstModel": againstModel,
		"ClosedStore":  closedStore,
		"LastNumbers":  lastNumbers,
		"Requests":     requests,
	} {
		t.Run(name, func(t *testing.T) { f(t, open) })
	}
}

func mustOpen(t *testing.T, open func(string) (store.Store, error), dir string) store.Store {
	t.Helper()
	s, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(records ...store.Record) func(store.Tx) error {
	return func(tx store.Tx) error {
		for _, r := range records {
			if err := tx.Put(r); err != nil {
				return err
			}
		}
		return nil
	}
}

// Sample returns a record with every field set.
func Sample(name string) store.Record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	return store.Record{
		Schema: store.Schema, Name: name, State: store.StateLive, Message: "m", Owner: "team", Source: "first", Pinned: true,
		Labels: map[string]string{"team": "ü"}, Current: 1 << 62, Line: []uint64{1}, LastNumber: 1 << 63, Generation: 7,
		Force: true, DrainTimeout: time.Minute, History: []store.Transition{{At: at, State: "READY", Version: 1, Reason: "r"}},
		Created: at, Updated: at.Add(time.Hour),
		Versions: []store.Version{{
			Number: 1 << 62, Loaded: true, Weight: 10, Digest: "sha256:ab", ConfigBlob: "c", WeightsBlob: "w", Source: " as/given ",
			Labels: map[string]string{"run": "7"}, MaxRank: 64, Ranks: []int{8, 64}, SumRanks: 99,
			TargetModules: []string{"k_proj", "q_proj"}, SizeBytes: 1 << 40, BaseModel: "base",
			Created: at, LastUsed: at.Add(2 * time.Hour),
		}},
	}
}

func roundTrip(t *testing.T, open func(string) (store.Store, error)) {
	dir := t.TempDir()
	s := mustOpen(t, open, dir)
	names := []string{"a", "a/b:c.d", "ünïcode", "z", "with space"}
	for _, n := range names {
		if _, err := s.Update(put(Sample(n))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Update(put(store.Record{})); err == nil {
		t.Error("a record without name was accepted")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, open, dir)
	slices.Sort(names)
	err := s.View(func(tx store.Tx) error {
		list, err := tx.List()
		if err != nil {
			return err
		}
		var want []store.Record
		for _, n := range names {
			want = append(want, Sample(n))
			got, ok, err := tx.Get(n)
			if d := cmp.Diff(Sample(n), got); d != "" || !ok || err != nil {
				t.Errorf("%s: %s %v %v", n, d, ok, err)
			}
		}
		if d := cmp.Diff(want, list); d != "" {
			t.Error(d)
		}
		_, ok, err := tx.Get("none")
		if ok || err != nil {
			t.Errorf("a name that is not there: %v, %v", ok, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func revisions(t *testing.T, open func(string) (store.Store, error)) {
	dir := t.TempDir()
	s := mustOpen(t, open, dir)
	steps := []struct {
		fn   func(store.Tx) error
		want uint64
	}{
		{put(), 0},
		{put(Sample("a"), Sample("b")), 1},
		{func(tx store.Tx) error { return tx.Delete("none") }, 1},
		{func(tx store.Tx) error { return tx.Delete("a") }, 2},
		{func(tx store.Tx) error { return tx.Delete("a") }, 2},
		{put(Sample("b")), 3},
		{func(tx store.Tx) error { tx.Bump(); return nil }, 4},
	}
	for i, st := range steps {
		if got, err := s.Update(st.fn); got != st.want || err != nil {
			t.Errorf("step %d: revision %d, %v, want %d", i, got, err, st.want)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, open, dir)
	if err := s.View(func(tx store.Tx) error {
		if tx.Revision() != 4 {
			t.Errorf("after reopening: %d", tx.Revision())
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func rollback(t *testing.T, open func(string) (store.Store, error)) {
	s := mustOpen(t, open, t.TempDir())
	boom := errors.New("boom")
	_, err := s.Update(func(tx store.Tx) error {
		return errors.Join(tx.Put(Sample("a")), boom)
	})
	if !errors.Is(err, boom) {
		t.Errorf("err = %v", err)
	}
	if err := s.View(func(tx store.Tx) error {
		if l, err := tx.List(); len(l) != 0 || err != nil || tx.Revision() != 0 {
			t.Errorf("left behind: %v, %v, revision %d", l, err, tx.Revision())
		}
		return boom
	}); !errors.Is(err, boom) {
		t.Errorf("View's error: %v", err)
	}
}

func concurrent(t *testing.T, open func(string) (store.Store, error)) {
	s := mustOpen(t, open, t.TempDir())
	var wg sync.WaitGroup
	const writers, writes = 4, 10
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				if _, err := s.Update(func(tx store.Tx) error {
					r, _, err := tx.Get("counter")
					r.Name, r.Generation = "counter", r.Generation+1
					return errors.Join(err, tx.Put(r), tx.Put(Sample(fmt.Sprint(w, i))))
				}); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range writes {
				if err := s.View(func(tx store.Tx) error {
					list, err := tx.List()
					if n := uint64(max(0, len(list)-1)); n != tx.Revision() {
						t.Errorf("revision %d with %d records", tx.Revision(), len(list))
					}
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := s.View(func(tx store.Tx) error {
		r, _, err := tx.Get("counter")
		if r.Generation != writers*writes {
			t.Errorf("counter = %d", r.Generation)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func againstModel(t *testing.T, open func(string) (store.Store, error)) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		s, err := open(dir)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		model, names := map[string]store.Record{}, rapid.SampledFrom([]string{"a", "b", "c/d"})
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			next := maps.Clone(model)
			fail := rapid.IntRange(0, 4).Draw(rt, "fail") == 0
			boom := errors.New("boom")
			_, err := s.Update(func(tx store.Tx) error {
				for range rapid.IntRange(0, 3).Draw(rt, "ops") {
					name := names.Draw(rt, "name")
					if rapid.Bool().Draw(rt, "delete") {
						delete(next, name)
						if err := tx.Delete(name); err != nil {
							return err
						}
						continue
					}
					r := store.Record{Schema: store.Schema, Name: name, Generation: rapid.Uint64().Draw(rt, "generation")}
					next[name] = r
					if err := tx.Put(r); err != nil {
						return err
					}
				}
				if fail {
					return boom
				}
				return nil
			})
			if fail != errors.Is(err, boom) || (!fail && err != nil) {
				rt.Fatal(err)
			}
			if !fail {
				model = next
			}
			if rapid.IntRange(0, 5).Draw(rt, "reopen") == 0 {
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				if s, err = open(dir); err != nil {
					rt.Fatal(err)
				}
			}
			compare(rt, s, model)
		}
	})
}

func compare(rt *rapid.T, s store.Store, model map[string]store.Record) {
	err := s.View(func(tx store.Tx) error {
		list, err := tx.List()
		got := map[string]store.Record{}
		for _, r := range list {
			got[r.Name] = r
		}
		if d := cmp.Diff(model, got); d != "" {
			rt.Fatal(d)
		}
		return err
	})
	if err != nil {
		rt.Fatal(err)
	}
}

func closedStore(t *testing.T, open func(string) (store.Store, error)) {
	s := mustOpen(t, open, t.TempDir())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(put(Sample("a"))); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Update: %v", err)
	}
	if err := s.View(func(store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("View: %v", err)
	}
}

// lastNumbers: version numbers outlive their names.
func lastNumbers(t *testing.T, open func(string) (store.Store, error)) {
	dir := t.TempDir()
	s := mustOpen(t, open, dir)
	want := func(name string, n uint64) {
		t.Helper()
		if err := s.View(func(tx store.Tx) error {
			got, err := tx.LastNumber(name)
			if got != n {
				t.Errorf("%q: %d, want %d", name, got, n)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	want("a", 0)
	want("", 0)
	if _, err := s.Update(put(store.Record{Name: "a", LastNumber: 3}, store.Record{Name: "b"})); err != nil {
		t.Fatal(err)
	}
	want("a", 3)
	if _, err := s.Update(func(tx store.Tx) error { return errors.Join(tx.Delete("a"), tx.Delete("b")) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, open, dir)
	want("a", 3)
	want("b", 0)
}

// requests: what has an id is remembered, over a restart, up to MaxRequests.
func requests(t *testing.T, open func(string) (store.Store, error)) {
	dir := t.TempDir()
	s := mustOpen(t, open, dir)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := store.Request{ID: "r 1", Fingerprint: "f", Name: "a", Removed: true, At: at}
	if _, err := s.Update(func(tx store.Tx) error { return tx.PutRequest(r) }); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []store.Request{r, {}} {
		if _, err := s.Update(func(tx store.Tx) error { return tx.PutRequest(bad) }); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, open, dir)
	get := func(id string) (got store.Request, ok bool) {
		t.Helper()
		err := s.View(func(tx store.Tx) (err error) {
			got, ok, err = tx.Request(id)
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return got, ok
	}
	if got, ok := get("r 1"); !ok || got != r {
		t.Errorf("%+v, %v", got, ok)
	}
	if _, err := s.Update(func(tx store.Tx) error {
		for i := range store.MaxRequests {
			if err := tx.PutRequest(store.Request{ID: fmt.Sprint(i)}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, ok := get("r 1"); ok {
		t.Error("the oldest is still there")
	}
	if _, ok := get("0"); !ok {
		t.Error("the second oldest is not there")
	}
}
