package coldstart

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"chorale/bench/client"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// Server is a running Chorale.
type Server struct {
	c       Config
	client  *client.Client
	folders []string // the first is the resident adapter's
	vocab   int
	tokens  int    // of a background answer
	digest  string // of the resident adapter

	mu    sync.Mutex // what follows
	rng   *rand.Rand
	next  int
	alive int
	err   error

	pulse  Pulse
	trial  int
	stop   context.CancelFunc
	ending sync.WaitGroup
}

// name is what trials call the adapter of a state.
func name(s State) string { return "coldstart-" + string(s) }

// OpenServer takes a server and at least two adapter folders of different
// content, which the server can read.
func OpenServer(ctx context.Context, cl *client.Client, folders []string, c Config) (*Server, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if len(folders) < 2 {
		return nil, fmt.Errorf("%w: %d adapter folders; at least two of different content are needed, one to stay and one to come and go", ErrConfig, len(folders))
	}
	m, err := cl.Model(ctx)
	if err != nil {
		return nil, err
	}
	tokens := min(backgroundTokens, int(m.GetContextLength())-backgroundPrompt-1)
	if tokens < 1 || c.Prompt+c.Output >= int(m.GetContextLength()) {
		return nil, fmt.Errorf("%w: the server's context of %d tokens is too short", ErrConfig, m.GetContextLength())
	}
	return &Server{c: c, client: cl, folders: folders, vocab: int(m.GetVocabSize()), tokens: tokens, rng: rand.New(rand.NewPCG(c.Seed, 0))}, nil
}

// Close ends the background and takes the adapters away.
func (s *Server) Close(ctx context.Context) error {
	if s.stop != nil {
		s.stop()
	}
	s.ending.Wait()
	var errs []error
	for _, st := range States {
		var missing *client.StatusError
		if _, err := s.client.Unload(ctx, &choralev1.UnloadAdapterRequest{Name: name(st), Force: true}); err != nil && !(errors.As(err, &missing) && missing.Status == 404) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Pulse implements Subject.
func (s *Server) Pulse() *Pulse { return &s.pulse }

// prompt draws n token ids, clear of the special ones in front.
func (s *Server) prompt(n int) *choralev1.Prompt {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids, lo := make([]int32, n), min(1000, s.vocab/4)
	for i := range ids {
		ids[i] = int32(lo + s.rng.IntN(s.vocab-lo))
	}
	return &choralev1.Prompt{Kind: &choralev1.Prompt_TokenIds{TokenIds: &choralev1.TokenIds{Ids: ids}}}
}

// generate makes a request and calls token with each token's arrival.
func (s *Server) generate(ctx context.Context, adapter string, prompt, output int, token func(at time.Time)) error {
	limit, zero := int32(output), 0.0
	req := &choralev1.GenerateRequest{
		Prompts: []*choralev1.Prompt{s.prompt(prompt)}, Adapters: []string{adapter},
		Sampling: &choralev1.SamplingParams{MaxTokens: &limit, Temperature: &zero, IgnoreEos: true},
	}
	return s.client.Generate(ctx, req, func(p *choralev1.GenerateStreamResponse) error {
		now := time.Now()
		for range p.GetTokenIds() {
			token(now)
		}
		if f := p.GetFinish(); f.GetReason() == choralev1.FinishReason_FINISH_REASON_ABORT {
			return errors.New("aborted by the server: " + f.GetMessage())
		}
		return nil
	})
}

// Keep implements Subject: the first call starts the requests, each of which is
// followed by another when it ends.
func (s *Server) Keep(ctx context.Context, n int) error {
	if s.stop == nil {
		var run context.Context
		run, s.stop = context.WithCancel(context.WithoutCancel(ctx))
		for range n {
			s.ending.Go(func() { s.background(run) })
		}
	}
	for {
		s.mu.Lock()
		alive, err := s.alive, s.err
		s.mu.Unlock()
		if err != nil || alive >= n {
			return err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) background(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		s.next++
		stream := s.next
		s.mu.Unlock()
		begun := false
		err := s.generate(ctx, "", backgroundPrompt, s.tokens, func(at time.Time) {
			s.pulse.Beat(stream, at)
			if !begun {
				begun = true
				s.count(1, nil)
			}
		})
		if begun {
			s.count(-1, nil)
		}
		if err != nil && ctx.Err() == nil {
			s.count(0, err)
			return
		}
	}
}

func (s *Server) count(alive int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alive += alive
	if s.err == nil {
		s.err = err
	}
}

func (s *Server) load(ctx context.Context, st State) (digest string, err error) {
	folder := s.folders[0]
	if st != Resident {
		rest := s.folders[1:]
		folder = rest[s.trial%len(rest)]
	}
	got, err := s.client.Load(ctx, &choralev1.LoadAdapterRequest{Name: name(st), Source: folder, Pinned: st == Resident})
	return got.GetAdapter().GetDigest(), err
}

// Ready implements Subject.
func (s *Server) Ready(ctx context.Context, st State) (err error) {
	s.trial++
	switch st {
	case Resident:
		if s.digest != "" {
			return nil
		}
		if s.digest, err = s.load(ctx, st); err != nil {
			return err
		}
		return s.generate(ctx, name(st), s.c.Prompt, 1, func(time.Time) {})
	case Host:
		digest, err := s.load(ctx, st)
		if err != nil {
			return err
		}
		return s.absent(ctx, digest)
	}
	return nil
}

// absent makes sure that an adapter is on no device.
func (s *Server) absent(ctx context.Context, digest string) error {
	if digest == s.digest {
		return fmt.Errorf("%w: the folders hold the same adapter", ErrConfig)
	}
	info, err := s.client.Server(ctx)
	if err != nil {
		return err
	}
	for _, g := range info.GetWorkerGroups() {
		if slices.Contains(g.GetResidentAdapters(), digest) {
			return fmt.Errorf("%w: it is on the device of %s, want it in host memory only", ErrState, g.GetAddress())
		}
	}
	return nil
}

// Ask implements Subject.
func (s *Server) Ask(ctx context.Context, st State) (begun, first time.Time, err error) {
	begun = time.Now()
	if st == File {
		if _, err := s.load(ctx, st); err != nil {
			return begun, first, err
		}
	}
	err = s.generate(ctx, name(st), s.c.Prompt, s.c.Output, func(at time.Time) {
		if first.IsZero() {
			first = at
		}
	})
	if err == nil && first.IsZero() {
		err = errors.New("the answer has no tokens")
	}
	return begun, first, err
}

// Forget implements Subject.
func (s *Server) Forget(ctx context.Context, st State) error {
	if st == Resident {
		return nil
	}
	_, err := s.client.Unload(ctx, &choralev1.UnloadAdapterRequest{Name: name(st), Force: true})
	return err
}
