package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Stamp is what a server said of a file. Two answers with the same non-empty
// stamp are about the same contents.
type Stamp struct {
	// ETag is a strong validator, as the server wrote it; empty: none.
	ETag string `json:"etag,omitempty"`
	// Modified is the Last-Modified of a server without ETags.
	Modified string `json:"modified,omitempty"`
	// Size in bytes, negative while unknown.
	Size int64 `json:"size"`
	// SHA256 that the server promises, hexadecimal; empty: none.
	SHA256 string `json:"sha256,omitempty"`
	// Complete: all Size bytes are there.
	Complete bool `json:"complete,omitempty"`
	// Synced bytes outlast also a loss of power.
	Synced int64 `json:"synced,omitempty"`
}

// Validates tells whether the stamp can tell contents apart.
func (s Stamp) Validates() bool { return s.ETag != "" || s.Modified != "" }

// Same tells whether two stamps are of the same contents.
func (s Stamp) Same(o Stamp) bool {
	if s.ETag != "" || o.ETag != "" {
		return s.ETag == o.ETag
	}
	return s.Modified != "" && s.Modified == o.Modified
}

const (
	stampExt = ".stamp"
	// syncEvery is how many bytes a crash may cost.
	syncEvery = 16 << 20
)

// Part is a file that grows. Only its slot's holder uses it, one goroutine at
// a time.
type Part struct {
	// Stamp is what the bytes so far belong to.
	Stamp Stamp
	// Leftover is true while the bytes are those of an earlier run.
	Leftover bool

	sl   *Slot
	name string
	f    *os.File
	size int64
}

// Part opens a file of the slot, with what earlier runs left of it. Leftovers
// without a stamp are worth nothing and go.
func (sl *Slot) Part(name string) (*Part, error) {
	p := &Part{sl: sl, name: name, Stamp: Stamp{Size: -1}}
	stamp, err := os.ReadFile(sl.path(name + stampExt))
	if err == nil && json.Unmarshal(stamp, &p.Stamp) == nil && p.Stamp.Validates() {
		if err := p.open(os.O_RDWR); err == nil {
			return p, p.resume()
		}
	}
	return p, p.Restart()
}

// resume takes over what an earlier run left, as far as it is surely there.
func (p *Part) resume() error {
	have, err := p.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if p.size = min(have, p.Stamp.Synced); p.size == 0 {
		return p.Restart()
	}
	p.Leftover = true
	if p.size < have {
		if err := p.f.Truncate(p.size); err != nil {
			return err
		}
		p.sl.s.budget.Give(have - p.size)
	}
	p.Stamp.Complete = p.Stamp.Complete && p.size == p.Stamp.Size
	_, err = p.f.Seek(p.size, io.SeekStart)
	return err
}

// path returns where a name lies.
func (sl *Slot) path(name string) string { return filepath.Join(sl.dir, name) }

func (p *Part) path() string { return p.sl.path(p.name) }

func (p *Part) open(flag int) (err error) {
	p.f, err = os.OpenFile(p.path(), flag, 0o600)
	return err
}

// Size returns the bytes that are there.
func (p *Part) Size() int64 { return p.size }

// Restart forgets the bytes and the stamp. The file is a new one: who has the
// old one open keeps it.
func (p *Part) Restart() error {
	if p.f != nil {
		if err := p.f.Close(); err != nil {
			return err
		}
	}
	if err := p.sl.Remove(p.name); err != nil {
		return err
	}
	p.size, p.Leftover, p.Stamp = 0, false, Stamp{Size: -1}
	return p.open(os.O_RDWR | os.O_CREATE | os.O_EXCL)
}

// SetStamp notes what the bytes belong to, before the first of them.
func (p *Part) SetStamp(s Stamp) error {
	p.Stamp = s
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp := p.path() + ".tmp" + stampExt
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, p.path()+stampExt)
}

// Write appends b, within the budget.
func (p *Part) Write(b []byte) (int, error) {
	if err := p.sl.s.budget.Take(int64(len(b))); err != nil {
		return 0, err
	}
	n, err := p.f.Write(b)
	p.sl.s.budget.Give(int64(len(b) - n))
	p.size += int64(n)
	if err == nil && p.Stamp.Validates() && p.size-p.Stamp.Synced >= syncEvery {
		err = p.sync(p.Stamp)
	}
	return n, err
}

// sync makes the bytes so far last and notes them under s.
func (p *Part) sync(s Stamp) error {
	if err := p.f.Sync(); err != nil {
		return err
	}
	s.Synced = p.size
	return p.SetStamp(s)
}

// Complete notes that the file is whole.
func (p *Part) Complete() error {
	if p.Stamp.Complete {
		return nil
	}
	s := p.Stamp
	s.Size, s.Complete = p.size, true
	return p.sync(s)
}

// Reader reads the bytes from the start.
func (p *Part) Reader() io.ReaderAt { return p.f }

// Close closes the file, which stays.
func (p *Part) Close() error {
	var err error
	if p.Stamp.Validates() && p.Stamp.Synced < p.size {
		err = p.sync(p.Stamp)
	}
	return errors.Join(err, p.f.Close())
}

// Create makes a file of the slot anew, for contents that come from its others.
func (sl *Slot) Create(name string) (*Part, error) {
	p := &Part{sl: sl, name: name}
	return p, p.Restart()
}

// Open opens one of the slot's files for reading.
func (sl *Slot) Open(name string) (*os.File, error) { return os.Open(sl.path(name)) }

// Remove removes a file and its stamp, if they are there.
func (sl *Slot) Remove(name string) error {
	st, err := os.Stat(sl.path(name))
	if err == nil {
		if err = os.Remove(sl.path(name)); err == nil {
			sl.s.budget.Give(st.Size())
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(sl.path(name + stampExt)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Begin makes a slot for an upload called id, which is a file name that nobody
// has used. Release(false) removes it.
func (s *Spool) Begin(id string) (*Slot, error) {
	if !filepath.IsLocal(id) || filepath.Base(id) != id {
		return nil, fmt.Errorf("spool: upload %q", id)
	}
	dir := filepath.Join(s.dir, uploads, id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return &Slot{s: s, key: uploads + "/" + id, dir: dir, shared: &slot{refs: 1, held: make(chan struct{}, 1)}}, nil
}
