package blob

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func used(t *testing.T, q *Quota, want int64) {
	t.Helper()
	if got := q.Used(); got != want {
		t.Errorf("used = %d, want %d", got, want)
	}
}

func TestQuotaCountsEveryFile(t *testing.T) {
	dir := t.TempDir()
	q := NewQuota(20)
	s, err := OpenWithin(dir, q)
	if err != nil {
		t.Fatal(err)
	}
	d := put(t, s, "0123456789")
	used(t, q, 10)
	put(t, s, "0123456789") // the same contents are stored once
	used(t, q, 10)
	_, err = s.Stage(t.Context(), strings.NewReader("12345678901"), 1<<20)
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "quota of 20 bytes has 10 left") {
		t.Errorf("err = %v", err)
	}
	used(t, q, 10)
	if len(temps(t, s)) != 0 {
		t.Error("what did not fit is left behind")
	}
	g, err := s.Stage(t.Context(), strings.NewReader("abc"), 100)
	if err != nil {
		t.Fatal(err)
	}
	used(t, q, 13)
	if err := errors.Join(g.Discard(), g.Discard()); err != nil {
		t.Error(err)
	}
	used(t, q, 10)

	small := NewQuota(5) // what is there counts, whatever the limit
	if s, err = OpenWithin(dir, small); err != nil {
		t.Fatal(err)
	}
	used(t, small, 10)
	for range 2 {
		if err := s.Remove(d); err != nil {
			t.Error(err)
		}
	}
	used(t, small, 0)
}

func TestQuotaUnderPressure(t *testing.T) {
	q := NewQuota(10)
	q.Count(8)
	q.OnPressure(func(need int64) {
		if need != 3 {
			t.Errorf("need = %d", need)
		}
		q.Give(8)
	})
	if err := q.Take(5); err != nil {
		t.Error(err)
	}
	used(t, q, 5)
	var none *Quota
	none.OnPressure(nil)
	none.Give(1)
	if err := none.Take(1 << 60); err != nil || none.Used() != 0 || none.Limit() != 0 {
		t.Error(err)
	}
	if err := NewQuota(0).Take(1 << 60); err != nil {
		t.Error(err)
	}
}

// movable is a file that may be taken.
type movable struct {
	*os.File
	err error
}

func (m movable) MoveTo(path string) error {
	if m.err != nil {
		return m.err
	}
	return os.Rename(m.Name(), path)
}

func TestStageTakesAFileThatItMay(t *testing.T) {
	s := open(t, t.TempDir())
	for _, refusal := range []error{nil, errors.New("another needs it")} {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(hello), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		g, err := s.Stage(t.Context(), movable{f, refusal}, 100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); (err == nil) != (refusal != nil) {
			t.Errorf("after Stage: %v", err)
		}
		if g.Digest() != helloDigest || g.Size() != int64(len(hello)) {
			t.Errorf("%s %d", g.Digest(), g.Size())
		}
		if err := errors.Join(g.Commit(), f.Close()); err != nil {
			t.Error(err)
		}
	}
	// One that is too large is gone.
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(hello), 0o600); err != nil {
		t.Fatal(err)
	}
	f, _ := os.Open(path)
	defer f.Close()
	if _, err := s.Stage(t.Context(), movable{f, nil}, 2); !errors.Is(err, ErrTooLarge) || len(temps(t, s)) != 0 {
		t.Errorf("err = %v", err)
	}
}
