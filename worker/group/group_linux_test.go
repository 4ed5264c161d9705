package group_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"chorale/internal/checkpoint"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/collective"
	"chorale/worker/engine"
	"chorale/worker/group"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/sample"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const golden = "../model/testdata/llama-gqa"

var adapterNames = []string{"attn-r4", "all-r8-bf16", "lm-head", "embed", "mixed-rslora"}

// rank is one of a group's ranks, all of which are in this process here.
type rank struct {
	backend tensor.Backend
	model   *decoder.Model
	late    *group.Late
	o       group.Options
}

// patient is for a machine that is busy with other tests.
var patient = collective.Options{Timeout: time.Minute, Stall: 30 * time.Second}

const digestSteps = 4

func newRank(t testing.TB, n, size, depth int, address string) *rank {
	t.Helper()
	return newRankOn(t, n, size, depth, address, func(b tensor.Backend) tensor.Backend { return b })
}

// newRankOn is one on a backend that something was done to.
func newRankOn(t testing.TB, n, size, depth int, address string, change func(tensor.Backend) tensor.Backend) *rank {
	t.Helper()
	r := &rank{late: group.NewLate(n, size), o: group.Options{
		Rank: n, Size: size, Address: address, Token: "t", DigestSteps: digestSteps, Collective: patient,
		Facts: []group.Fact{{Name: "model", Value: golden}, {Name: "dtype", Value: "float32"}},
	}}
	// Small chunks, which adapters take too, as on a device with memory of its own.
	b, err := cpu.New(cpu.Options{Precision: tensor.F32, Threads: 1, ChunkBytes: 4096, CountImages: true, Depth: depth})
	if err != nil {
		t.Fatal(err)
	}
	r.backend = change(b)
	t.Cleanup(func() { r.backend.Close() })
	if size > 1 {
		if err := r.backend.Join(r.late); err != nil {
			t.Fatal(err)
		}
	}
	c, err := checkpoint.Open(golden)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if r.model, _, err = model.Open(r.backend, c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.model.Free)
	return r
}

const maxRows = 64

func options() engine.Options {
	return engine.Options{MaxBatchTokens: maxRows, MaxRunning: 16, MaxAdapters: 4, MaxResident: 4, StarveSteps: 32, Pages: 96, MemoryBytes: 1 << 20}
}

// site is a group with an engine.
type site struct {
	t      testing.TB
	ranks  []*rank
	leader *group.Leader
	engine *engine.Engine
	run    chan error   // the engine's end
	others []chan error // the followers'
	stop   context.CancelFunc
	once   sync.Once
	ended  error
}

// address of a rendezvous: over shared memory or TCP.
func address(t testing.TB, tcp bool) string {
	if tcp {
		return freePort(t)
	}
	return fmt.Sprintf("unix:@chorale-test-%d-%d", os.Getpid(), rand.Uint64())
}

func start(t testing.TB, size, depth int, tcp bool) *site {
	t.Helper()
	at := address(t, tcp)
	ranks := make([]*rank, size)
	for n := range ranks {
		ranks[n] = newRank(t, n, size, depth, at)
	}
	return startRanks(t, ranks)
}

func startRanks(t testing.TB, ranks []*rank) *site {
	t.Helper()
	s := &site{t: t, ranks: ranks, run: make(chan error, 1)}
	size := len(ranks)
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	t.Cleanup(func() { s.end() })
	for _, r := range s.ranks[1:] {
		end := make(chan error, 1)
		s.others = append(s.others, end)
		go func() { end <- r.follow(context.Background()) }()
	}
	o := options()
	if size > 1 {
		meet, done := context.WithTimeout(ctx, time.Minute)
		defer done()
		var err error
		if s.leader, err = group.Lead(meet, s.ranks[0].o, s.ranks[0].late); err != nil {
			t.Fatal(err)
		}
		o.Ranks = s.leader
	}
	var err error
	if s.engine, err = engine.New(s.ranks[0].backend, s.ranks[0].model, o, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	go func() { s.run <- s.engine.Run(ctx) }()
	return s
}

func (r *rank) follow(ctx context.Context) error {
	meet, done := context.WithTimeout(ctx, time.Minute)
	defer done()
	f, err := group.Follow(meet, r.o, r.late, r.model, maxRows, func(l tensor.MemoryLayout) (int64, error) {
		return engine.Measure(r.backend, l, 0, 0)
	})
	if err != nil {
		return err
	}
	return errors.Join(f.Run(ctx), f.Close())
}

// end stops everything and gives why the engine and the followers ended.
func (s *site) end() error {
	s.once.Do(func() {
		s.stop()
		if s.engine != nil {
			s.ended = <-s.run
		}
		if s.leader != nil {
			if err := s.leader.Close(); err != nil {
				s.t.Error(err)
			}
		}
		for i, f := range s.others {
			select {
			case err := <-f:
				if !errors.Is(err, group.ErrOver) {
					s.t.Errorf("rank %d ended with %v", i+1, err)
				}
			case <-time.After(10 * time.Second):
				s.t.Errorf("rank %d has not ended", i+1)
			}
		}
	})
	return s.ended
}

// put brings an adapter.
func (s *site) put(name string) {
	s.t.Helper()
	dir := filepath.Join(golden, "adapters", name)
	config, err := os.ReadFile(filepath.Join(dir, peft.ConfigFile))
	if err != nil {
		s.t.Fatal(err)
	}
	weights, err := os.ReadFile(filepath.Join(dir, peft.WeightsFile))
	if err != nil {
		s.t.Fatal(err)
	}
	m := s.ranks[0].model
	cfg, err := peft.ParseConfig(config)
	if err != nil {
		s.t.Fatal(err)
	}
	f, err := safetensors.Parse(weights)
	if err != nil {
		s.t.Fatal(err)
	}
	a, err := peft.Bind(cfg, f, model.Modules(&m.Spec), peft.Limits{})
	if err != nil {
		s.t.Fatal(err)
	}
	im, err := model.NewImage(m, a)
	if err != nil {
		s.t.Fatal(err)
	}
	h, err := group.Host(s.leader, name, config, weights, im)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.engine.PutAdapter(context.Background(), h); err != nil {
		s.t.Fatal(err)
	}
}

// requests mix adapters, lengths and sampling; there are more than fit at once.
func requests(n int) []engine.Request {
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([]engine.Request, n)
	for i := range out {
		ids := make([]int32, 1+rng.IntN(60))
		for j := range ids {
			ids[j] = int32(rng.IntN(72))
		}
		out[i] = engine.Request{ID: uint64(i + 1), Tokens: ids, MaxTokens: 1 + rng.IntN(40), IgnoreEOS: rng.IntN(4) > 0, Params: sample.Params{
			Temperature: float64(rng.IntN(2)) * 0.8, TopP: 1, RepetitionPenalty: 1 + float64(rng.IntN(2))*0.1, Seed: rng.Uint64(),
		}}
		if k := rng.IntN(len(adapterNames) + 1); k > 0 {
			out[i].Adapter = adapterNames[k-1]
		}
		if rng.IntN(4) == 0 {
			out[i].Params.LogitBias = map[int32]float64{5: 2, 7: -3}
		}
		if rng.IntN(4) == 0 {
			out[i].Params.TopK, out[i].Params.TopP = 20, 0.9
		}
		if rng.IntN(5) == 0 {
			out[i].Logprobs = &engine.Logprobs{PromptStart: -1, Top: 3, IDs: []int32{1, 2}}
		}
	}
	return out
}

// answers submits requests and collects their tokens.
func (s *site) answers(reqs []engine.Request) map[uint64][]int32 {
	s.t.Helper()
	c := s.engine.Connect()
	defer c.Close()
	c.Submit(reqs)
	out := map[uint64][]int32{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for open := len(reqs); open > 0; {
		m, err := c.Recv(ctx)
		if err != nil {
			s.t.Fatalf("%d sequences have not ended: %v", open, err)
		}
		for _, o := range m.Outputs {
			out[o.ID] = append(out[o.ID], o.Tokens...)
			if o.Err != nil {
				s.t.Errorf("sequence %d: %v", o.ID, o.Err)
			}
			if o.Reason != engine.Running {
				open--
			}
		}
	}
	return out
}

// TestSameAnswers: a group answers as one rank does, with adapters of all kinds
// coming and going, with a cache that is too small, over both transports.
func TestSameAnswers(t *testing.T) {
	n := 60
	if testing.Short() {
		n = 20
	}
	reqs := requests(n)
	one := start(t, 1, 1, false)
	for _, n := range adapterNames {
		one.put(n)
	}
	want := one.answers(slices.Clone(reqs))
	for _, c := range []struct {
		size, depth int
		tcp         bool
	}{{2, 1, false}, {2, 2, false}, {4, 1, false}, {2, 2, true}} {
		t.Run(fmt.Sprintf("ranks=%d/depth=%d/tcp=%v", c.size, c.depth, c.tcp), func(t *testing.T) {
			s := start(t, c.size, c.depth, c.tcp)
			for _, n := range adapterNames {
				s.put(n)
			}
			for round := range 2 {
				got := s.answers(slices.Clone(reqs))
				for i := range reqs {
					if id := reqs[i].ID; !slices.Equal(got[id], want[id]) {
						t.Errorf("round %d, sequence %d of %q: %v, one rank %v", round, id, reqs[i].Adapter, got[id], want[id])
					}
				}
			}
			for _, n := range adapterNames[:2] {
				if err := s.engine.DropAdapter(context.Background(), n, false); err != nil {
					t.Error(err)
				}
			}
			if classes, _ := s.leader.Plans().Counts(); len(classes) == 0 {
				t.Error("no plan was counted")
			}
			if err := s.end(); err != nil {
				t.Errorf("the engine ended with %v", err)
			}
		})
	}
}

// TestDiffer: ranks with other options are refused, by name, with both values.
func TestDiffer(t *testing.T) {
	at := address(t, false)
	a, b := newRank(t, 0, 2, 1, at), newRank(t, 1, 2, 1, at)
	b.o.Facts = []group.Fact{{Name: "model", Value: golden}, {Name: "dtype", Value: "bfloat16"}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	follower := make(chan error, 1)
	go func() { follower <- b.follow(ctx) }()
	_, err := group.Lead(ctx, a.o, a.late)
	for who, err := range map[string]error{"leader": err, "follower": <-follower} {
		if !errors.Is(err, group.ErrOptions) || !strings.Contains(err.Error(), "dtype is bfloat16 on rank 1 and float32 on the leader") {
			t.Errorf("the %s says %v", who, err)
		}
	}
}

// TestLost: sequences of a group that loses a rank end as on a worker that stops,
// and the engine says whose fault it was.
func TestLost(t *testing.T) {
	for _, idle := range []bool{false, true} {
		t.Run(fmt.Sprintf("idle=%v", idle), func(t *testing.T) {
			s := start(t, 2, 1, false)
			c := s.engine.Connect()
			defer c.Close()
			if !idle {
				c.Submit([]engine.Request{{ID: 1, Tokens: []int32{1, 2}, MaxTokens: 200, IgnoreEOS: true, Params: sample.Params{TopP: 1, RepetitionPenalty: 1}}})
				s.hear(c)
			}
			began := time.Now()
			s.ranks[1].late.Abort("broken on request")
			err := <-s.run
			s.run <- err
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the engine noticed after %v", took)
			}
			var f *group.Fault
			if !errors.Is(err, engine.ErrGroup) || !errors.As(err, &f) || f.Rank != 1 || f.Reason != "broken on request" {
				t.Errorf("the engine ended with %v", err)
			}
			s.end()
			for {
				m, err := c.Recv(context.Background())
				if errors.Is(err, engine.ErrClosed) {
					break
				}
				for _, o := range m.Outputs {
					if o.Reason == engine.Abort && !errors.Is(o.Err, engine.ErrClosed) {
						t.Errorf("the sequence ended with %v", o.Err)
					}
				}
			}
		})
	}
}

// hear waits for a token.
func (s *site) hear(c *engine.Conn) {
	s.t.Helper()
	for {
		m, err := c.Recv(context.Background())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, o := range m.Outputs {
			if len(o.Tokens) > 0 {
				return
			}
		}
	}
}

// liar is a backend whose streams give another token in one step.
type liar struct {
	tensor.Backend
	step int
}

type lyingStream struct {
	tensor.Stream
	l   *liar
	out []tensor.Sampled
}

// NewStream makes a stream that lies.
func (l *liar) NewStream(rows int, ropes []tensor.RopeSpec) (tensor.Stream, error) {
	s, err := l.Backend.NewStream(rows, ropes)
	return &lyingStream{Stream: s, l: l}, err
}

// Sample notes where results go.
func (s *lyingStream) Sample(out []tensor.Sampled, logits tensor.Buffer, rows []tensor.SampleRow) {
	s.out = out
	s.Stream.Sample(out, logits, rows)
}

// Wait changes one.
func (s *lyingStream) Wait() error {
	err := s.Stream.Wait()
	if s.l.step--; s.l.step == 0 {
		s.out[0].Token++
	}
	return err
}

// TestDisagree: a rank that draws another token is found out, with the step.
func TestDisagree(t *testing.T) {
	const lie = 10
	at := address(t, false)
	s := startRanks(t, []*rank{newRank(t, 0, 2, 1, at), newRankOn(t, 1, 2, 1, at, func(b tensor.Backend) tensor.Backend { return &liar{b, lie} })})
	c := s.engine.Connect()
	defer c.Close()
	c.Submit([]engine.Request{{ID: 1, Tokens: []int32{1, 2}, MaxTokens: 200, IgnoreEOS: true, Params: sample.Params{TopP: 1, RepetitionPenalty: 1}}})
	err := <-s.run
	s.run <- err
	var d *collective.DisagreeError
	if !errors.Is(err, engine.ErrGroup) || !errors.As(err, &d) || d.What != fmt.Sprintf("the tokens of step %d", lie) || len(d.Digests) != 2 {
		t.Errorf("the engine ended with %v", err)
	}
	if st := s.end(); st == nil {
		t.Error("the engine ended well")
	}
}
