package answer_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"chorale/router"
	"chorale/services/inference/answer"
	"chorale/services/rest/facetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func submit(t *testing.T, r *facetest.Router, n, choices int) ([]*router.Request, []*router.Handle) {
	t.Helper()
	var reqs []*router.Request
	for range n {
		s := router.DefaultSampling()
		s.N = choices
		reqs = append(reqs, &router.Request{Prompt: router.Prompt{IDs: []int32{1, 2}}, Sampling: s})
	}
	handles, err := r.Submit(t.Context(), reqs)
	if err != nil {
		t.Fatal(err)
	}
	return reqs, handles
}

func TestCollect(t *testing.T) {
	for _, n := range []int{1, 2, 50} {
		r := facetest.New()
		reqs, handles := submit(t, r, n, 2)
		set, err := answer.Collect(t.Context(), handles, reqs)
		if err != nil || len(set) != n {
			t.Fatal(err, len(set))
		}
		for i, choices := range set {
			for j, a := range choices {
				if a.Prompt != i || a.Choice != j || a.Text() != "Hello world" || a.Finish == nil {
					t.Errorf("%+v", a)
				}
				if diff := cmp.Diff(router.Usage{PromptTokens: 2, CompletionTokens: 3, CachedTokens: 1}, a.Usage); diff != "" {
					t.Error(diff)
				}
			}
		}
		if r.Open() != 0 {
			t.Errorf("%d handles open", r.Open())
		}
	}
}

func TestUsageIsCounted(t *testing.T) {
	r := facetest.New()
	r.Script = func(*router.Request, []int32) []router.Event {
		return []router.Event{{IDs: []int32{1, 2}}, {IDs: []int32{3}, Finish: &router.Finish{Reason: router.FinishLength}}}
	}
	reqs, handles := submit(t, r, 1, 1)
	set, err := answer.Collect(t.Context(), handles, reqs)
	if err != nil || set[0][0].Usage != (router.Usage{PromptTokens: 2, CompletionTokens: 3}) {
		t.Error(err, set[0][0].Usage)
	}
}

// TestEnds has each way to stop early close every handle and leave nothing
// running.
func TestEnds(t *testing.T) {
	stop := errors.New("stop")
	for _, n := range []int{1, 3} {
		for name, run := range map[string]func(r *facetest.Router) error{
			"fn fails": func(r *facetest.Router) error {
				_, handles := submit(t, r, n, 1)
				err := answer.Each(t.Context(), handles, func(int, router.Event) error { return stop })
				if !errors.Is(err, stop) {
					return fmt.Errorf("Each = %w", err)
				}
				return nil
			},
			"a handle fails": func(r *facetest.Router) error {
				r.NextErr = router.ErrWorkerLost
				reqs, handles := submit(t, r, n, 1)
				if _, err := answer.Collect(t.Context(), handles, reqs); !errors.Is(err, router.ErrWorkerLost) {
					return fmt.Errorf("Collect = %w", err)
				}
				return nil
			},
			"the context ends": func(r *facetest.Router) error {
				r.Hang = true
				ctx, cancel := context.WithCancel(t.Context())
				reqs, handles := submit(t, r, n, 1)
				cancel()
				if _, err := answer.Collect(ctx, handles, reqs); !errors.Is(err, context.Canceled) {
					return fmt.Errorf("Collect = %w", err)
				}
				return nil
			},
			"an answer fails": func(r *facetest.Router) error {
				r.Hang = true
				r.Script = func(*router.Request, []int32) []router.Event {
					return []router.Event{{Finish: &router.Finish{Reason: router.FinishAbort, Err: router.ErrWorker}}}
				}
				reqs, handles := submit(t, r, n, 1)
				if _, err := answer.Collect(t.Context(), handles, reqs); !errors.Is(err, router.ErrWorker) {
					return fmt.Errorf("Collect = %w", err)
				}
				return nil
			},
			"an odd choice": func(r *facetest.Router) error {
				r.Script = func(*router.Request, []int32) []router.Event { return []router.Event{{Choice: -1}} }
				reqs, handles := submit(t, r, n, 1)
				if _, err := answer.Collect(t.Context(), handles, reqs); err == nil {
					return errors.New("Collect = nil")
				}
				return nil
			},
		} {
			r := facetest.New()
			if err := run(r); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if r.Open() != 0 {
				t.Errorf("%s: %d handles open", name, r.Open())
			}
		}
	}
}

func TestFailure(t *testing.T) {
	for _, tt := range []struct {
		f    *router.Finish
		want error
	}{
		{nil, nil},
		{&router.Finish{Reason: router.FinishStop}, nil},
		{&router.Finish{Reason: router.FinishAbort}, nil},
		{&router.Finish{Reason: router.FinishAbort, Err: fmt.Errorf("x: %w", router.ErrAborted)}, nil},
		{&router.Finish{Reason: router.FinishAbort, Err: router.ErrWorker}, router.ErrWorker},
	} {
		if err := answer.Failure(tt.f); !errors.Is(err, tt.want) {
			t.Errorf("Failure(%+v) = %v", tt.f, err)
		}
	}
}
