package answer

import (
	"context"
	"errors"
	"io"
	"sync"

	"chorale/router"
)

// Answer is one choice of one prompt, so far or finished.
type Answer struct {
	// Prompt and Choice are its positions among the call's prompts and among
	// the prompt's N answers.
	Prompt, Choice int
	Handle         *router.Handle
	IDs            []int32
	Logprobs       []router.PositionLogprobs
	PromptLogprobs []router.PositionLogprobs
	Usage          router.Usage
	// Finish is nil while the answer goes on.
	Finish *router.Finish

	text []byte
}

// Text is the answer's text so far.
func (a *Answer) Text() string { return string(a.text) }

// Add takes in the choice's next event.
func (a *Answer) Add(ev router.Event) {
	a.text = append(a.text, ev.Text...)
	a.IDs = append(a.IDs, ev.IDs...)
	a.Logprobs = append(a.Logprobs, ev.Logprobs...)
	a.PromptLogprobs = append(a.PromptLogprobs, ev.PromptLogprobs...)
	// Events need not all carry usage: what is counted here is the floor.
	a.Usage.PromptTokens = max(a.Usage.PromptTokens, ev.Usage.PromptTokens, len(a.Handle.PromptIDs))
	a.Usage.CompletionTokens = max(a.Usage.CompletionTokens, ev.Usage.CompletionTokens, len(a.IDs))
	a.Usage.CachedTokens = max(a.Usage.CachedTokens, ev.Usage.CachedTokens)
	if ev.Finish != nil {
		a.Finish = ev.Finish
	}
}

// Failure is why an answer failed, nil when it ended as it should or was
// aborted by request.
func Failure(f *router.Finish) error {
	if f == nil || f.Reason != router.FinishAbort || f.Err == nil || errors.Is(f.Err, router.ErrAborted) {
		return nil
	}
	return f.Err
}

// Set holds the answers of a call, Set[prompt][choice].
type Set [][]*Answer

// NewSet makes room for reqs[i].Sampling.N answers of each handle.
func NewSet(handles []*router.Handle, reqs []*router.Request) Set {
	s := make(Set, len(handles))
	for i, h := range handles {
		n := max(1, reqs[i].Sampling.N)
		s[i] = make([]*Answer, n)
		for j := range s[i] {
			s[i][j] = &Answer{Prompt: i, Choice: j, Handle: h}
		}
	}
	return s
}

// errChoice reports an event for a choice that was not asked for.
var errChoice = errors.New("router answered a choice that was not asked for")

// Add takes in an event of one prompt and gives its answer.
func (s Set) Add(prompt int, ev router.Event) (*Answer, error) {
	if ev.Choice < 0 || ev.Choice >= len(s[prompt]) {
		return nil, errChoice
	}
	a := s[prompt][ev.Choice]
	a.Add(ev)
	return a, nil
}

// Collect waits for all answers. The first failure ends the others.
func Collect(ctx context.Context, handles []*router.Handle, reqs []*router.Request) (Set, error) {
	set := NewSet(handles, reqs)
	err := Each(ctx, handles, func(i int, ev router.Event) error {
		if err := Failure(ev.Finish); err != nil {
			return err
		}
		_, err := set.Add(i, ev)
		return err
	})
	if err != nil {
		return nil, err
	}
	return set, nil
}

// Each calls fn with every event of every handle, one call at a time, until
// all are read, fn fails or the context ends. It closes the handles and leaves
// no goroutine behind.
func Each(ctx context.Context, handles []*router.Handle, fn func(prompt int, ev router.Event) error) error {
	defer Close(handles)
	if len(handles) == 1 {
		return drain(ctx, handles[0], func(ev router.Event) error { return fn(0, ev) })
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	events, done := make(chan item), make(chan error)
	for i, h := range handles {
		wg.Go(func() { relay(ctx, i, h, events, done) })
	}
	for left := len(handles); left > 0; {
		select {
		case it := <-events:
			if err := fn(it.prompt, it.ev); err != nil {
				return err
			}
		case err := <-done:
			if err != nil {
				return err
			}
			left--
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// item is an event of one of several prompts.
type item struct {
	prompt int
	ev     router.Event
}

// relay hands a handle's events and then its end over, until the context ends.
func relay(ctx context.Context, prompt int, h *router.Handle, events chan<- item, done chan<- error) {
	err := drain(ctx, h, func(ev router.Event) error {
		select {
		case events <- item{prompt, ev}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	select {
	case done <- err:
	case <-ctx.Done():
	}
}

func drain(ctx context.Context, h *router.Handle, fn func(router.Event) error) error {
	for {
		ev, err := h.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(ev); err != nil {
			return err
		}
	}
}

// Close closes all handles.
func Close(handles []*router.Handle) {
	for _, h := range handles {
		h.Close()
	}
}
