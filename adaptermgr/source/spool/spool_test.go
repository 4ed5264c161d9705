package spool

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ledger is a budget that remembers.
type ledger struct{ used, limit int64 }

var errFull = errors.New("full")

func (l *ledger) Take(n int64) error {
	if l.limit > 0 && l.used+n > l.limit {
		return errFull
	}
	l.used += n
	return nil
}
func (l *ledger) Count(n int64) { l.used += n }
func (l *ledger) Give(n int64)  { l.used -= n }

func open(t *testing.T, o Options) *Spool {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func acquire(t *testing.T, s *Spool, key string) *Slot {
	t.Helper()
	sl, err := s.Acquire(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return sl
}

func part(t *testing.T, sl *Slot, name string) *Part {
	t.Helper()
	p, err := sl.Part(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func TestDownloadsSurviveARestart(t *testing.T) {
	dir, l := t.TempDir(), &ledger{}
	s := open(t, Options{Dir: dir, Budget: l})
	sl := acquire(t, s, "https://x/a")
	p := part(t, sl, "w")
	must(t, p.SetStamp(Stamp{ETag: `"1"`, Size: 6}))
	write(t, p, "abc")
	must(t, p.Close())
	bare := part(t, sl, "unstamped")
	write(t, bare, "zz")
	must(t, bare.Close())
	up, err := s.Begin("u1")
	must(t, err)
	f, err := up.Create("w")
	must(t, err)
	write(t, f, "lost")
	if l.used != 9 {
		t.Errorf("used = %d", l.used)
	}
	// The process ends here, without a word.
	l = &ledger{}
	s = open(t, Options{Dir: dir, Budget: l})
	if l.used != 5 {
		t.Errorf("after a restart: used = %d", l.used)
	}
	sl = acquire(t, s, "https://x/a")
	p = part(t, sl, "w")
	if p.Size() != 3 || !p.Leftover || p.Stamp.ETag != `"1"` || p.Stamp.Complete {
		t.Errorf("%+v, %d bytes", p.Stamp, p.Size())
	}
	write(t, p, "def")
	must(t, p.Complete())
	b := make([]byte, 6)
	if _, err := p.Reader().ReadAt(b, 0); err != nil || string(b) != "abcdef" {
		t.Errorf("%q, %v", b, err)
	}
	must(t, p.Close())
	if p = part(t, sl, "unstamped"); p.Size() != 0 || p.Leftover {
		t.Error("bytes of nobody knows what were kept")
	}
	must(t, p.Close())
	if p = part(t, sl, "w"); !p.Stamp.Complete {
		t.Error("complete, and not known to be")
	}
	must(t, p.Close(), sl.Release(false), sl.Release(false))
	if l.used != 0 {
		t.Errorf("after Release: used = %d", l.used)
	}
	if _, err := os.Stat(sl.dir); !os.IsNotExist(err) {
		t.Errorf("the folder is there: %v", err)
	}
}

// TestUnsyncedBytesGo: what a loss of power may have turned into zeros is not
// continued.
func TestUnsyncedBytesGo(t *testing.T) {
	l := &ledger{}
	s := open(t, Options{Dir: t.TempDir(), Budget: l})
	sl := acquire(t, s, "k")
	p := part(t, sl, "w")
	must(t, p.SetStamp(Stamp{ETag: "e", Size: 100}))
	write(t, p, "abc")
	must(t, p.sync(p.Stamp))
	write(t, p, "def")
	must(t, p.f.Close()) // no Close: a crash
	if p = part(t, sl, "w"); p.Size() != 3 || l.used != 3 {
		t.Errorf("%d bytes, used %d", p.Size(), l.used)
	}
	must(t, p.Close(), sl.Release(false))
}

func TestOneHolderAtATime(t *testing.T) {
	l := &ledger{}
	s := open(t, Options{Dir: t.TempDir(), Budget: l})
	first := acquire(t, s, "k")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Acquire(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	got := make(chan *Slot)
	go func() {
		sl, err := s.Acquire(context.Background(), "k")
		if err != nil {
			t.Error(err)
		}
		got <- sl
	}()
	p := part(t, first, "w")
	must(t, p.SetStamp(Stamp{ETag: "1", Size: 3}))
	write(t, p, "old")
	must(t, p.Complete(), p.Close())
	r, err := first.Open("w")
	must(t, err)
	select {
	case <-got:
		t.Fatal("two holders")
	case <-time.After(20 * time.Millisecond):
	}
	first.Unlock()
	second := <-got
	out := filepath.Join(t.TempDir(), "moved")
	if err := first.Take("w", out); !errors.Is(err, errShared) {
		t.Errorf("taken from under another: %v", err)
	}
	p = part(t, second, "w")
	must(t, p.Restart())
	write(t, p, "new!")
	must(t, p.Complete(), p.Close())
	if b, err := io.ReadAll(r); err != nil || string(b) != "old" {
		t.Errorf("the first reads %q, %v", b, err)
	}
	must(t, r.Close(), first.Release(false)) // the second still holds it
	r, err = second.Open("w")
	must(t, err)
	must(t, second.Take("w", out), r.Close(), second.Release(false))
	if b, err := os.ReadFile(out); err != nil || string(b) != "new!" {
		t.Errorf("%q, %v", b, err)
	}
	if l.used != 4 { // the moved file's, now the taker's
		t.Errorf("used = %d", l.used)
	}
	if len(s.slots) != 0 {
		t.Errorf("slots left: %v", s.slots)
	}
}

func TestOldDownloadsGo(t *testing.T) {
	dir, l := t.TempDir(), &ledger{}
	s := open(t, Options{Dir: dir, Budget: l})
	leave := func(key string, age time.Duration) string {
		sl := acquire(t, s, key)
		p := part(t, sl, "w")
		must(t, p.SetStamp(Stamp{ETag: "1", Size: 100}))
		write(t, p, "0123456789")
		must(t, p.Close(), sl.Release(true))
		for _, f := range []string{"w", "w.stamp", ""} {
			must(t, os.Chtimes(filepath.Join(sl.dir, f), time.Now(), time.Now().Add(-age)))
		}
		return sl.dir
	}
	there := func(dir string) bool { _, err := os.Stat(dir); return err == nil }
	ancient, old, young := leave("ancient", 30*time.Hour), leave("old", 2*time.Hour), leave("young", time.Hour)
	s = open(t, Options{Dir: dir, Budget: &ledger{}})
	if there(ancient) || !there(old) || !there(young) {
		t.Error("at Open: wrong ones swept")
	}
	held := acquire(t, s, "held")
	p := part(t, held, "w")
	must(t, p.SetStamp(Stamp{ETag: "1", Size: 100}))
	s.Relieve(5)
	if there(old) || !there(young) {
		t.Error("under pressure: wrong ones swept")
	}
	s.Relieve(1000)
	if there(young) || !there(held.dir) {
		t.Error("what is held went, or what is not stayed")
	}
	must(t, p.Close(), held.Release(false))
}

func TestBudget(t *testing.T) {
	l := &ledger{limit: 5}
	s := open(t, Options{Dir: t.TempDir(), Budget: l})
	sl, err := s.Begin("u")
	must(t, err)
	if _, err := s.Begin("u"); err == nil {
		t.Error("one id, two uploads")
	}
	for _, id := range []string{"..", "a/b", ""} {
		if _, err := s.Begin(id); err == nil {
			t.Errorf("upload %q", id)
		}
	}
	f, err := sl.Create("w")
	must(t, err)
	write(t, f, "1234")
	if _, err := f.Write([]byte("56")); !errors.Is(err, errFull) {
		t.Errorf("err = %v", err)
	}
	must(t, f.Close(), sl.Release(false))
	if l.used != 0 {
		t.Errorf("used = %d", l.used)
	}
}
