package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"chorale/internal/peft"
)

func someArts() map[string]art {
	return map[string]art{
		"s1": {seed: 1}, "s1again": {seed: 1}, "s2": {seed: 2}, "s3": {seed: 3}, "s4": {seed: 4}, "s5": {seed: 5},
	}
}

func TestLoadPushesToAllGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		r := w.mustLoad("team/a.b:c ü", "s1", func(r *LoadRequest) { r.Labels = map[string]string{"k": "v"} })
		d := art{seed: 1}.digest(t)
		want := Adapter{
			Name: "team/a.b:c ü", Digest: d, State: Loaded, Source: "s1", Labels: map[string]string{"k": "v"},
			MaxRank: 2, TargetModules: []string{"q_proj"}, SizeBytes: r.Adapter.SizeBytes, Version: r.Revision,
			Created: r.Adapter.Created, Updated: r.Adapter.Updated,
			Placements: []Placement{{Worker: "w0", Loaded: true}, {Worker: "w1", Loaded: true}},
		}
		if diff := cmp.Diff(want, r.Adapter); diff != "" {
			t.Error(diff)
		}
		if r.Adapter.SizeBytes == 0 || r.Revision == 0 {
			t.Errorf("%+v", r)
		}
		for _, x := range w.workers {
			if _, ok := x.holds()[d]; !ok {
				t.Errorf("%s holds %v", x.addr, x.holds())
			}
		}
		w.check()
	})
}

func TestSameContentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		first := w.mustLoad("a", "s1")
		again := w.mustLoad("a", "s1again")
		if again.Revision != first.Revision || again.Adapter.Source != "s1" {
			t.Errorf("a second load changed something: %+v", again)
		}
		if _, err := w.load("a", "s1", mustBeNew); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "already loaded") {
			t.Errorf("must be new: %v", err)
		}
		if _, err := w.load("a", "s2"); !errors.Is(err, ErrExists) {
			t.Errorf("other content: %v", err)
		}
		if n := w.workers[0].pushCount(art{seed: 1}.digest(t)); n != 1 {
			t.Errorf("pushed %d times", n)
		}
		w.check()
	})
}

func TestTwoNamesShareOneDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		d := art{seed: 1}.digest(t)
		w.mustLoad("a", "s1")
		w.mustLoad("b", "s1again")
		if n := w.workers[0].pushCount(d); n != 1 {
			t.Errorf("pushed %d times", n)
		}
		if err := w.unload("a", false); err != nil {
			t.Fatal(err)
		}
		if _, ok := w.workers[0].holds()[d]; !ok || w.state("b") != Loaded {
			t.Error("b lost its digest with a")
		}
		w.check()
		if err := w.unload("b", false); err != nil {
			t.Fatal(err)
		}
		if len(w.workers[0].holds()) != 0 {
			t.Error("dropped by nobody")
		}
		if l, _ := w.m.o.Blobs.List(); len(l) != 0 {
			t.Errorf("blobs left: %v", l)
		}
		w.check()
	})
}

func TestUnloadWaitsForLeases(t *testing.T) {
	for _, force := range []bool{false, true} {
		t.Run(fmt.Sprint("force ", force), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, someArts(), 2)
				d := w.mustLoad("a", "s1").Adapter.Digest
				w.workers[1].lease(d, 2)
				done := make(chan error, 1)
				go func() { done <- w.unload("a", false) }()
				synctest.Wait()
				if s := w.state("a"); s != Draining {
					t.Errorf("state %v", s)
				}
				if _, err := w.m.Ensure(t.Context(), []string{"a"}); !errors.Is(err, ErrNotFound) {
					t.Errorf("a draining adapter is served: %v", err)
				}
				select {
				case err := <-done:
					t.Fatalf("did not wait: %v", err)
				default:
				}
				if force {
					if err := w.unload("a", true); err != nil {
						t.Error(err)
					}
				} else {
					w.workers[1].lease(d, -2)
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				if n := w.workers[1].forced[d]; (n > 0) != force {
					t.Errorf("forced %d times", n)
				}
				if w.state("a") != StateUnspecified {
					t.Error("still there")
				}
				if err := w.unload("a", false); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "never been loaded") {
					t.Errorf("second unload: %v", err)
				}
				w.check()
			})
		})
	}
}

func TestUnloadGoesOnAfterTheCallerLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		d := w.mustLoad("a", "s1").Adapter.Digest
		w.workers[0].lease(d, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.m.Unload(ctx, "a", false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v", err)
		}
		// A new load of the name waits for the old to be gone.
		done := make(chan error, 1)
		go func() { _, err := w.load("a", "s2"); done <- err }()
		synctest.Wait()
		if w.state("a") != Draining {
			t.Errorf("state %v", w.state("a"))
		}
		w.workers[0].lease(d, -1)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if w.state("a") != Loaded {
			t.Errorf("state %v", w.state("a"))
		}
		w.check()
	})
}

func TestUnloadEndsALoadOfTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arts := someArts()
		arts["slow"] = art{seed: 9, block: make(chan struct{})}
		w := newWorld(t, arts, 1)
		done := make(chan error, 1)
		go func() { _, err := w.load("a", "slow"); done <- err }()
		synctest.Wait()
		if w.state("a") != Fetching {
			t.Errorf("state %v", w.state("a"))
		}
		if err := w.unload("a", false); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, ErrUnloaded) {
			t.Errorf("err = %v", err)
		}
		// Also while it is being pushed.
		w.workers[0].set(func() { w.workers[0].pushGate = make(chan struct{}) })
		go func() { _, err := w.load("b", "s1"); done <- err }()
		synctest.Wait()
		if w.state("b") != Loading {
			t.Errorf("state %v", w.state("b"))
		}
		if err := w.unload("b", false); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, ErrUnloaded) {
			t.Errorf("err = %v", err)
		}
		w.check()
	})
}

func TestReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		old, next := art{seed: 1}.digest(t), art{seed: 2}.digest(t)
		first := w.mustLoad("a", "s1", pinned)
		gate := make(chan struct{})
		w.workers[1].set(func() { w.workers[1].pushGate = gate })
		w.workers[0].lease(old, 1)
		done := make(chan error, 1)
		go func() { _, err := w.load("a", "s2", replacing); done <- err }()
		synctest.Wait()
		if a, err := w.m.Get("a"); err != nil || a.Digest != old || a.State != Loaded {
			t.Errorf("switched before every group had it: %+v, %v", a, err)
		}
		close(gate)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		a, err := w.m.Get("a")
		if err != nil || a.Digest != next || a.Version <= first.Adapter.Version || !a.Created.Equal(first.Adapter.Created) {
			t.Errorf("%+v, %v", a, err)
		}
		if _, ok := w.workers[0].holds()[old]; !ok {
			t.Error("the old one was dropped under a running sequence")
		}
		w.workers[0].lease(old, -1)
		synctest.Wait()
		for _, x := range w.workers {
			if diff := cmp.Diff(map[string]bool{next: false}, x.holds()); diff != "" {
				t.Error(x.addr, diff)
			}
		}
		w.check()
	})
}

func TestReplaceFailsAsAWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		old, next := art{seed: 1}.digest(t), art{seed: 2}.digest(t)
		w.mustLoad("a", "s1")
		w.workers[1].set(func() {
			w.workers[1].pushErr = func(d string) error {
				if d == next {
					return errors.New("out of memory")
				}
				return nil
			}
		})
		_, err := w.load("a", "s2", replacing)
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "out of memory") {
			t.Errorf("err = %v", err)
		}
		synctest.Wait()
		for _, x := range w.workers {
			if diff := cmp.Diff(map[string]bool{old: false}, x.holds()); diff != "" {
				t.Error(x.addr, diff)
			}
		}
		if a, _ := w.m.Get("a"); a.Digest != old || a.State != Loaded {
			t.Errorf("%+v", a)
		}
		w.check()
	})
}

func TestBadArtifactsLeaveNothing(t *testing.T) {
	arts := map[string]art{
		"tokens+dora": {config: map[string]any{"use_dora": true}, tokens: `{"<x>": 100}`},
		"known token": {tokens: `{"<x>": 99}`},
		"bad tokens":  {tokens: `[`},
		"dora":        {config: map[string]any{"use_dora": true}},
		"saved":       {config: map[string]any{"modules_to_save": []string{"lm_head"}}},
		"bad config":  {config: map[string]any{"r": "many"}},
		"rank":        {rank: 5},
		"module":      {config: map[string]any{"target_modules": []string{"gate_proj"}}},
		"other base":  {in: hidden + 1},
		"limited":     {config: map[string]any{"target_modules": []string{"q_proj", "v_proj"}}},
		"gone":        {err: ErrSourceNotFound},
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, arts, 1, func(o *Options) {
			o.Limits = peft.Limits{MaxRank: 4, TargetModules: []string{"q_proj", "gate_proj"}}
		})
		for src, want := range map[string]struct {
			err  error
			says string
		}{
			"tokens+dora": {ErrUnsupported, "adds tokens"},
			"bad tokens":  {ErrInvalid, "added_tokens.json"},
			"dora":        {ErrUnsupported, "use_dora"},
			"saved":       {ErrUnsupported, "modules_to_save"},
			"bad config":  {ErrInvalid, "r"},
			"rank":        {ErrRankTooLarge, "incompatible"},
			"module":      {ErrIncompatible, "incompatible"},
			"other base":  {ErrIncompatible, "incompatible"},
			"limited":     {ErrIncompatible, "incompatible"},
			"gone":        {ErrSourceNotFound, "not found"},
			"nothing":     {ErrSourceNotFound, "not found"},
		} {
			_, err := w.load("a", src)
			if !errors.Is(err, want.err) || !strings.Contains(err.Error(), want.says) || !strings.Contains(err.Error(), `"a"`) {
				t.Errorf("%s: %v", src, err)
			}
			if strings.Contains(fmt.Sprint(err), w.dir) {
				t.Errorf("%s: tells a path of the server: %v", src, err)
			}
			if w.state("a") != StateUnspecified {
				t.Errorf("%s: left %v behind", src, w.state("a"))
			}
			r, verr := w.m.Validate(t.Context(), src)
			if want.err == ErrSourceNotFound {
				if !errors.Is(verr, ErrSourceNotFound) {
					t.Errorf("validate %s: %v", src, verr)
				}
			} else if verr != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], want.says) {
				t.Errorf("validate %s: %+v, %v", src, r, verr)
			}
		}
		w.mustLoad("a", "known token")
		r, err := w.m.Validate(t.Context(), "known token")
		want := Report{
			Digest: art{}.digest(t), MaxRank: 2, TargetModules: []string{"q_proj"}, SizeBytes: r.SizeBytes,
			Modules: []Module{{"model.layers.0.self_attn.q_proj", 2, 2}},
		}
		if diff := cmp.Diff(want, r); diff != "" || err != nil {
			t.Error(diff, err)
		}
		w.check()
	})
}

func TestOrderOfChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arts := someArts()
		arts["dora"] = art{config: map[string]any{"use_dora": true}}
		arts["rank"] = art{rank: 5}
		w := newWorld(t, arts, 1, func(o *Options) { o.Limits.MaxRank = 4 })
		w.mustLoad("p1", "s1", pinned)
		w.mustLoad("p2", "s2", pinned)
		for _, tc := range []struct {
			name, src string
			want      error
		}{
			{"p1", "dora", ErrUnsupported}, // before already loaded
			{"p1", "rank", ErrExists},      // before incompatible
			{"p3", "rank", ErrRankTooLarge},
			{"p3", "s3", ErrStarvation},
		} {
			if _, err := w.load(tc.name, tc.src, pinned, mustBeNew); !errors.Is(err, tc.want) {
				t.Errorf("%s from %s: %v, want %v", tc.name, tc.src, err, tc.want)
			}
		}
		w.check()
	})
}

func TestPins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1) // 3 per batch: 2 pins
		yes, no := true, false
		d := w.mustLoad("a", "s1", pinned).Adapter.Digest
		w.mustLoad("a2", "s1", pinned) // the same digest takes one place
		w.mustLoad("b", "s2")
		w.mustLoad("c", "s3")
		if _, err := w.m.Update(t.Context(), "b", &yes, map[string]string{"x": "1", "y": "2"}); err != nil {
			t.Error(err)
		}
		_, err := w.m.Update(t.Context(), "c", &yes, nil)
		if !errors.Is(err, ErrStarvation) || !strings.Contains(err.Error(), "starvation") {
			t.Errorf("third pin: %v", err)
		}
		if _, err := w.m.Update(t.Context(), "a", &no, nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if !w.workers[0].holds()[d] {
			t.Error("a2 pins the digest still")
		}
		if _, err := w.m.Update(t.Context(), "a2", &no, nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if w.workers[0].holds()[d] {
			t.Error("the worker was not told of the unpin")
		}
		r, err := w.m.Update(t.Context(), "b", nil, map[string]string{"x": "", "z": "3"})
		if diff := cmp.Diff(map[string]string{"y": "2", "z": "3"}, r.Adapter.Labels); diff != "" || err != nil || !r.Adapter.Pinned {
			t.Error(diff, err)
		}
		if _, err := w.m.Update(t.Context(), "none", &no, nil); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		w.check()
	})
}

func TestMaxLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1, func(o *Options) { o.MaxLoaded = 2 })
		ctx := t.Context()
		w.mustLoad("a", "s1")
		time.Sleep(time.Second)
		w.mustLoad("b", "s2")
		time.Sleep(time.Second)
		w.m.Touch([]string{"a", "nobody"})
		r := w.mustLoad("c", "s3")
		if diff := cmp.Diff([]string{"b"}, r.Evicted); diff != "" || w.state("b") != Ready {
			t.Error(diff, w.state("b"))
		}
		synctest.Wait()
		if _, ok := w.workers[0].holds()[art{seed: 2}.digest(t)]; ok {
			t.Error("the worker holds the evicted one")
		}
		w.check()

		// A request touches its loaded names and brings the missing one back.
		time.Sleep(time.Second)
		e, err := w.m.Ensure(ctx, []string{"a", "b", "a"})
		if err != nil || len(e.Adapters) != 3 || e.Adapters[1].State != Loaded || !slices.Equal(e.Evicted, []string{"c"}) {
			t.Errorf("%+v, %v", e, err)
		}
		if _, err := w.m.Ensure(ctx, []string{"a", "b", "c"}); !errors.Is(err, ErrCapacity) {
			t.Errorf("more than fit: %v", err)
		}
		if _, err := w.m.Ensure(ctx, []string{"nobody"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("unknown: %v", err)
		}
		w.check()

		// What is evicted stays so over a restart, and can be loaded anew.
		w.restart()
		if w.state("c") != Ready {
			t.Errorf("state %v", w.state("c"))
		}
		r = w.mustLoad("c", "s3", mustBeNew)
		if len(r.Evicted) != 1 || w.state("c") != Loaded {
			t.Errorf("%+v", r)
		}
		for _, n := range []string{"a", "b", "c"} { // evicted ones can be unloaded, too
			if err := w.unload(n, false); err != nil {
				t.Error(err)
			}
		}
		w.mustLoad("p", "s4", pinned)
		w.mustLoad("q", "s5", pinned)
		if _, err := w.load("a", "s1"); !errors.Is(err, ErrCapacity) {
			t.Errorf("all pinned: %v", err)
		}
		if w.state("a") != StateUnspecified {
			t.Errorf("left %v", w.state("a"))
		}
		w.check()
	})
}

func TestGroupDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		w.workers[1].setUp(false)
		synctest.Wait()
		time.Sleep(5 * time.Second)
		r := w.mustLoad("a", "s1")
		if r.Adapter.State != Loaded || !r.Adapter.Placements[0].Loaded || r.Adapter.Placements[1].Loaded ||
			!strings.Contains(r.Adapter.Placements[1].Error, "refused") {
			t.Errorf("%+v", r.Adapter.Placements)
		}
		w.workers[0].setUp(false)
		time.Sleep(5 * time.Second)
		if a, _ := w.m.Get("a"); a.State != Loading || !strings.Contains(a.Message, "no worker group is connected") {
			t.Errorf("%v %q", a.State, a.Message)
		}
		_, err := w.load("b", "s2")
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "w0") {
			t.Errorf("err = %v", err)
		}
		if w.state("b") != Loading {
			t.Errorf("the registration is gone: %v", w.state("b"))
		}
		w.workers[0].setUp(true)
		w.workers[1].setUp(true)
		time.Sleep(30 * time.Second)
		for _, n := range []string{"a", "b"} {
			if a, _ := w.m.Get(n); a.State != Loaded || !a.Placements[0].Loaded || !a.Placements[1].Loaded {
				t.Errorf("%s: %+v", n, a)
			}
		}
		// Unload does not wait for a group that is gone; the group drops later.
		w.workers[1].setUp(false)
		time.Sleep(5 * time.Second)
		if err := w.unload("a", false); err != nil {
			t.Error(err)
		}
		w.workers[1].setUp(true)
		time.Sleep(30 * time.Second)
		if len(w.workers[1].holds()) != 1 {
			t.Errorf("holds %v", w.workers[1].holds())
		}
		w.check()
	})
}

func TestWorkerRestartIsPushedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		d := w.mustLoad("a", "s1", pinned).Adapter.Digest
		w.workers[0].restart()
		time.Sleep(3 * time.Second)
		if diff := cmp.Diff(map[string]bool{d: true}, w.workers[0].holds()); diff != "" || w.state("a") != Loaded {
			t.Error(diff, w.state("a"))
		}
		if n := w.workers[0].pushCount(d); n != 2 {
			t.Errorf("pushed %d times", n)
		}
	})
}

func TestManagerRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		before := w.mustLoad("a", "s1", pinned).Adapter
		w.mustLoad("b", "s2")
		w.stop()
		// What the worker got behind the manager's back goes.
		w.workers[0].set(func() { w.workers[0].held["sha256:other"] = false })
		w.start()
		synctest.Wait()
		after, err := w.m.Get("a")
		if diff := cmp.Diff(before, after); diff != "" || err != nil {
			t.Error(diff, err)
		}
		if n := w.workers[0].pushCount(before.Digest); n != 1 {
			t.Errorf("pushed again although it was there: %d", n)
		}
		if len(w.workers[0].holds()) != 2 {
			t.Errorf("holds %v", w.workers[0].holds())
		}
		w.check()
	})
}

func TestPushErrorIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		fails := 3
		w.workers[0].set(func() {
			w.workers[0].pushErr = func(string) error {
				if fails--; fails >= 0 {
					return errors.New("out of memory")
				}
				return nil
			}
		})
		if r := w.mustLoad("a", "s1"); r.Adapter.State != Loaded {
			t.Errorf("%+v", r)
		}
	})
}

func TestRejectedByAllGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		for _, x := range w.workers {
			x.set(func() { x.pushErr = func(string) error { return fmt.Errorf("%w: no kernel for it", ErrRejected) } })
		}
		_, err := w.load("a", "s1")
		if !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), "no kernel") {
			t.Errorf("err = %v", err)
		}
		if w.state("a") != StateUnspecified {
			t.Errorf("state %v", w.state("a"))
		}
		w.check()
	})
}

func TestDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1, func(o *Options) { o.Disabled = true })
		_, err := w.load("a", "s1")
		_, err2 := w.m.Ensure(t.Context(), []string{"a"})
		_, err3 := w.m.Validate(t.Context(), "s1")
		for _, err := range []error{err, err2, err3} {
			if !errors.Is(err, ErrDisabled) || !strings.Contains(err.Error(), "not enabled") {
				t.Errorf("err = %v", err)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.workers[0].set(func() { w.workers[0].info.LoRAEnabled = false })
		w.restart()
		if _, err := w.load("a", "s1"); !errors.Is(err, ErrDisabled) {
			t.Errorf("err = %v", err)
		}
	})
}

func TestNoWorkerEverSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.stop()
		w.workers[0].setUp(false)
		w.start()
		_, err := w.load("a", "s1")
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "w0") {
			t.Errorf("err = %v", err)
		}
		w.check()
	})
}

func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		for _, n := range []string{"", " a", "a\n", "a\x00b", "\xff", strings.Repeat("a", 257)} {
			if _, err := w.load(n, "s1"); !errors.Is(err, ErrName) {
				t.Errorf("%q: %v", n, err)
			}
		}
		if _, err := w.load("a", "s1", func(r *LoadRequest) { r.Labels = map[string]string{"": "x"} }); !errors.Is(err, ErrLabel) {
			t.Errorf("label: %v", err)
		}
	})
}

func TestCorruptBlobFailsUntilLoadedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.mustLoad("a", "s1")
		w.stop()
		e := w.m.entries["a"]
		f, err := w.m.o.Blobs.OpenVerified(e.rec.WeightsBlob)
		if err != nil {
			t.Fatal(err)
		}
		path := f.Name()
		f.Close()
		w.workers[0].restart()
		if err := os.WriteFile(path, []byte("rot"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.start()
		synctest.Wait()
		if a, _ := w.m.Get("a"); a.State != Failed || !strings.Contains(a.Message, "load it again") {
			t.Errorf("%v %q", a.State, a.Message)
		}
		w.mustLoad("a", "s1")
		w.check()
		w.stop()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		w.start()
		synctest.Wait()
		if w.state("a") != Failed {
			t.Errorf("missing file: %v", w.state("a"))
		}
		w.mustLoad("a", "s1")
		w.check()
	})
}

func TestConcurrentLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arts := map[string]art{}
		for i := range 12 {
			arts[fmt.Sprint(i)] = art{seed: i % 8}
		}
		w := newWorld(t, arts, 3)
		done := make(chan error)
		for i := range 12 {
			go func() { _, err := w.load(fmt.Sprint("n", i%6), fmt.Sprint(i), replacing); done <- err }()
		}
		for range 12 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		l, more, rev := w.m.List("", 0)
		if len(l) != 6 || more || rev == 0 {
			t.Errorf("%d adapters, revision %d", len(l), rev)
		}
		w.check()
	})
}

func TestListPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		for _, n := range []string{"c", "a", "b"} {
			w.mustLoad(n, "s1")
		}
		var names []string
		after, pages := "", 0
		for {
			l, more, _ := w.m.List(after, 2)
			pages++
			for _, a := range l {
				names = append(names, a.Name)
				after = a.Name
			}
			if !more {
				break
			}
		}
		if diff := cmp.Diff([]string{"a", "b", "c"}, names); diff != "" || pages != 2 {
			t.Error(diff, pages)
		}
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		w.mustLoad("a", "s1")
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		fast, slow := w.m.Watch(ctx), w.m.Watch(ctx)
		first := <-fast
		if !first.Snapshot || len(first.Adapters) != 1 || first.Adapters[0].State != Loaded {
			t.Errorf("%+v", first)
		}
		var states []State
		var removed []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			for c := range fast {
				if c.Snapshot {
					t.Error("a second snapshot")
				}
				for _, a := range c.Adapters {
					if a.Name == "b" {
						states = append(states, a.State)
					}
				}
				removed = append(removed, c.Removed...)
			}
		}()
		w.mustLoad("b", "s2")
		if err := w.unload("a", false); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		// The slow one gets the state of now, in one message.
		c := <-slow
		if !c.Snapshot || len(c.Adapters) != 1 || c.Adapters[0].Name != "b" || c.Adapters[0].State != Loaded {
			t.Errorf("%+v", c)
		}
		w.mustLoad("c", "s3")
		if err := w.unload("b", false); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		c = <-slow
		if c.Snapshot || len(c.Adapters) != 1 || c.Adapters[0].Name != "c" || !slices.Equal(c.Removed, []string{"b"}) {
			t.Errorf("%+v", c)
		}
		cancel()
		<-done
		if !slices.Contains(states, Loaded) || !slices.Equal(removed, []string{"a", "b"}) {
			t.Errorf("states %v, removed %v", states, removed)
		}
		if _, ok := <-slow; ok {
			t.Error("not closed")
		}
	})
}

func TestClosedManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arts := someArts()
		w := newWorld(t, arts, 1)
		d := w.mustLoad("a", "s1").Adapter.Digest
		w.workers[0].lease(d, 1)
		watch := w.m.Watch(context.Background())
		<-watch
		done := make(chan error, 1)
		go func() { done <- w.unload("a", false) }()
		synctest.Wait()
		w.stop()
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("err = %v", err)
		}
		for range watch { // ends
		}
		// The drain goes on with the next process.
		w.workers[0].lease(d, -1)
		w.start()
		synctest.Wait()
		if w.state("a") != StateUnspecified {
			t.Errorf("state %v", w.state("a"))
		}
		w.check()
	})
}
