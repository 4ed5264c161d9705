package main

import (
	"context"
	"testing"

	"go.uber.org/zap"

	"chorale/internal/checkpoint"
	"chorale/worker/engine"
	"chorale/worker/model"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

// slowAtFirst is the CPU, warmed up as a GPU is.
type slowAtFirst struct{ tensor.Backend }

func (slowAtFirst) Buckets(n int) []int { return []int{n, 4, 1} }

// TestWarmUp: a worker's warm-up runs with adapters of its own and leaves none.
func TestWarmUp(t *testing.T) {
	b, err := cpu.New(cpu.Options{Precision: tensor.BF16})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c, err := checkpoint.Open("../../worker/model/testdata/llama-gqa")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := &workerRole{backend: slowAtFirst{b}, log: zap.NewNop()}
	if w.model, _, err = model.Open(b, c); err != nil {
		t.Fatal(err)
	}
	defer w.model.Free()
	o := engine.Options{MaxBatchTokens: 32, MaxRunning: 8, MaxAdapters: 3, MaxResident: 3, StarveSteps: 16, Pages: 64}
	if w.engine, err = engine.New(b, w.model, o, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.engine.Run(ctx) }()
	status := func() engine.Status {
		t.Helper()
		st, err := w.engine.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	if err := w.warmUp(ctx, &weightFlags{SkipServerWarmup: true}, &loraFlags{}); err != nil || status().Step != 0 {
		t.Errorf("skipped: %v, %d steps", err, status().Step)
	}
	lf := &loraFlags{EnableLora: true, LoraTargetModules: []string{"q_proj", "down_proj", "lm_head"}}
	if err := w.warmUp(ctx, &weightFlags{}, lf); err != nil {
		t.Fatal(err)
	}
	if st := status(); st.Step < 20 || st.MaxAdapters != 3 || st.PagesUsed != 0 {
		t.Errorf("afterwards: %+v", st)
	}
	if list, err := w.engine.Adapters(ctx); err != nil || len(list) != 0 {
		t.Errorf("adapters left: %v %v", list, err)
	}
	for _, lf := range []*loraFlags{{}, {EnableLora: true, LoraTargetModules: []string{"lm_head"}}} {
		if err := w.warmUp(ctx, &weightFlags{}, lf); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
