package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// opener opens one of an adapter's files.
type opener func(name string) (*os.File, error)

// inDir opens files in a trusted folder, wherever symlinks lead.
func inDir(dir string) opener {
	return func(name string) (*os.File, error) {
		return os.OpenFile(filepath.Join(dir, name), openFlags, 0)
	}
}

// openFlags keep a FIFO from blocking the open.
const openFlags = os.O_RDONLY | syscall.O_NONBLOCK

// local looks for an allowed folder. When there is none, why tells the
// operator the reason.
func (r *Resolver) local(source string) (open opener, done func(), why error) {
	why = errors.New("no adapter root is set")
	for _, path := range r.candidates(source) {
		real, err := realDir(path)
		if err != nil {
			why = err
			continue
		}
		for _, base := range r.roots {
			rel, err := filepath.Rel(base, real)
			if err != nil || !filepath.IsLocal(rel) {
				why = fmt.Errorf("%s is not below an adapter root", real)
				continue
			}
			root, err := os.OpenRoot(base)
			if err != nil {
				why = err
				continue
			}
			return func(name string) (*os.File, error) {
				return root.OpenFile(filepath.Join(rel, name), openFlags, 0)
			}, func() { root.Close() }, nil
		}
	}
	return nil, nil, why
}

func realDir(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(real)
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("%s is not a directory", real)
	}
	return real, err
}

// candidates are the paths that source may mean: as it stands, and below each
// root.
func (r *Resolver) candidates(source string) []string {
	if source == "" || strings.ContainsRune(source, 0) {
		return nil
	}
	paths := []string{source}
	if !filepath.IsAbs(source) {
		for _, root := range r.roots {
			paths = append(paths, filepath.Join(root, source))
		}
	}
	return paths
}

// read reads the small files and opens the weights.
func (r *Resolver) read(source string, open opener) (_ *Artifact, err error) {
	config, err := r.small(source, open, ConfigFile, maxConfig)
	if err != nil {
		return nil, err
	}
	if config == nil {
		return nil, fmt.Errorf("adapter %q: %w: no %s", source, ErrInvalid, ConfigFile)
	}
	tokens, err := r.small(source, open, AddedTokensFile, maxAddedTokens)
	if err != nil {
		return nil, err
	}
	f, size, err := r.regular(source, open, WeightsFile)
	if err != nil {
		return nil, err
	}
	if f == nil {
		if p, _, err := r.regular(source, open, pickledFile); err == nil && p != nil {
			p.Close()
			return nil, pickled(source)
		}
		return nil, fmt.Errorf("adapter %q: %w: no %s", source, ErrInvalid, WeightsFile)
	}
	if size > r.o.MaxWeights {
		f.Close()
		return nil, fmt.Errorf("adapter %q: %w: %s has %d bytes, the limit is %d", source, ErrTooLarge, WeightsFile, size, r.o.MaxWeights)
	}
	return &Artifact{Config: config, AddedTokens: tokens, Weights: f, Size: size}, nil
}

// readFolder reads an adapter where somebody may be writing it.
func (r *Resolver) readFolder(source string, open opener) (*Artifact, error) {
	a, err := r.read(source, open)
	if err != nil {
		return nil, err
	}
	f, ok := a.Weights.(*os.File)
	if !ok {
		return a, nil
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fail(source, WeightsFile, err), a.Close())
	}
	a.Weights = &steady{File: f, source: source, size: st.Size(), modified: st.ModTime()}
	return a, nil
}

// steady is a file that must not change while it is read.
type steady struct {
	*os.File
	source   string
	size     int64
	modified time.Time
	done     int64
}

// Read fails with ErrChanged when the file is another by its end.
func (s *steady) Read(b []byte) (int, error) {
	n, err := s.File.Read(b)
	if s.done += int64(n); s.done > s.size {
		return 0, fail(s.source, WeightsFile, ErrChanged)
	}
	if err == io.EOF {
		st, serr := s.Stat()
		if serr != nil || s.done != s.size || st.Size() != s.size || !st.ModTime().Equal(s.modified) {
			return 0, fail(s.source, WeightsFile, ErrChanged)
		}
	}
	return n, err
}

// regular opens a regular file; nil when there is none. Files that symlinks
// lead out of the root to are none, too.
func (r *Resolver) regular(source string, open opener, name string) (*os.File, int64, error) {
	f, err := open(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.o.Log.Warn("adapter file refused", zap.String("source", source), zap.String("file", name), zap.Error(err))
		}
		return nil, 0, nil
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("adapter %q: %w: %s is not a regular file", source, ErrInvalid, name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// small reads a whole file of at most limit bytes; nil when there is none.
func (r *Resolver) small(source string, open opener, name string, limit int64) ([]byte, error) {
	f, size, err := r.regular(source, open, name)
	if f == nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: %s has %d bytes, the limit is %d", ErrTooLarge, name, max(size, int64(len(b))), limit)
	}
	if err != nil {
		return nil, fmt.Errorf("adapter %q: %w", source, err)
	}
	return b, nil
}
