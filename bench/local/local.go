// Package local runs a worker's engine in this process, on weights of noise at
// any shape, and keeps the time of every token: the ground of the benchmarks of
// steps and of cold adapters. There is no router, no HTTP and no text.
package local

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"chorale/bench/shape"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/engine"
	"chorale/worker/lora"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
)

// Engine is an engine at work. Its methods are safe for concurrent use, except
// for Close.
type Engine struct {
	*engine.Engine
	model *decoder.Model
	conn  *engine.Conn
	stop  context.CancelFunc
	ended sync.WaitGroup
	runs  error

	mu      sync.Mutex
	changed *sync.Cond
	next    uint64
	streams map[uint64]*Stream
	steps   []Step
}

// Step is what came of one step, or of several that came in one message.
type Step struct {
	At     time.Time
	Status engine.Status
}

// Stream is one request's answer so far.
type Stream struct {
	id uint64
	// Sent is when it was submitted, Times when each token came.
	Sent  time.Time
	Times []time.Time
	// Done tells that no more come, Err why it failed.
	Done bool
	Err  error
	// Prompt counts its prompt's tokens.
	Prompt int
}

// Open loads a model of noise and starts its engine.
func Open(b tensor.Backend, m *decoder.Model, o engine.Options) (*Engine, error) {
	e := &Engine{model: m, streams: map[uint64]*Stream{}}
	e.changed = sync.NewCond(&e.mu)
	var err error
	if e.Engine, err = engine.New(b, m, o, zap.NewNop()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	e.ended.Go(func() { e.runs = e.Run(ctx) })
	e.conn = e.Connect()
	e.ended.Go(e.receive)
	return e, nil
}

// Load makes a model of noise.
func Load(b tensor.Backend, m *shape.Model) (*decoder.Model, error) {
	return decoder.Load(b, m.Spec, model.Dummy(&m.Spec))
}

// Close ends everything; the model stays the caller's.
func (e *Engine) Close() error {
	e.stop()
	e.ended.Wait()
	return e.runs
}

// receive stamps what comes, until the engine's end.
func (e *Engine) receive() {
	for {
		m, err := e.conn.Recv(context.Background())
		now := time.Now()
		e.mu.Lock()
		if err != nil {
			for _, s := range e.streams {
				if !s.Done {
					s.Done, s.Err = true, err
				}
			}
		}
		e.steps = append(e.steps, Step{now, m.Status})
		for i := range m.Outputs {
			o := &m.Outputs[i]
			s := e.streams[o.ID]
			for range o.Tokens {
				s.Times = append(s.Times, now)
			}
			if o.Reason != engine.Running {
				s.Done, s.Err = true, o.Err
				delete(e.streams, o.ID)
			}
		}
		e.changed.Broadcast()
		e.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Ask is one request: a prompt of so many random tokens, an answer of exactly
// so many.
type Ask struct {
	Prompt, Output int
	// Adapter is a digest that Put named, "" for the base model.
	Adapter string
}

// Submit hands requests over. rng draws their prompts.
func (e *Engine) Submit(rng *rand.Rand, asks ...Ask) []*Stream {
	vocab := e.model.Spec.Vocab
	reqs, out := make([]engine.Request, len(asks)), make([]*Stream, len(asks))
	e.mu.Lock()
	for i, a := range asks {
		e.next++
		ids := make([]int32, a.Prompt)
		for j := range ids {
			ids[j] = int32(rng.IntN(vocab))
		}
		reqs[i] = engine.Request{ID: e.next, Tokens: ids, Adapter: a.Adapter, MaxTokens: a.Output, IgnoreEOS: true}
		out[i] = &Stream{id: e.next, Prompt: a.Prompt}
		e.streams[e.next] = out[i]
	}
	now := time.Now()
	for _, s := range out {
		s.Sent = now
	}
	e.mu.Unlock()
	e.conn.Submit(reqs)
	return out
}

// Abort ends requests; wait for their Done.
func (e *Engine) Abort(streams []*Stream) {
	ids := make([]uint64, len(streams))
	for i, s := range streams {
		ids[i] = s.id
	}
	e.conn.Abort(ids)
}

// Wait returns when done says so, which is asked whenever something came, and
// holds the lock on all streams. The error is the context's.
func (e *Engine) Wait(ctx context.Context, done func() bool) error {
	defer context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.changed.Broadcast()
	})()
	e.mu.Lock()
	defer e.mu.Unlock()
	for !done() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e.changed.Wait()
	}
	return nil
}

// Finish waits until all streams are done, and tells the first error.
func (e *Engine) Finish(ctx context.Context, streams []*Stream) error {
	if err := e.Wait(ctx, func() bool { return All(streams, func(s *Stream) bool { return s.Done }) }); err != nil {
		return err
	}
	for _, s := range streams {
		if s.Err != nil {
			return s.Err
		}
	}
	return nil
}

// All tells whether ok holds for every stream.
func All(streams []*Stream, ok func(*Stream) bool) bool {
	for _, s := range streams {
		if !ok(s) {
			return false
		}
	}
	return true
}

// Steps takes away the steps since it was last called.
func (e *Engine) Steps() []Step {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.steps
	e.steps = nil
	return out
}

// Files are an adapter's two files.
type Files struct{ Config, Weights []byte }

// Noise makes an adapter of noise over all linear modules.
func Noise(s *decoder.Spec, rank int) (Files, error) {
	cfg, tensors, err := model.DummyAdapter(s, model.DummyLoRA{Base: "noise", Rank: rank, Seed: 1})
	if err != nil {
		return Files{}, err
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, tensors, nil); err != nil {
		return Files{}, err
	}
	return Files{cfg, b.Bytes()}, nil
}

// Put checks an adapter's files, as a worker does, and puts the adapter into
// host memory under a digest of the caller's choice. The files are not needed
// afterwards.
func (e *Engine) Put(ctx context.Context, digest string, f Files) error {
	h, err := e.host(digest, f)
	if err != nil {
		return fmt.Errorf("adapter %s: %w", digest, err)
	}
	if err := e.PutAdapter(ctx, h); err != nil {
		h.Release()
		return err
	}
	return nil
}

func (e *Engine) host(digest string, f Files) (lora.Host, error) {
	cfg, err := peft.ParseConfig(f.Config)
	if err != nil {
		return lora.Host{}, err
	}
	file, err := safetensors.Parse(f.Weights)
	if err != nil {
		return lora.Host{}, err
	}
	a, err := peft.Bind(cfg, file, model.Modules(&e.model.Spec), peft.Limits{})
	if err != nil {
		return lora.Host{}, err
	}
	im, err := model.NewImage(e.model, a)
	if err != nil {
		return lora.Host{}, err
	}
	return lora.Host{Digest: digest, Bytes: im.Bytes(), Pack: im.Load, Release: im.Free}, nil
}

// Resident tells whether an adapter is on the device.
func (e *Engine) Resident(ctx context.Context, digest string) (bool, error) {
	st, err := e.Status(ctx)
	if err != nil {
		return false, err
	}
	for _, d := range st.Resident {
		if d == digest {
			return true, nil
		}
	}
	return false, nil
}
