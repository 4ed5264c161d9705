package coldstart

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"chorale/bench/shape"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config() Config {
	return Config{Subject: "test", States: States, Trials: 3, Warmup: 1, Prompt: 8, Output: 2, Background: 2, Quiet: 20 * time.Millisecond, Seed: 1}
}

// fake is a subject with known times: a step of 10 ms, one of 30 ms while a file
// is loaded.
type fake struct {
	pulse Pulse
	asked []State
	fail  State
}

var errBroken = errors.New("broken")

func (f *fake) Keep(context.Context, int) error     { return nil }
func (f *fake) Pulse() *Pulse                       { return &f.pulse }
func (f *fake) Forget(context.Context, State) error { return nil }
func (f *fake) Ready(_ context.Context, s State) error {
	if s == f.fail {
		return errBroken
	}
	return nil
}

func (f *fake) Ask(_ context.Context, s State) (begun, first time.Time, err error) {
	f.asked = append(f.asked, s)
	begun = time.Now()
	steps := map[State][]int{Resident: {10, 12}, Host: {10, 10, 13}, File: {10, 30, 10, 10}}[s]
	at := begun.Add(-time.Millisecond)
	for i := range 2 { // before the trial
		f.pulse.Beat(len(f.asked), at.Add(time.Duration(i-2)*10*time.Millisecond))
	}
	f.pulse.Beat(len(f.asked), at)
	for _, ms := range steps {
		d := time.Duration(ms) * time.Millisecond
		time.Sleep(d)
		at = at.Add(d)
		f.pulse.Beat(len(f.asked), at)
	}
	return begun, time.Now(), nil
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if got < want-1e-9 || got > want+1e-9 {
		t.Errorf("%s: %g, want %g", what, got, want)
	}
}

func TestFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		res, err := Run(t.Context(), f, config())
		if err != nil {
			t.Fatal(err)
		}
		if len(f.asked) != 12 || !slices.Equal(f.asked[:3], States) {
			t.Errorf("asked %v", f.asked)
		}
		for i, want := range []struct{ ttft, delta, longest, excess float64 }{
			{.022, 0, .012, 0}, {.033, .011, .013, .001}, {.060, .038, .030, .018},
		} {
			g := res.States[i]
			if len(g.Trials) != 3 {
				t.Errorf("%d trials", len(g.Trials))
			}
			near(t, "ttft", g.TTFT.P50, want.ttft)
			near(t, "delta", g.Delta, want.delta)
			near(t, "longest", g.Longest.P50, want.longest)
			near(t, "excess", g.Excess, want.excess)
			near(t, "worst", g.Worst, want.excess)
		}
		near(t, "step", res.Step.P50, .010)
		checkWritten(t, res)
	})
}

func checkWritten(t *testing.T, res *Result) {
	text, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(res.States, back.States); d != "" {
		t.Error(d)
	}
	var b bytes.Buffer
	if err := back.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"over resident", "+38.00", "+18.00", "2 requests beside"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if err := back.Page().WriteFile(filepath.Join(t.TempDir(), "c.svg")); err != nil {
		t.Error(err)
	}
}

func TestRunFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if _, err := Run(t.Context(), &fake{fail: Host}, config()); !errors.Is(err, errBroken) {
			t.Errorf("error %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(200*time.Millisecond, cancel)
		res, err := Run(ctx, &fake{}, config())
		if err != nil || res.Stopped == "" || len(res.States[0].Trials) == 3 {
			t.Errorf("%+v, %v", res, err)
		}
	})
}

func TestConfig(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"resident": func(c *Config) { c.States = []State{Host} }, "state": func(c *Config) { c.States = []State{Resident, "x"} },
		"trials": func(c *Config) { c.Trials = 0 }, "prompt": func(c *Config) { c.Prompt = 0 }, "background": func(c *Config) { c.Background = -1 },
		"quiet": func(c *Config) { c.Quiet = -1 },
	} {
		c := config()
		spoil(&c)
		if _, err := Run(t.Context(), &fake{}, c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLocal: a tiny engine with requests beside, and nothing left behind.
func TestLocal(t *testing.T) {
	m, err := shape.Find("tiny")
	if err != nil {
		t.Fatal(err)
	}
	b, err := cpu.New(cpu.Options{Precision: tensor.BF16, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := config()
	// Without warm-up the first trial must not look like the others.
	c.States, c.Warmup = []State{File, Host, Resident}, 0
	l, err := OpenLocal(b, &m, 4, c)
	if err != nil {
		t.Fatal(err)
	}
	dir := l.dir
	res, err := Run(t.Context(), l, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range res.States {
		if g.TTFT.N != 3 || g.TTFT.P50 <= 0 || g.Longest.P50 <= 0 {
			t.Errorf("%+v", g)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
}
