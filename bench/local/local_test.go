package local

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"

	"chorale/bench/shape"
	"chorale/worker/engine"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T) (*Engine, *shape.Model) {
	m, err := shape.Find("tiny")
	if err != nil {
		t.Fatal(err)
	}
	b, err := cpu.New(cpu.Options{Precision: tensor.BF16, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(b, &m)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Open(b, loaded, engine.Options{MaxBatchTokens: 32, MaxRunning: 4, MaxAdapters: 2, MaxResident: 2, StarveSteps: 8, Pages: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		loaded.Free()
		b.Close()
	})
	return e, &m
}

// TestStreams: every token is counted, with and without an adapter.
func TestStreams(t *testing.T) {
	e, m := open(t)
	ctx := t.Context()
	f, err := Noise(&m.Spec, 4)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Put(ctx, "a", f); err != nil {
		t.Fatal(err)
	}
	if in, err := e.Resident(ctx, "a"); in || err != nil {
		t.Errorf("on the device before its first request: %v, %v", in, err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	s := e.Submit(rng, Ask{Prompt: 40, Output: 5, Adapter: "a"}, Ask{Prompt: 3, Output: 7})
	if err := e.Finish(ctx, s); err != nil {
		t.Fatal(err)
	}
	if len(s[0].Times) != 5 || len(s[1].Times) != 7 || s[0].Times[0].Before(s[0].Sent) {
		t.Errorf("%d and %d tokens", len(s[0].Times), len(s[1].Times))
	}
	if in, err := e.Resident(ctx, "a"); !in || err != nil {
		t.Errorf("not on the device after it: %v, %v", in, err)
	}
	steps := e.Steps()
	if len(steps) < 2 || steps[len(steps)-1].Status.Step < 7 || len(e.Steps()) != 0 {
		t.Errorf("%d messages", len(steps))
	}
}

func TestErrors(t *testing.T) {
	e, _ := open(t)
	rng := rand.New(rand.NewPCG(1, 1))
	if err := e.Finish(t.Context(), e.Submit(rng, Ask{Prompt: 3, Output: 1, Adapter: "none"})); err == nil {
		t.Error("an adapter that is not there")
	}
	long := e.Submit(rng, Ask{Prompt: 3, Output: 900})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Finish(ctx, long); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	e.Abort(long)
	if err := e.Finish(t.Context(), long); err != nil || len(long[0].Times) >= 900 {
		t.Errorf("%v after %d tokens", err, len(long[0].Times))
	}
	if err := e.Put(t.Context(), "x", Files{Config: []byte("{}")}); err == nil {
		t.Error("an adapter without weights")
	}
}
