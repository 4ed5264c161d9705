package adaptermgr

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"chorale/internal/peft"
)

func TestLoadPushesToAllGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 2)
		r := w.mustLoad("team/a.b:c ü", "s1", func(r *LoadRequest) { r.Labels = map[string]string{"k": "v"} })
		d := art{seed: 1}.digest(t)
		want := Adapter{
			Name: "team/a.b:c ü", Digest: d, State: Loaded, Source: "s1", Labels: map[string]string{"k": "v"},
			MaxRank: 2, TargetModules: []string{"q_proj"}, SizeBytes: r.Adapter.SizeBytes, Version: r.Adapter.Version,
			Created: r.Adapter.Created, Updated: r.Adapter.Updated,
			Placements: []Placement{{Worker: "w0", Loaded: true}, {Worker: "w1", Loaded: true}},
			LastUsed:   r.Adapter.LastUsed, Etag: r.Adapter.Etag, Versions: r.Adapter.Versions, History: r.Adapter.History,
		}
		if diff := cmp.Diff(want, r.Adapter); diff != "" {
			t.Error(diff)
		}
		if r.Adapter.SizeBytes == 0 || r.Revision == 0 || r.Adapter.Version == 0 {
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
		if !again.Adapter.equal(first.Adapter) {
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
			if errors.Is(want.err, ErrSourceNotFound) {
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
			Modules: []Module{{"model.layers.0.self_attn.q_proj", 2, 2}}, Ranks: []int{2}, SumRanks: 2,
			Cost: Cost{HostBytes: 64, DeviceBytes: 64, StepBytes: 64},
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

func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, someArts(), 1)
		for n, says := range map[string]string{
			"": "1 to 256 bytes", strings.Repeat("a", 257): "1 to 256 bytes", strings.Repeat("ü", 129): "1 to 256 bytes",
			" a": "blank", "a\u00a0": "blank", "\u2003a": "blank", "a\n": "control", "a\x00b": "control", "a\x7fb": "control", "a\u0085b": "control",
			"a\u2028b": "control", "a\u202eb": "control", "\xff": "UTF-8",
			"a@3": "version", "a@sha256:0123abcd": "version", "team/a@12": "version",
		} {
			if _, err := w.load(n, "s1"); !errors.Is(err, ErrName) || !strings.Contains(err.Error(), says) {
				t.Errorf("%q: %v", n, err)
			}
		}
		for _, n := range []string{"/", "..", "../a", "/abs/a b", "a@b", "a@", "@3", "a:b", "名前", "👩‍💻", strings.Repeat("a", 256)} {
			if _, err := w.load(n, "s1"); err != nil {
				t.Errorf("%q: %v", n, err)
			}
			if a, err := w.m.Get(n); err != nil || a.Name != n {
				t.Errorf("%q: %v", n, err)
			}
		}
		if _, err := w.load("a", "s1", func(r *LoadRequest) { r.Labels = map[string]string{"": "x"} }); !errors.Is(err, ErrLabel) {
			t.Errorf("label: %v", err)
		}
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
		l, more, rev := w.m.List("", 0, Filter{})
		if len(l) != 6 || more || rev == 0 {
			t.Errorf("%d adapters, revision %d", len(l), rev)
		}
		w.check()
	})
}
