package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// The SHA-256 of "hello\n", by coreutils' sha256sum.
const (
	hello       = "hello\n"
	helloDigest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, content string) string {
	t.Helper()
	g, err := s.Stage(t.Context(), strings.NewReader(content), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Commit(); err != nil {
		t.Fatal(err)
	}
	return g.Digest()
}

func temps(t *testing.T, s *Store) []string {
	t.Helper()
	files, err := filepath.Glob(s.path(tmpDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestPutOpenListRemove(t *testing.T) {
	s := open(t, t.TempDir())
	if d := put(t, s, hello); d != helloDigest {
		t.Fatalf("digest = %s", d)
	}
	other := put(t, s, "")
	f, err := s.OpenVerified(helloDigest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	f.Close()
	if err != nil || string(got) != hello {
		t.Errorf("read %q, %v", got, err)
	}
	list, err := s.List()
	if d := cmp.Diff([]string{helloDigest, other}, list); d != "" || err != nil {
		t.Error(d, err)
	}
	for range 2 { // the second time it is not there
		if err := s.Remove(helloDigest); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Open(helloDigest); !errors.Is(err, ErrNotFound) || s.Has(helloDigest) || !s.Has(other) {
		t.Errorf("after Remove: %v", err)
	}
	if l := temps(t, s); len(l) != 0 {
		t.Errorf("left behind: %v", l)
	}
}

func TestDigestsAreChecked(t *testing.T) {
	s := open(t, t.TempDir())
	for _, d := range []string{"", "../../etc/passwd", strings.ToUpper(helloDigest), helloDigest + "0", helloDigest[:62] + "/x"} {
		if _, err := s.Open(d); !errors.Is(err, ErrDigest) {
			t.Errorf("Open(%q): %v", d, err)
		}
		if err := s.Remove(d); !errors.Is(err, ErrDigest) {
			t.Errorf("Remove(%q): %v", d, err)
		}
	}
}

func TestDiscardAndSecondEnd(t *testing.T) {
	s := open(t, t.TempDir())
	g, err := s.Stage(t.Context(), strings.NewReader(hello), int64(len(hello)))
	if err != nil {
		t.Fatal(err)
	}
	if g.Size() != int64(len(hello)) {
		t.Errorf("size = %d", g.Size())
	}
	if err := errors.Join(g.Discard(), g.Discard(), g.Commit()); err != nil {
		t.Error(err)
	}
	if s.Has(helloDigest) || len(temps(t, s)) != 0 {
		t.Error("discarded contents are there")
	}
}

func TestLeftoversAreCleanedAtOpen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, hello)
	if _, err := s.Stage(t.Context(), strings.NewReader("unfinished"), 100); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if len(temps(t, s)) != 0 || !s.Has(helloDigest) {
		t.Error("Open kept a leftover or lost a blob")
	}
}

func TestCorruptBlobIsFoundAndHealed(t *testing.T) {
	s := open(t, t.TempDir())
	put(t, s, hello)
	path, _ := s.Path(helloDigest)
	if err := os.WriteFile(path, []byte("Hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenVerified(helloDigest); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
		t.Errorf("err = %v", err)
	}
	put(t, s, hello)
	f, err := s.OpenVerified(helloDigest)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestReadErrorsLeaveNothing(t *testing.T) {
	s := open(t, t.TempDir())
	boom := errors.New("boom")
	_, err := s.Stage(t.Context(), io.MultiReader(strings.NewReader(hello), iotest.ErrReader(boom)), 100)
	if !errors.Is(err, boom) {
		t.Error(err)
	}
	if _, err = s.Stage(t.Context(), strings.NewReader(hello), 5); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = s.Stage(ctx, strings.NewReader(hello), 100); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if l := temps(t, s); len(l) != 0 {
		t.Errorf("left behind: %v", l)
	}
}

// fullFile is a file on a disk that fills up, at one of its operations.
type fullFile struct {
	file
	op string
}

func (f fullFile) Write(b []byte) (int, error) {
	if f.op != "write" {
		return f.file.Write(b)
	}
	n, _ := f.file.Write(b[:len(b)/2])
	return n, &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
}

func (f fullFile) Sync() error {
	if f.op == "sync" {
		return syscall.ENOSPC
	}
	return f.file.Sync()
}

func (f fullFile) Close() error {
	if err := f.file.Close(); f.op != "close" {
		return err
	}
	return syscall.EDQUOT
}

func TestDiskFull(t *testing.T) {
	for _, op := range []string{"write", "sync", "close"} {
		s := open(t, t.TempDir())
		s.create = func(path string) (file, error) {
			f, err := createFile(path)
			return fullFile{f, op}, err
		}
		_, err := s.Stage(t.Context(), strings.NewReader(hello), 100)
		if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), s.path(tmpDir)) {
			t.Errorf("%s: %v", op, err)
		}
		if l := temps(t, s); len(l) != 0 {
			t.Errorf("%s: left behind: %v", op, l)
		}
	}
}

func TestReadOnly(t *testing.T) {
	for _, e := range []error{syscall.EROFS, syscall.EACCES} {
		s := open(t, t.TempDir())
		s.create = func(path string) (file, error) { return nil, &os.PathError{Op: "open", Path: path, Err: e} }
		if err := s.probe(); !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), s.dir) {
			t.Errorf("probe: %v", err)
		}
		if _, err := s.Stage(t.Context(), strings.NewReader(hello), 100); !errors.Is(err, ErrReadOnly) {
			t.Errorf("Stage: %v", err)
		}
	}
	if os.Getuid() != 0 { // root may write regardless of the mode
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); !errors.Is(err, ErrReadOnly) {
			t.Errorf("Open: %v", err)
		}
	}
}

func TestConcurrentPutsOfTheSame(t *testing.T) {
	s := open(t, t.TempDir())
	content := bytes.Repeat([]byte("chorus "), 100_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			g, err := s.Stage(t.Context(), bytes.NewReader(content), 1<<20)
			if err != nil {
				t.Error(err)
				return
			}
			if err := g.Commit(); err != nil {
				t.Error(err)
			}
			f, err := s.OpenVerified(g.Digest())
			if err != nil {
				t.Error(err)
				return
			}
			f.Close()
		})
	}
	wg.Wait()
	if l, err := s.List(); len(l) != 1 || err != nil || len(temps(t, s)) != 0 {
		t.Errorf("%v, %v, %v", l, err, temps(t, s))
	}
}
