package bench

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample() Config {
	return Config{
		Targets: []TargetSpec{{Name: "t", URL: "http://h", API: "chorale"}}, Modes: []Mode{ModeNone},
		Clients: 4, Requests: 3, Repeat: 1, Alpha: .5, Prompt: Lengths{8, 16}, Output: Lengths{4, 9}, Seed: 42,
	}
}

func TestItemsShape(t *testing.T) {
	c := sample()
	p := newPrompts(32000, nil)
	shapes := map[string][]item{}
	for cell, mode := range []Mode{ModeNone, ModeSame, ModeEach, ModePower} {
		items, err := c.items(p, mode, 3, 0, cell)
		if err != nil {
			t.Fatal(err)
		}
		if len(items) != 12 {
			t.Fatalf("%d items", len(items))
		}
		shapes[string(mode)] = items
	}
	none := shapes["none"]
	for mode, items := range shapes {
		for i := range items {
			it := &items[i]
			if len(it.ids) != len(none[i].ids) || it.output != none[i].output || it.client != i/3 {
				t.Errorf("%s %d: other shape than none's", mode, i)
			}
			if mode != "none" && slices.Equal(it.ids, none[i].ids) {
				t.Errorf("%s %d: the same prompt again", mode, i)
			}
			want := map[string]int{"none": -1, "same": 0, "each": it.client % 3}
			if w, ok := want[mode]; ok && it.adapter != w {
				t.Errorf("%s %d: adapter %d, want %d", mode, i, it.adapter, w)
			}
			for _, id := range it.ids {
				if id < firstID || id >= 32000 {
					t.Errorf("token id %d", id)
				}
			}
		}
	}
}

func TestItemsDeterministic(t *testing.T) {
	c := sample()
	c.Rate, c.CV, c.Total = 10, 2, 20
	make := func(seed uint64, round int) []item {
		c.Seed = seed
		items, err := c.items(newPrompts(32000, nil), ModePower, 5, round, 1)
		if err != nil {
			t.Fatal(err)
		}
		return items
	}
	opt := cmp.AllowUnexported(item{})
	if d := cmp.Diff(make(1, 0), make(1, 0), opt); d != "" {
		t.Error(d)
	}
	if cmp.Equal(make(1, 0), make(2, 0), opt) || cmp.Equal(make(1, 0), make(1, 1), opt) {
		t.Error("other seeds and rounds give the same load")
	}
}

func TestDues(t *testing.T) {
	c := sample()
	c.Rate, c.CV, c.Duration = 100, 0, 1_005_000_000
	if d := c.dues(c.rng(1, 0, 0)); len(d) != 100 || d[0] != .01 {
		t.Errorf("%d requests in 1.005 s at 100/s", len(d))
	}
	c.Total = 7
	if d := c.dues(c.rng(1, 0, 0)); len(d) != 7 || !slices.IsSorted(d) {
		t.Errorf("%v", d)
	}
}

func TestPromptsNeverRepeat(t *testing.T) {
	c := sample()
	c.Prompt, c.Clients, c.Requests = Lengths{Lo: 1}, 1, 6
	p := newPrompts(8, nil) // ids 2…7
	items, err := c.items(p, ModeNone, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int32]bool{}
	for _, it := range items {
		seen[it.ids[0]] = true
	}
	if len(seen) != 6 {
		t.Errorf("%d different prompts of 6", len(seen))
	}
	if _, err := c.items(p, ModeNone, 0, 1, 0); !errors.Is(err, ErrConfig) {
		t.Errorf("error %v, want ErrConfig", err)
	}
}

func TestTextsAndPairs(t *testing.T) {
	c := sample()
	c.Pairs = []Pair{{5, 6}, {7, 8}}
	items, err := c.items(newPrompts(32000, nil), ModeNone, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if p := (Pair{len(it.ids), it.output}); !slices.Contains(c.Pairs, p) {
			t.Errorf("pair %v", p)
		}
	}
	items, err = c.items(newPrompts(32000, []string{"x", "y"}), ModeNone, 0, 0, 0)
	if err != nil || items[0].text != "x" || items[1].text != "y" || items[2].text != "x" || items[0].ids != nil {
		t.Errorf("%v, %v", items, err)
	}
}

func TestWarmup(t *testing.T) {
	c := sample()
	c.Rate, c.Total, c.CV = 5, 100, 1
	items, err := c.warmup(newPrompts(32000, nil), ModePower, 20, 0, 0)
	if err != nil || len(items) != 20 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, it := range items {
		if it.adapter != i {
			t.Errorf("item %d has adapter %d: each must be named", i, it.adapter)
		}
	}
}

func TestCheck(t *testing.T) {
	good := sample()
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no target":  func(c *Config) { c.Targets = nil },
		"api":        func(c *Config) { c.Targets[0].API = "x" },
		"twice":      func(c *Config) { c.Targets = append(c.Targets, c.Targets[0]) },
		"no mode":    func(c *Config) { c.Modes = nil },
		"mode":       func(c *Config) { c.Modes = []Mode{"x"} },
		"mode twice": func(c *Config) { c.Modes = []Mode{ModeNone, ModeNone} },
		"clients":    func(c *Config) { c.Clients = 0 },
		"many":       func(c *Config) { c.Clients = maxClients + 1 },
		"requests":   func(c *Config) { c.Requests = 0 },
		"too many":   func(c *Config) { c.Requests = maxItems },
		"rate":       func(c *Config) { c.Rate = -1 },
		"endless":    func(c *Config) { c.Rate = 1 },
		"cv":         func(c *Config) { c.Rate, c.Total, c.CV = 1, 1, -1 },
		"alpha":      func(c *Config) { c.Alpha = 0 },
		"repeat":     func(c *Config) { c.Repeat = 0 },
		"warmup":     func(c *Config) { c.Warmup = -1 },
		"vocab":      func(c *Config) { c.Vocab = 1 },
		"slo":        func(c *Config) { c.SLO.TTFT = -1 },
		"prompt":     func(c *Config) { c.Prompt = Lengths{} },
	} {
		c := sample()
		spoil(&c)
		if err := c.check(); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: error %v, want ErrConfig", name, err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	def := TargetSpec{API: "chorale", Key: "k"}
	got, err := ParseTarget("peer=http://h:8080/x,api=llama,pid=7,adapters=a:b", def)
	want := TargetSpec{Name: "peer", URL: "http://h:8080/x", API: "llama", PID: 7, Adapters: []string{"a", "b"}, Key: "k"}
	if err != nil || !cmp.Equal(want, got) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = ParseTarget("http://h:1", def); err != nil || got.Name != "h:1" || got.URL != "http://h:1" || got.API != "chorale" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, s := range []string{"", "a=", "a=http://h,api=x", "a=http://h,pid=x", "a=http://h,foo=1"} {
		if _, err := ParseTarget(s, def); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: error %v, want ErrConfig", s, err)
		}
	}
}
