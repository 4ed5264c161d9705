package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

const copyBuffer = 1 << 20

// Movable is a reader of a whole file that nobody else needs: Stage takes the
// file itself where it can, which saves its bytes on disk a second time.
type Movable interface {
	io.Reader
	// MoveTo renames the file to path, or fails and changes nothing. Its bytes
	// then count as the caller's: they are in the same quota, if in any.
	MoveTo(path string) error
}

// Stage reads r to its end, at most limit bytes, into a temporary file. On an
// error nothing is left behind.
func (s *Store) Stage(ctx context.Context, r io.Reader, limit int64) (*Staged, error) {
	path := s.path(tmpDir, fmt.Sprintf("%d.part", s.next.Add(1)))
	if m, ok := r.(Movable); ok && m.MoveTo(path) == nil {
		return s.adopt(ctx, path, limit)
	}
	f, err := s.create(path)
	if err != nil {
		return nil, classify("stage", path, err)
	}
	h := sha256.New()
	w := &counted{f: f, quota: s.quota, path: path}
	_, err = copyTo(ctx, w, h, r, limit)
	if err == nil {
		err = classify("sync", path, f.Sync())
	}
	if cerr := f.Close(); err == nil {
		err = classify("close", path, cerr)
	}
	return s.staged(path, h, w.taken, err)
}

// adopt hashes and syncs a file that has been moved to path.
func (s *Store) adopt(ctx context.Context, path string, limit int64) (*Staged, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, classify("stage", path, err)
	}
	h, size := sha256.New(), int64(0)
	st, err := f.Stat()
	if err == nil {
		size = st.Size()
		_, err = copyTo(ctx, io.Discard, h, f, limit)
	}
	if err == nil {
		err = f.Sync()
	}
	return s.staged(path, h, size, errors.Join(classify("stage", path, err), f.Close()))
}

// staged wraps a complete file of size bytes, which count in the quota, or
// removes it when err is one.
func (s *Store) staged(path string, h hash.Hash, size int64, err error) (*Staged, error) {
	if err != nil {
		s.quota.Give(size)
		return nil, errors.Join(err, ignoreNotExist(os.Remove(path)))
	}
	return &Staged{s: s, path: path, digest: hex.EncodeToString(h.Sum(nil)), size: size}, nil
}

// counted writes within a quota.
type counted struct {
	f     io.Writer
	quota *Quota
	path  string
	taken int64
}

// Write writes b if the quota has room for it.
func (c *counted) Write(b []byte) (int, error) {
	if err := c.quota.Take(int64(len(b))); err != nil {
		return 0, err
	}
	c.taken += int64(len(b))
	n, err := c.f.Write(b)
	return n, classify("write", c.path, err)
}

// copyTo copies r into f and h. Errors of r and f are returned as they are.
func copyTo(ctx context.Context, f, h io.Writer, r io.Reader, limit int64) (int64, error) {
	buf := make([]byte, copyBuffer)
	total := int64(0)
	for {
		if ctx.Err() != nil {
			return total, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if total += int64(n); total > limit {
			return total, fmt.Errorf("blob: %w: more than %d bytes", ErrTooLarge, limit)
		}
		if _, werr := f.Write(buf[:n]); werr != nil {
			return total, werr
		}
		_, _ = h.Write(buf[:n]) // a hash never fails
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
	}
}
