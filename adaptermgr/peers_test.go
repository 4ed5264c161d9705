package adaptermgr

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"chorale/internal/peft"
)

// The sequences of SGLang's own tests of loading and unloading, by what they
// expect of the set of loaded adapters and of errors: docs/peer-tests.md.

// peerArts are adapters like those of SGLang's tests: of ranks 5, 1, 3 and 3; the
// last targets fewer modules.
func peerArts() map[string]art {
	both := []string{"q_proj", "v_proj"}
	return map[string]art{
		"sql": {seed: 1, rank: 5, mods: both}, "topic": {seed: 2, rank: 1, mods: both}, "ocr": {seed: 3, rank: 3, mods: both},
		"fact": {seed: 4, rank: 3, mods: []string{"q_proj"}},
	}
}

// step is one operation of a sequence.
type step struct {
	// do is load, pin (load pinned), unload or use; of are the adapters: one, or
	// for use the names of one request.
	do string
	of []string
	// fails is a word of the error, empty for success; pushed are who must go.
	fails  string
	pushed []string
}

// peer runs steps as SGLang's tests do.
type peer struct {
	w      *world
	loaded map[string]bool
	known  map[string]bool
}

func (p *peer) run(t *testing.T, i int, s step) {
	t.Helper()
	var err error
	switch s.do {
	case "load", "pin":
		_, err = p.w.load(s.of[0], s.of[0], mustBeNew, func(r *LoadRequest) { r.Pinned = s.do == "pin" })
		p.loaded[s.of[0]] = p.loaded[s.of[0]] || s.fails == ""
	case "unload":
		err = p.w.unload(s.of[0], false)
		delete(p.loaded, s.of[0])
	case "use":
		err = p.use(s.of)
		for _, n := range s.of {
			p.loaded[n] = p.loaded[n] || s.fails == ""
		}
	}
	for _, n := range s.pushed {
		delete(p.loaded, n)
	}
	if s.fails == "" && err != nil || s.fails != "" && (err == nil || !strings.Contains(err.Error(), s.fails)) {
		t.Errorf("step %d, %s %v: %v, want %q", i, s.do, s.of, err, s.fails)
	}
	list, _, _ := p.w.m.List("", 0, Filter{})
	var got, want []string
	for _, a := range list {
		if a.State == Loaded {
			got = append(got, a.Name)
		}
	}
	for n, ok := range p.loaded {
		if ok {
			want = append(want, n)
			p.known[n] = true
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("step %d, %s %v: loaded\n%s", i, s.do, s.of, diff)
	}
}

// use asks for adapters as a router does that brings unloaded ones back
// (--lora-reload-unloaded).
func (p *peer) use(names []string) error {
	for _, n := range names {
		if _, err := p.w.m.Get(n); err != nil && p.known[n] {
			if _, err := p.w.load(n, n); err != nil {
				return err
			}
		}
	}
	ctx, cancel := p.w.patience()
	defer cancel()
	_, err := p.w.m.Ensure(ctx, names)
	return err
}

func TestSGLangUpdateSequences(t *testing.T) {
	load := func(n string) step { return step{do: "load", of: []string{n}} }
	pin := func(n string) step { return step{do: "pin", of: []string{n}} }
	unload := func(n string) step { return step{do: "unload", of: []string{n}} }
	use := func(ns ...string) step { return step{do: "use", of: ns} }
	fails := func(s step, word string) step { s.fails = word; return s }
	pushing := func(s step, ns ...string) step { s.pushed = ns; return s }
	const taken, never, unfit, starving = "already loaded", "never been loaded", "incompatible", "starvation"
	back := []step{
		unload("sql"), load("sql"), use("sql", "topic", "ocr"), unload("topic"), unload("ocr"), use("sql"), use("topic"), use("ocr"),
		fails(load("topic"), taken), fails(load("ocr"), taken), use("sql", "topic", "ocr"), unload("sql"), use("sql"), use("topic", "ocr"),
		unload("topic"), unload("ocr"), use("topic"), use("ocr"), use(),
	}
	for name, c := range map[string]struct {
		initial        []string
		rank           int
		modules        []string
		batch, loaded  int
		steps          []step
		pinnedAtStart  bool
		inferredLimits bool
	}{
		"adapters at the start":    {initial: []string{"sql", "topic", "ocr"}, batch: 3, steps: append([]step{fails(load("sql"), taken)}, back...)},
		"no adapters at the start": {batch: 4, steps: append([]step{load("sql"), load("topic"), load("ocr"), fails(load("sql"), taken)}, back...)},
		"modules given": {initial: []string{"fact"}, rank: 5, batch: 3, steps: []step{
			use("fact"), fails(use("topic"), never), load("topic"), use("fact", "topic"),
		}},
		"modules of a larger adapter": {initial: []string{"topic"}, rank: 5, inferredLimits: true, batch: 3, steps: []step{
			use("topic"), fails(use("fact"), never), load("fact"), use("fact", "topic"),
		}},
		"modules of a smaller adapter": {initial: []string{"fact"}, rank: 5, inferredLimits: true, batch: 3, steps: []step{
			use("fact"), fails(use("topic"), never), fails(load("topic"), unfit), use("fact"),
		}},
		"rank given": {initial: []string{"topic"}, rank: 3, batch: 3, steps: []step{
			use("topic"), fails(use("sql"), never), fails(use("ocr"), never), load("ocr"), use("ocr", "topic"),
			fails(load("sql"), unfit), fails(use("sql"), never), use("ocr", "topic"),
		}},
		"rank of the first": {initial: []string{"ocr"}, inferredLimits: true, batch: 3, steps: []step{
			use("ocr"), fails(load("sql"), unfit), fails(use("sql"), never), load("topic"), use("topic"), use("topic", "ocr"),
		}},
		"at most two loaded": {initial: []string{"sql"}, batch: 2, loaded: 2, steps: []step{
			load("topic"), pushing(load("ocr"), "sql"), pushing(use("topic", "sql"), "ocr"), unload("sql"), use("topic"), load("sql"),
			pushing(use("topic", "ocr"), "sql"), unload("topic"), load("fact"), pushing(use("topic", "sql"), "ocr", "fact"),
		}},
		"at most two loaded, one pinned": {initial: []string{"sql"}, pinnedAtStart: true, batch: 2, loaded: 2, steps: []step{
			load("topic"), pushing(load("ocr"), "topic"), pushing(use("sql", "topic"), "ocr"), fails(pin("ocr"), starving),
			unload("sql"), pin("ocr"), use("topic", "ocr"),
		}},
		"pins in a batch of two": {batch: 2, steps: []step{
			pin("sql"), fails(pin("topic"), starving), load("topic"), load("ocr"), unload("sql"), unload("ocr"), pin("ocr"),
			fails(pin("sql"), starving), load("sql"), use("sql", "topic"), use("sql", "ocr"), use("sql", "topic"),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, peerArts(), 1, func(o *Options) {
					o.MaxLoaded, o.Limits = c.loaded, peft.Limits{MaxRank: c.rank, TargetModules: c.modules}
				})
				w.workers[0].set(func() { w.workers[0].info.MaxLoRAsPerBatch = c.batch })
				w.restart()
				p := &peer{w: w, loaded: map[string]bool{}, known: map[string]bool{}}
				limits := peft.Limits{MaxRank: c.rank}
				for _, n := range c.initial {
					a := w.mustLoad(n, n, func(r *LoadRequest) { r.Pinned = c.pinnedAtStart }).Adapter
					p.loaded[n], p.known[n] = true, true
					limits.TargetModules = append(limits.TargetModules, a.TargetModules...)
					if c.rank == 0 {
						limits.MaxRank = max(limits.MaxRank, a.MaxRank)
					}
				}
				if c.inferredLimits {
					w.m.Restrict(limits)
				}
				for i, s := range c.steps {
					p.run(t, i, s)
					synctest.Wait()
				}
				w.check()
			})
		})
	}
}

// TestVLLMPinnedNeverLeaves: vLLM's sequence of adding, pinning and removing
// with four places.
func TestVLLMPinnedNeverLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arts := map[string]art{}
		for i := range 14 {
			arts[fmt.Sprint(i)] = art{seed: i}
		}
		w := newWorld(t, arts, 1, func(o *Options) { o.MaxLoaded = 4 })
		loaded := func(what string, want ...string) {
			t.Helper()
			var got []string
			list, _, _ := w.m.List("", 0, Filter{})
			for _, a := range list {
				if a.State == Loaded {
					got = append(got, a.Name)
				}
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
		}
		w.mustLoad("1", "1")
		w.mustLoad("2", "2")
		yes := true
		if _, err := w.m.Update(t.Context(), UpdateRequest{Name: "1", Pinned: &yes}); err != nil {
			t.Fatal(err)
		}
		others := []string{"2"}
		for i := 3; i <= 10; i++ {
			n := fmt.Sprint(i)
			w.mustLoad(n, n)
			if others = append(others, n); len(others) > 3 {
				others = others[1:]
			}
			loaded("with "+n, append([]string{"1"}, others...)...)
		}
		if err := w.unload("1", false); err != nil {
			t.Fatal(err)
		}
		loaded("without 1", "8", "9", "10")
		w.mustLoad("11", "11")
		loaded("with 11", "8", "9", "10", "11")
		w.mustLoad("12", "12")
		loaded("with 12", "9", "10", "11", "12")
		for _, n := range []string{"12", "11", "10", "9"} {
			if err := w.unload(n, false); err != nil {
				t.Error(err)
			}
		}
		loaded("at the end")
		w.check()
	})
}

// TestVLLMTenAtOnce: ten adapters are loaded and used at once where two may be
// loaded, of one content and of ten.
func TestVLLMTenAtOnce(t *testing.T) {
	for _, contents := range []int{1, 10} {
		t.Run(fmt.Sprint(contents), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				arts := map[string]art{}
				for i := range 10 {
					arts[fmt.Sprint(i)] = art{seed: i % contents}
				}
				w := newWorld(t, arts, 1, func(o *Options) { o.MaxLoaded = 2 })
				done := make(chan error)
				for i := range 10 {
					go func() {
						n := fmt.Sprint(i)
						_, err := w.load(n, n)
						for range 3 {
							if err == nil {
								_, err = w.m.Ensure(t.Context(), []string{n})
							}
						}
						done <- err
					}()
				}
				for range 10 {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				w.check()
			})
		})
	}
}
