package bench

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAPI answers one request at a time: first token after wait, then one each
// gap. Time is synctest's.
type fakeAPI struct {
	wait, gap time.Duration
	// slot, of capacity 1, makes it answer one at a time: a channel and no
	// mutex, which would hold synctest's clock.
	slot  chan struct{}
	fail  func(c *call) error
	chunk int

	count     sync.Mutex
	calls     []call
	now, most int
}

func (f *fakeAPI) probe(context.Context) (Info, error) { return Info{}, nil }

func (f *fakeAPI) enter(c *call) {
	f.count.Lock()
	defer f.count.Unlock()
	f.calls = append(f.calls, *c)
	f.now++
	f.most = max(f.most, f.now)
}

func (f *fakeAPI) leave() {
	f.count.Lock()
	defer f.count.Unlock()
	f.now--
}

func (f *fakeAPI) stream(ctx context.Context, c *call, tokens func(int)) (counts, error) {
	f.enter(c)
	defer f.leave()
	if f.slot != nil {
		f.slot <- struct{}{}
		defer func() { <-f.slot }()
	}
	if f.fail != nil {
		if err := f.fail(c); err != nil {
			return counts{}, err
		}
	}
	d := f.wait
	for n := 0; n < c.output; {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return counts{}, ctx.Err()
		}
		d = f.gap
		n = min(c.output, n+max(1, f.chunk))
		tokens(n)
	}
	return counts{len(c.ids), c.output}, nil
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-9 {
		t.Errorf("%s: %g, want %g", what, got, want)
	}
}

func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAPI{wait: time.Second, gap: 100 * time.Millisecond}
		c := sample()
		c.Output = Lengths{Lo: 3}
		items, err := c.items(newPrompts(32000, nil), ModeEach, 2, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		tg := &target{api: f, adapters: []string{"a", "b"}}
		got := tg.run(t.Context(), &c, items)
		if len(got) != 12 || f.most != 4 {
			t.Fatalf("%d samples, %d at once", len(got), f.most)
		}
		for i, s := range got {
			start := float64(i%3) * 1.2 // the client's requests follow each other
			near(t, "due", s.Due, start)
			near(t, "sent", s.Sent, start)
			near(t, "ttft", s.ttft(), 1)
			near(t, "tpot", s.tpot(), .1)
			if want := []string{"a", "b"}[(i/3)%2]; s.Adapter != want || len(s.Tokens) != 3 || s.PromptTokens != len(items[i].ids) || !s.ok() {
				t.Errorf("%d: %+v", i, s)
			}
		}
		near(t, "wall", measure([][]Sample{got}, SLO{}).Wall, 3.6)
	})
}

// TestOpenLoopCountsWaiting: a server that answers one request at a time, 2 s
// each, while one comes each second. Latencies count from the due time, so the
// queue shows.
func TestOpenLoopCountsWaiting(t *testing.T) {
	for _, limit := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeAPI{wait: 2 * time.Second, slot: make(chan struct{}, 1)}
			c := sample()
			c.Rate, c.CV, c.Total, c.Output, c.MaxInFlight = 1, 0, 4, Lengths{Lo: 1}, limit
			items, err := c.items(newPrompts(32000, nil), ModeNone, 0, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			got := (&target{api: f}).run(t.Context(), &c, items)
			m := measure([][]Sample{got}, SLO{TTFT: 3.5})
			near(t, "sum of TTFT", m.TTFT.Mean*4, 2+3+4+5)
			near(t, "attainment", m.SLO, .5)
			if limit > 0 {
				near(t, "late", m.Late, 3)
				if f.most != 1 {
					t.Errorf("%d in flight", f.most)
				}
			} else {
				near(t, "late", m.Late, 0)
				if f.most != 3 {
					t.Errorf("%d in flight", f.most)
				}
			}
		})
	}
}

func TestRunIsCut(t *testing.T) {
	for name, rate := range map[string]float64{"closed": 0, "open": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
				defer cancel()
				f := &fakeAPI{wait: time.Second, gap: time.Second}
				c := sample()
				c.Rate, c.Total, c.Clients, c.Requests, c.Output, c.MaxInFlight = rate, 10, 1, 10, Lengths{Lo: 2}, 1
				items, err := c.items(newPrompts(32000, nil), ModeNone, 0, 0, 0)
				if err != nil {
					t.Fatal(err)
				}
				got := (&target{api: f}).run(ctx, &c, items)
				// Closed: one ended at 2 s, one begun. Open: due at 1 s and begun, due
				// at 2 s and held back.
				m := measure([][]Sample{got}, SLO{})
				if len(got) != 2 || got[1].Due != 2 || !got[1].Cut || m.Cut != 2-m.E2E.N || m.Errors != 0 {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

func TestRunErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		f := &fakeAPI{wait: time.Second, chunk: 2, fail: func(c *call) error {
			if c.adapter == "b" {
				return broken
			}
			return nil
		}}
		c := sample()
		items, err := c.items(newPrompts(32000, nil), ModeEach, 2, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		m := measure([][]Sample{(&target{api: f, adapters: []string{"a", "b"}}).run(t.Context(), &c, items)}, SLO{})
		if m.Requests != 12 || m.Errors != 6 || m.E2E.N != 6 || m.SLO != .5 {
			t.Errorf("%+v", m)
		}
	})
}

// fewAPI ends with fewer tokens than its chunks suggested, or with none.
type fewAPI struct{ n int }

func (fewAPI) probe(context.Context) (Info, error) { return Info{}, nil }
func (f fewAPI) stream(_ context.Context, _ *call, tokens func(int)) (counts, error) {
	tokens(3)
	return counts{9, f.n}, nil
}

func TestFinalCount(t *testing.T) {
	c := sample()
	items := []item{{text: "x", output: 5, adapter: -1}}
	got := (&target{api: fewAPI{2}}).run(t.Context(), &c, items)
	if len(got[0].Tokens) != 2 || got[0].PromptTokens != 9 || !got[0].ok() {
		t.Errorf("%+v", got[0])
	}
	if got = (&target{api: fewAPI{0}}).run(t.Context(), &c, items); got[0].Error == "" {
		t.Errorf("%+v", got[0])
	}
}
