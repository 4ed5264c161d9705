package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chorale/adaptermgr/store"
)

var errCrash = errors.New("crashed")

// fuse blows at the n-th write and lets none through after: what is on disk
// then is what a kill -9 at that moment leaves. after makes the n-th write
// itself still happen.
type fuse struct {
	mu    sync.Mutex
	left  int
	after bool
	blown bool
}

func (f *fuse) write(do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blown {
		return errCrash
	}
	f.left--
	if f.left > 0 {
		return do()
	}
	f.blown = true
	if f.after {
		_ = do()
	}
	return errCrash
}

type fusedStore struct {
	store.Store
	f *fuse
}

func (s fusedStore) Update(fn func(store.Tx) error) (rev uint64, err error) {
	err = s.f.write(func() error { rev, err = s.Store.Update(fn); return err })
	return rev, err
}

type fusedBlobs struct {
	Blobs
	f *fuse
}

func (b fusedBlobs) Stage(ctx context.Context, r io.Reader, limit int64) (Staged, error) {
	var g Staged
	err := b.f.write(func() (err error) { g, err = b.Blobs.Stage(ctx, r, limit); return err })
	if err != nil {
		return nil, err
	}
	return fusedStaged{g, b.f}, nil
}

func (b fusedBlobs) Remove(d string) error {
	return b.f.write(func() error { return b.Blobs.Remove(d) })
}

type fusedStaged struct {
	Staged
	f *fuse
}

func (g fusedStaged) Commit() error  { return g.f.write(g.Staged.Commit) }
func (g fusedStaged) Discard() error { return g.f.write(g.Staged.Discard) }

// script is a life with every kind of change. It stops at a crash.
func script(w *world, f *fuse) {
	yes := true
	ctx := context.Background()
	for _, step := range []func() error{
		func() error { _, err := w.load("a", "s1"); return err },
		func() error { _, err := w.load("b", "s2"); return err },
		func() error { _, err := w.load("a", "s3", replacing); return err },
		func() error { _, err := w.load("c", "s1"); return err }, // evicts
		func() error { _, err := w.m.Ensure(context.Background(), []string{"a", "b"}); return err },
		func() error {
			_, err := w.m.Update(context.Background(), UpdateRequest{Name: "a", Pinned: &yes})
			return err
		},
		func() error { _, err := w.load("x", "broken"); return err },
		func() error { _, err := w.load("b", "s4", weight(20), withID("1")); return err },
		func() error { _, err := w.m.Canary(ctx, CanaryRequest{Name: "b", Version: 2, Weight: 100}); return err },
		func() error { _, err := w.m.Rollback(ctx, RollbackRequest{Name: "b", RequestID: "2"}); return err },
		func() error { _, err := w.m.Unload(ctx, UnloadRequest{Name: "b@2"}); return err },
		func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := w.m.Unload(ctx, UnloadRequest{Name: "a", Force: false})
			return err
		},
		func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := w.m.Unload(ctx, UnloadRequest{Name: "b", Force: true})
			return err
		},
	} {
		_ = step()
		f.mu.Lock()
		blown := f.blown
		f.mu.Unlock()
		if blown {
			return
		}
	}
}

// TestCrashAtEachWrite lets the disk stop at each write of the script, before
// and after it, and opens what is left.
func TestCrashAtEachWrite(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			done := false
			synctest.Test(t, func(t *testing.T) { done = crashAt(t, n, after) })
			if t.Failed() {
				t.Fatalf("at write %d, after %v", n, after)
			}
			if done {
				if n < 20 {
					t.Errorf("the script has only %d writes", n)
				}
				break
			}
		}
	}
}

// crashAt reports whether the script ended before the n-th write.
func crashAt(t *testing.T, n int, after bool) (done bool) {
	arts := someArts()
	arts["broken"] = art{rank: 500, in: 3}
	f := &fuse{left: 1 << 30}
	w := newWorld(t, arts, 1, func(o *Options) {
		o.MaxLoaded = 2
		o.Registry, o.Blobs = fusedStore{o.Registry, f}, fusedBlobs{o.Blobs, f}
	})
	f.left, f.after = n, after
	script(w, f)
	w.stop()
	done = !f.blown
	f.mu.Lock()
	f.left, f.blown = 1<<30, false
	f.mu.Unlock()

	w.start()
	time.Sleep(time.Minute) // what was draining drains
	w.check()
	l, _, _ := w.m.List("", 0, Filter{})
	for _, a := range l {
		switch a.State {
		case Loaded, Ready:
		case Failed:
			if !strings.Contains(a.Message, "interrupted") {
				t.Errorf("%s is FAILED: %s", a.Name, a.Message)
			}
		default:
			t.Errorf("%s is %v after a restart: %s", a.Name, a.State, a.Message)
		}
	}
	// Everything still works on what was left.
	for _, a := range l {
		if _, err := w.load(a.Name, "s4", replacing); err != nil {
			t.Errorf("load %s again: %v", a.Name, err)
		}
		if err := w.unload(a.Name, false); err != nil {
			t.Errorf("unload %s: %v", a.Name, err)
		}
	}
	w.check()
	if blobs, err := w.m.o.Blobs.List(); len(blobs) != 0 || err != nil {
		t.Errorf("blobs left: %v, %v", blobs, err)
	}
	if tmp, _ := filepath.Glob(filepath.Join(w.dir, "blobs", "tmp", "*")); len(tmp) != 0 {
		t.Errorf("temporary files left: %v", tmp)
	}
	return done
}

const killEnv = "CHORALE_TEST_KILL_DIR"

// TestKilled is a process that loads, replaces and unloads until it is killed.
// It is the child of TestKillNine and does nothing by itself.
func TestKilled(t *testing.T) {
	dir := os.Getenv(killEnv)
	if dir == "" {
		return
	}
	w := &world{t: t, dir: dir, shelf: newShelf(t, someArts()), change: func(o *Options) { o.MaxLoaded = 2 }}
	w.workers = []*fakeWorker{newWorker("w0")}
	w.start()
	fmt.Println("running")
	for i := 0; ; i++ {
		name := fmt.Sprint("n", i%3)
		_, _ = w.load(name, fmt.Sprint("s", 1+i%5), replacing)
		if i%4 == 3 {
			_ = w.unload(name, false)
		}
	}
}

// TestKillNine kills a working manager with SIGKILL and opens its folder.
func TestKillNine(t *testing.T) {
	dir := t.TempDir()
	for round := range 6 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$", "-test.v")
		cmd.Env = append(os.Environ(), killEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf, seen := make([]byte, 256), ""
		for !strings.Contains(seen, "running") {
			n, err := out.Read(buf)
			seen += string(buf[:n])
			if err != nil {
				t.Fatalf("the child ended: %s", seen)
			}
		}
		time.Sleep(time.Duration(7+13*round) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed, as it should be
		w := &world{t: t, dir: dir, shelf: newShelf(t, someArts()), change: func(o *Options) { o.MaxLoaded = 2 }}
		w.workers = []*fakeWorker{newWorker("w0")}
		w.start()
		w.check()
		w.stop()
	}
}
