package engine_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"chorale/worker/engine"
	"chorale/worker/tensor"
)

// TestWarmUp: steps of every size that fits are run, with adapters and without,
// and nothing is left behind.
func TestWarmUp(t *testing.T) {
	f := newFixture(t, tensor.BF16, 2)
	o := roomy()
	o.MaxRunning, o.MaxBatchTokens, o.MaxAdapters, o.MaxResident = 12, 64, 4, 4
	e := f.start(t, o)
	var told []int
	w := engine.Warm{
		Prefill: []int{64, 16, 100000}, Decode: []int{16, 8, 1}, Adapters: []string{"attn-r4", "qv-r16"},
		Progress: func(done, total int) {
			if total != 10 {
				t.Errorf("%d in all", total)
			}
			told = append(told, done)
		},
	}
	if err := e.WarmUp(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if len(told) != 10 || !slices.IsSorted(told) {
		t.Errorf("progress %v", told)
	}
	st, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Running+st.Waiting != 0 || st.PagesUsed != 0 || st.MaxAdapters != 2 {
		t.Errorf("afterwards: %+v", st)
	}
	// 3 rounds of at least 3 steps, twice; 3 prompts without adapters, one with.
	if st.Step < 2*9+3+1 {
		t.Errorf("only %d steps", st.Step)
	}
	if err := e.WarmUp(t.Context(), engine.Warm{Decode: []int{1}, Adapters: []string{"nobody"}}); err == nil {
		t.Error("an adapter that is not there: no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.WarmUp(ctx, w); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
