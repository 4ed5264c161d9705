package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// loader is a worker group that can preload.
type loader struct {
	Worker
	mu     sync.Mutex
	asked  [][]string
	answer error
}

func (l *loader) Preload(_ context.Context, digests []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, slices.Sorted(slices.Values(digests)))
	return l.answer
}

func (l *loader) heard() [][]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.asked)
}

func digests(t *testing.T, seeds ...int) []string {
	var out []string
	for _, s := range seeds {
		out = append(out, art{seed: s}.digest(t))
	}
	slices.Sort(out)
	return out
}

// withLoaders lets the groups of a world preload.
func withLoaders(ls *[]*loader) func(*Options) {
	return func(o *Options) {
		for i, w := range o.Workers {
			l := &loader{Worker: w}
			*ls = append(*ls, l)
			o.Workers[i] = l
		}
	}
}

// TestPreload: every group is asked once for all that is named, after it holds
// them, and again after a restart.
func TestPreload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ls []*loader
		w := newWorld(t, someArts(), 2, withLoaders(&ls))
		w.mustLoad("a", "s1", pinned)
		w.mustLoad("b", "s2")
		w.mustLoad("c", "s3")
		err := w.m.Preload(t.Context(), []string{"a", "nobody"})
		if !errors.Is(err, ErrNotFound) || fmt.Sprint(err) != `"nobody" has never been loaded; loaded: a, b, c` {
			t.Errorf("an unknown name: %v", err)
		}
		if err := w.m.Preload(t.Context(), []string{PreloadPinned, "b"}); err != nil {
			t.Fatal(err)
		}
		want := [][]string{digests(t, 1, 2)}
		for i, l := range ls {
			if got := l.heard(); !slices.EqualFunc(got, want, slices.Equal) {
				t.Errorf("group %d was asked for %v, want %v", i, got, want)
			}
		}
		w.workers[0].restart()
		time.Sleep(time.Minute)
		want = append(want, want[0])
		if got := ls[0].heard(); !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("after a restart the group was asked for %v, want %v", got, want)
		}
		if got := ls[1].heard(); len(got) != 1 {
			t.Errorf("the other group was asked %d times", len(got))
		}
		if err := w.m.Preload(t.Context(), []string{PreloadAll}); err != nil {
			t.Fatal(err)
		}
		if got := ls[1].heard(); !slices.Equal(got[len(got)-1], digests(t, 1, 2, 3)) {
			t.Errorf("all: the group was asked for %v", got)
		}
		w.check()
	})
}

// TestPreloadThatFails: what does not fit is told at once and not tried again; what
// fails otherwise is tried again.
func TestPreloadThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ls []*loader
		w := newWorld(t, someArts(), 1, withLoaders(&ls))
		w.mustLoad("a", "s1")
		ls[0].answer = fmt.Errorf("%w: too large", ErrRejected)
		if err := w.m.Preload(t.Context(), []string{"a"}); !errors.Is(err, ErrRejected) {
			t.Errorf("refused: %v", err)
		}
		time.Sleep(time.Hour)
		if got := ls[0].heard(); len(got) != 1 {
			t.Errorf("what was refused was asked for %d times", len(got))
		}
		ls[0].answer = errors.New("not now")
		end := make(chan error)
		go func() { end <- w.m.Preload(t.Context(), []string{"a"}) }()
		time.Sleep(time.Minute)
		ls[0].mu.Lock()
		ls[0].answer = nil
		ls[0].mu.Unlock()
		if err := <-end; err != nil {
			t.Errorf("after some tries: %v", err)
		}
		w.check()
	})
}

// TestPreloadBringsBack: what was pushed out is brought back for it, within
// max_loaded_loras.
func TestPreloadBringsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ls []*loader
		w := newWorld(t, someArts(), 1, func(o *Options) { o.MaxLoaded = 2 }, withLoaders(&ls))
		for i := 1; i <= 3; i++ {
			w.mustLoad(fmt.Sprint(i), fmt.Sprintf("s%d", i))
		}
		if err := w.m.Preload(t.Context(), []string{"1"}); err != nil || w.state("1") != Loaded {
			t.Errorf("%v: %v", w.state("1"), err)
		}
		if got := ls[0].heard(); len(got) != 1 || !slices.Equal(got[0], digests(t, 1)) {
			t.Errorf("asked for %v", got)
		}
		if err := w.m.Preload(t.Context(), []string{PreloadAll}); !errors.Is(err, ErrCapacity) {
			t.Errorf("more than can be loaded: %v", err)
		}
		w.check()
	})
}
