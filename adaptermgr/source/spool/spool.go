// Package spool keeps files on their way in: downloads, which survive a
// restart half-done, and uploads, which do not.
//
//	DIR/fetch/<key>/NAME       what has come of a file, complete or not
//	DIR/fetch/<key>/NAME.stamp what its server said of it (the stamp)
//	DIR/upload/<id>/NAME
//
// One Slot stands for one source. Who holds it alone changes its files; they
// are never changed in place but replaced, so that a reader of an earlier
// state keeps what it opened. A slot's folder goes when its last holder says
// that nothing in it is of use any more. Leftovers of failed downloads stay for
// KeepFor, so that the next attempt continues them, and go sooner when the
// budget runs short.
package spool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Budget bounds the bytes on disk; a *blob.Quota does.
type Budget interface {
	Take(n int64) error
	Count(n int64)
	Give(n int64)
}

// DefaultKeepFor is how long a half-done download waits to be continued.
const DefaultKeepFor = 24 * time.Hour

// Options configure a Spool. Dir is required.
type Options struct {
	Dir string
	// Budget counts every file; nil counts nothing.
	Budget Budget
	// KeepFor, 0: DefaultKeepFor.
	KeepFor time.Duration
}

// Spool is a folder of files on their way. It is safe for concurrent use.
type Spool struct {
	dir    string
	budget Budget
	keep   time.Duration

	mu    sync.Mutex
	slots map[string]*slot // held or waited for
	swept time.Time
}

type unbounded struct{}

func (unbounded) Take(int64) error { return nil }
func (unbounded) Count(int64)      {}
func (unbounded) Give(int64)       {}

// Open returns the spool in o.Dir. It removes uploads that a crash cut off and
// downloads that are too old, and counts the rest. One process at a time owns
// the folder.
func Open(o Options) (*Spool, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Spool{dir: dir, budget: o.Budget, keep: o.KeepFor, slots: map[string]*slot{}}
	if s.budget == nil {
		s.budget = unbounded{}
	}
	if s.keep <= 0 {
		s.keep = DefaultKeepFor
	}
	if err := os.RemoveAll(filepath.Join(dir, uploads)); err != nil {
		return nil, err
	}
	for _, d := range []string{fetches, uploads} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	old, err := s.leftovers()
	if err != nil {
		return nil, err
	}
	for _, l := range old {
		s.budget.Count(l.size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(old, 0)
	return s, nil
}

const (
	fetches = "fetch"
	uploads = "upload"
)

// leftover is a download that nobody holds.
type leftover struct {
	key  string
	used time.Time
	size int64
}

// leftovers lists the folders of downloads, the oldest first.
func (s *Spool) leftovers() ([]leftover, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, fetches))
	if err != nil {
		return nil, err
	}
	var list []leftover
	for _, e := range entries {
		size, used := contents(filepath.Join(s.dir, fetches, e.Name()))
		list = append(list, leftover{e.Name(), used, size})
	}
	slices.SortFunc(list, func(a, b leftover) int { return a.used.Compare(b.used) })
	return list, nil
}

// contents adds up the files below dir and tells when the last one changed.
// Stamps are small and do not count.
func contents(dir string) (size int64, used time.Time) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		st, err := e.Info()
		if err != nil {
			return nil
		}
		if st.Mode().IsRegular() && filepath.Ext(path) != stampExt {
			size += st.Size()
		}
		if st.ModTime().After(used) {
			used = st.ModTime()
		}
		return nil
	})
	return size, used
}

// sweep removes downloads that nobody holds: those that are too old, and then
// the oldest until need bytes are free. mu is held.
func (s *Spool) sweep(list []leftover, need int64) {
	s.swept = time.Now()
	for _, l := range list {
		if s.slots[l.key] != nil || time.Since(l.used) < s.keep && need <= 0 {
			continue
		}
		if os.RemoveAll(filepath.Join(s.dir, fetches, l.key)) == nil {
			s.budget.Give(l.size)
			need -= l.size
		}
	}
}

// Relieve gives up half-done downloads that nobody works on, need bytes if
// there are so many: more of a disk's quota is asked for than is left.
func (s *Spool) Relieve(need int64) {
	list, err := s.leftovers()
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(list, need)
}

// sweepEvery is how often old downloads are looked for while others come.
const sweepEvery = time.Hour

func (s *Spool) sweepNowAndThen() {
	s.mu.Lock()
	due := time.Since(s.swept) >= sweepEvery
	s.mu.Unlock()
	if due {
		s.Relieve(0)
	}
}

// slot is shared by those who want one source at a time.
type slot struct {
	refs int
	held chan struct{}
}

// Slot is one source's folder. Its holder calls Unlock when the files are
// complete and open, and Release in the end.
type Slot struct {
	s      *Spool
	key    string
	dir    string
	shared *slot

	mu       sync.Mutex
	locked   bool
	released bool
}

// Acquire waits until the caller alone may change the slot of key, which may
// be any string.
func (s *Spool) Acquire(ctx context.Context, key string) (*Slot, error) {
	s.sweepNowAndThen()
	sum := sha256.Sum256([]byte(key))
	name := hex.EncodeToString(sum[:16])
	s.mu.Lock()
	sh := s.slots[name]
	if sh == nil {
		sh = &slot{held: make(chan struct{}, 1)}
		s.slots[name] = sh
	}
	sh.refs++
	s.mu.Unlock()
	sl := &Slot{s: s, key: name, dir: filepath.Join(s.dir, fetches, name), shared: sh}
	select {
	case sh.held <- struct{}{}:
		sl.locked = true
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), sl.Release(true))
	}
	if err := os.MkdirAll(sl.dir, 0o700); err != nil {
		return nil, errors.Join(err, sl.Release(true))
	}
	return sl, nil
}

// Unlock lets the next one change the slot; what is open stays as it is.
func (sl *Slot) Unlock() {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.locked {
		sl.locked = false
		<-sl.shared.held
	}
}

// Release ends the holder's use. With keep false the folder goes, unless
// others hold it or wait for it.
func (sl *Slot) Release(keep bool) error {
	sl.Unlock()
	sl.mu.Lock()
	done := sl.released
	sl.released = true
	sl.mu.Unlock()
	if done {
		return nil
	}
	s := sl.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if sl.shared.refs--; sl.shared.refs > 0 {
		return nil
	}
	delete(s.slots, sl.key)
	if keep {
		return nil
	}
	size, _ := contents(sl.dir)
	if err := os.RemoveAll(sl.dir); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.budget.Give(size)
	return nil
}

// Take moves a file out of the slot to path, unless others use the slot. Its
// bytes stay taken from the budget, as the new owner's.
func (sl *Slot) Take(name, path string) error {
	s := sl.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if sl.shared.refs > 1 {
		return errShared
	}
	return os.Rename(filepath.Join(sl.dir, name), path)
}

var errShared = errors.New("spool: others use the file")
