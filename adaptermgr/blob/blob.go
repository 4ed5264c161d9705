package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
)

// Errors of this package. Every error names the path it is about.
var (
	// ErrNotFound marks a digest that is not stored.
	ErrNotFound = errors.New("blob not found")
	// ErrCorrupt marks a stored file whose bytes are not those of its name.
	ErrCorrupt = errors.New("blob is corrupt")
	// ErrDigest marks a string that is not 64 lower-case hexadecimal digits.
	ErrDigest = errors.New("not a blob digest")
	// ErrTooLarge marks contents beyond the caller's limit.
	ErrTooLarge = errors.New("too large")
	// ErrFull marks a full disk or an exhausted quota.
	ErrFull = errors.New("disk full")
	// ErrReadOnly marks a folder that cannot be written.
	ErrReadOnly = errors.New("storage is read-only")
)

const (
	tmpDir   = "tmp"
	filesDir = "sha256"
)

// file is what Stage writes to; a seam for the tests of full disks.
type file interface {
	io.Writer
	Sync() error
	Close() error
}

// Store is a folder of blobs. It is safe for concurrent use.
type Store struct {
	dir    string
	next   atomic.Uint64
	create func(path string) (file, error)
	quota  *Quota
}

// Open returns the store in dir, which it creates if needed, and removes what
// a crash left in tmp. It fails with ErrReadOnly where it cannot write.
func Open(dir string) (*Store, error) { return OpenWithin(dir, nil) }

// OpenWithin is Open with a quota, in which every stored and every temporary
// file counts. What is stored already counts even beyond the limit.
func OpenWithin(dir string, q *Quota) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	s := &Store{dir: dir, create: createFile, quota: q}
	if err := os.RemoveAll(s.path(tmpDir)); err != nil {
		return nil, classify("open", s.path(tmpDir), err)
	}
	for _, d := range []string{tmpDir, filesDir} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return nil, classify("open", s.path(d), err)
		}
	}
	if err := s.probe(); err != nil {
		return nil, err
	}
	return s, s.count()
}

// count puts what is stored into the quota.
func (s *Store) count() error {
	if s.quota == nil {
		return nil
	}
	list, err := s.List()
	if err != nil {
		return err
	}
	for _, d := range list {
		s.quota.Count(s.size(d))
	}
	return nil
}

// size returns a stored file's length, 0 when it is not there.
func (s *Store) size(digest string) int64 {
	path, err := s.Path(digest)
	if err != nil {
		return 0
	}
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

func createFile(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// probe writes a file, so that a read-only folder is found at start and not
// with the first adapter.
func (s *Store) probe() error {
	path := s.path(tmpDir, "probe")
	f, err := s.create(path)
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(path))
	}
	if err != nil {
		return classify("open", path, err)
	}
	return nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// Path returns where a digest's file lies or would lie.
func (s *Store) Path(digest string) (string, error) {
	if len(digest) != 2*sha256.Size || strings.Trim(digest, "0123456789abcdef") != "" {
		return "", fmt.Errorf("blob: %w: %q", ErrDigest, digest)
	}
	return s.path(filesDir, digest[:2], digest), nil
}

// Staged is a complete and synced file that has no name yet. Its owner ends it
// with Commit or Discard; both may be called again and then do nothing.
type Staged struct {
	s      *Store
	path   string
	digest string
	size   int64
	ended  bool
}

// Path returns where the contents lie until Commit.
func (g *Staged) Path() string { return g.path }

// Digest returns the SHA-256 of the contents, 64 hexadecimal digits.
func (g *Staged) Digest() string { return g.digest }

// Size returns the length of the contents in bytes.
func (g *Staged) Size() int64 { return g.size }

// Commit gives the file its name. When the digest is stored already the file
// replaces it, which heals a corrupt one.
func (g *Staged) Commit() error {
	if g.ended {
		return nil
	}
	path, err := g.s.Path(g.digest)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	_, err = os.Stat(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return classify("commit", dir, err)
	}
	if fresh { // the folder's own entry must last, too
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return classify("commit", dir, err)
		}
	}
	replaced := g.s.size(g.digest)
	if err := os.Rename(g.path, path); err != nil {
		return classify("commit", path, err)
	}
	g.ended = true
	g.s.quota.Give(replaced)
	return classify("commit", path, syncDir(dir))
}

// Discard removes the file.
func (g *Staged) Discard() error {
	if g.ended {
		return nil
	}
	g.ended = true
	g.s.quota.Give(g.size)
	return classify("discard", g.path, ignoreNotExist(os.Remove(g.path)))
}

// Open opens a stored file.
func (s *Store) Open(digest string) (*os.File, error) {
	path, err := s.Path(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, classify("open", path, err)
	}
	return f, nil
}

// OpenVerified opens a stored file after reading it once: its bytes are those
// of the digest, or the error is ErrCorrupt.
func (s *Store) OpenVerified(digest string) (*os.File, error) {
	f, err := s.Open(digest)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if got := hex.EncodeToString(h.Sum(nil)); err == nil && got != digest {
		err = fmt.Errorf("%w: its contents are %s", ErrCorrupt, got)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("blob: verify %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}

// Has tells whether a digest is stored.
func (s *Store) Has(digest string) bool {
	path, err := s.Path(digest)
	if err != nil {
		return false
	}
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// Remove removes a stored file; a digest that is not stored is no error.
func (s *Store) Remove(digest string) error {
	path, err := s.Path(digest)
	if err != nil {
		return err
	}
	size := s.size(digest)
	if err := ignoreNotExist(os.Remove(path)); err != nil {
		return classify("remove", path, err)
	}
	s.quota.Give(size)
	return nil
}

// List returns the stored digests in order.
func (s *Store) List() ([]string, error) {
	var digests []string
	err := filepath.WalkDir(s.path(filesDir), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if want, err := s.Path(e.Name()); err == nil && want == path {
			digests = append(digests, e.Name())
		}
		return nil
	})
	if err != nil {
		return nil, classify("list", s.path(filesDir), err)
	}
	slices.Sort(digests)
	return digests, nil
}

// classify adds path and this package's sentinel to an error of the system.
func classify(op, path string, err error) error {
	var kind error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		kind = ErrFull
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		kind = ErrReadOnly
	case errors.Is(err, fs.ErrNotExist):
		kind = ErrNotFound
	default:
		return fmt.Errorf("blob: %s %s: %w", op, path, err)
	}
	return fmt.Errorf("blob: %s %s: %w: %w", op, path, kind, err)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// syncDir makes a rename in dir durable, where the system can.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
