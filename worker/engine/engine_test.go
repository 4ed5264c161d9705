package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"chorale/internal/checkpoint"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/engine"
	"chorale/worker/lora"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/sample"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const goldenModel = "../model/testdata/llama-gqa"

// chunkBytes is less than a page of the tiny model's cache.
const chunkBytes = 4096

// fixture is a tiny model with adapters of different rank and modules.
type fixture struct {
	backend  tensor.Backend
	model    *decoder.Model
	adapters map[string]*peft.Adapter
}

var adapterNames = []string{"attn-r4", "qv-r1-regex", "all-r8-bf16", "mixed-rslora", "qv-r16", "lm-head", "embed"}

func newFixture(t testing.TB, p tensor.Precision, depth int) *fixture {
	t.Helper()
	// Small chunks, which adapters take too, as on a device with memory of its own.
	b, err := cpu.New(cpu.Options{Precision: p, ChunkBytes: chunkBytes, CountImages: true, Depth: depth})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return fixtureOn(t, b)
}

// fixtureOn is the model on a backend.
func fixtureOn(t testing.TB, b tensor.Backend) *fixture {
	t.Helper()
	c, err := checkpoint.Open(goldenModel)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := model.Open(b, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Free(); c.Close() })
	f := &fixture{backend: b, model: m, adapters: map[string]*peft.Adapter{}}
	for _, n := range adapterNames {
		f.adapters[n] = bindAdapter(t, m, filepath.Join(goldenModel, "adapters", n))
	}
	return f
}

func bindAdapter(t testing.TB, m *decoder.Model, dir string) *peft.Adapter {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, peft.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := peft.ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(filepath.Join(dir, peft.WeightsFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	a, err := peft.Bind(cfg, f, model.Modules(&m.Spec), peft.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// start runs an engine with all adapters in host memory.
func (f *fixture) start(t testing.TB, o engine.Options) *engine.Engine {
	t.Helper()
	if o.MemoryBytes == 0 { // Pages bound the cache, nothing the adapters
		o.MemoryBytes = 64 << 20
	}
	log := zap.NewNop()
	if testing.Verbose() {
		log = zaptest.NewLogger(t)
	}
	e, err := engine.New(f.backend, f.model, o, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	for n, a := range f.adapters {
		if err := e.PutAdapter(ctx, lora.Host{Digest: n, Device: model.ImageBytes(f.model, a), Pack: func() (lora.Packed, error) { return model.Pack(f.model, a) }}); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// atDepths runs a test with streams of depth 1 and 2.
func atDepths(t *testing.T, test func(t *testing.T, f *fixture)) {
	for depth := 1; depth <= 2; depth++ {
		t.Run(fmt.Sprintf("depth %d", depth), func(t *testing.T) { test(t, newFixture(t, tensor.BF16, depth)) })
	}
}

func roomy() engine.Options {
	return engine.Options{MaxBatchTokens: 256, MaxRunning: 64, MaxAdapters: 8, MaxResident: 8, StarveSteps: 32, Pages: 512}
}

// answer is everything that a sequence brought.
type answer struct {
	Tokens         []int32
	Logprobs       []sample.Position
	PromptLogprobs []sample.Position
	Reason         engine.Reason
	Stop           int32
	Err            string
}

// collect receives until every id has ended.
func collect(t testing.TB, c *engine.Conn, n int) (map[uint64]*answer, engine.Status) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out := map[uint64]*answer{}
	var st engine.Status
	for ended := 0; ended < n; {
		m, err := c.Recv(ctx)
		if err != nil {
			t.Fatalf("%d of %d sequences ended: %v", ended, n, err)
		}
		st = m.Status
		for _, o := range m.Outputs {
			a := out[o.ID]
			if a == nil {
				a = &answer{}
				out[o.ID] = a
			}
			a.Tokens = append(a.Tokens, o.Tokens...)
			a.Logprobs = append(a.Logprobs, o.Logprobs...)
			a.PromptLogprobs = append(a.PromptLogprobs, o.PromptLogprobs...)
			if o.Reason != engine.Running {
				a.Reason, a.Stop = o.Reason, o.StopID
				if o.Err != nil {
					a.Err = o.Err.Error()
				}
				ended++
			}
		}
	}
	return out, st
}

// randomRequests mixes adapters, lengths and sampling. With long answers to
// short prompts the cache overflows while they run.
func randomRequests(rng *rand.Rand, vocab, n int, long bool) []engine.Request {
	reqs := make([]engine.Request, n)
	shared := randomIDs(rng, vocab, 40)
	for i := range reqs {
		ids := randomIDs(rng, vocab, 1+rng.IntN(60))
		if rng.IntN(3) == 0 { // a common prefix, for the cache
			ids = append(append([]int32(nil), shared[:1+rng.IntN(40)]...), ids...)
		}
		answer := rng.IntN(24)
		if long {
			ids, answer = ids[:1+rng.IntN(min(8, len(ids)))], 30+rng.IntN(60)
		}
		r := engine.Request{
			ID: uint64(i + 1), Tokens: ids, MaxTokens: answer,
			Params: sample.Params{Temperature: float64(rng.IntN(3)) * 0.7, TopP: 1, RepetitionPenalty: 1, Seed: rng.Uint64()},
		}
		switch rng.IntN(4) {
		case 0:
			r.Params.TopK = 1 + rng.IntN(20)
		case 1:
			r.Params.TopP = 0.1 + 0.9*rng.Float64()
		case 2:
			r.Params.RepetitionPenalty, r.Params.FrequencyPenalty = 1.3, 0.5
		}
		if k := rng.IntN(len(adapterNames) + 2); k < len(adapterNames) {
			r.Adapter = adapterNames[k]
		}
		if rng.IntN(3) == 0 { // an end that nobody knows ahead
			r.StopIDs, r.Params.MinTokens = randomIDs(rng, vocab, vocab/16), rng.IntN(6)
		}
		r.Logprobs = &engine.Logprobs{PromptStart: rng.IntN(len(ids)+2) - 1, Top: rng.IntN(3)}
		reqs[i] = r
	}
	return reqs
}

func randomIDs(rng *rand.Rand, vocab, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.IntN(vocab))
	}
	return ids
}

// TestAloneEqualsMixed is the property that everything else rests on: whatever
// else is in the batch, however prompts are chunked, sequences preempted,
// adapters swapped and prefixes shared, an answer and its log probabilities
// are those of the request alone, bit for bit.
func TestAloneEqualsMixed(t *testing.T) {
	var preemptions, evictions uint64
	var toAdapters, toCache int64
	for _, p := range []tensor.Precision{tensor.F32, tensor.BF16} {
		fixtures := []*fixture{newFixture(t, p, 1), newFixture(t, p, 2)}
		alone := fixtures[0].start(t, roomy())
		for seed := range uint64(12) {
			f := fixtures[seed/2%2]
			t.Run(fmt.Sprintf("%v/depth %d/%d", p, 1+seed/2%2, seed), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 7))
				long := seed%2 == 1
				reqs := randomRequests(rng, f.model.Spec.Vocab, 24, long)
				want := map[uint64]*answer{}
				c := alone.Connect()
				defer c.Close()
				for i := range reqs {
					c.Submit(reqs[i : i+1])
					got, _ := collect(t, c, 1)
					want[reqs[i].ID] = got[reqs[i].ID]
				}
				adapters := 1 + rng.IntN(3)
				o := engine.Options{
					MaxBatchTokens: 1 + rng.IntN(40), MaxRunning: 2 + rng.IntN(24), MaxAdapters: adapters,
					MaxResident: adapters + rng.IntN(3), StarveSteps: 1 + rng.IntN(8), Pages: 10 + rng.IntN(16),
				}
				if long { // many at once, so that their growth meets
					o.MaxRunning, o.MaxResident, o.Pages = 16, 7, 14
				}
				if seed >= 6 { // cache and adapters fight for memory
					o.MaxResident, o.Pages, o.MemoryBytes = 0, 0, int64(40+rng.IntN(30))*chunkBytes
					if p == tensor.F32 {
						o.MemoryBytes *= 2
					}
				}
				mixed := f.start(t, o)
				m := mixed.Connect()
				defer m.Close()
				m.Submit(reqs[:12])
				m.Submit(reqs[12:])
				got, st := collect(t, m, len(reqs))
				for _, r := range reqs {
					if !reflect.DeepEqual(got[r.ID], want[r.ID]) {
						t.Errorf("request %d (adapter %q, prompt %d): mixed %+v\nalone %+v", r.ID, r.Adapter, len(r.Tokens), got[r.ID], want[r.ID])
					}
				}
				if st.MaxAdapters > o.MaxAdapters {
					t.Errorf("a step had %d adapters, the limit is %d", st.MaxAdapters, o.MaxAdapters)
				}
				preemptions += st.Preemptions
				evictions += st.LoRA.Evictions
				toAdapters, toCache = toAdapters+st.Memory.ToAdapters, toCache+st.Memory.ToCache
				t.Logf("options %+v: %d steps, %d preemptions, %d loads, %d evictions, most adapters %d", o, st.Step, st.Preemptions, st.LoRA.Loads, st.LoRA.Evictions, st.MaxAdapters)
			})
		}
	}
	if preemptions < 10 || evictions < 10 || toAdapters == 0 || toCache == 0 {
		t.Errorf("%d preemptions and %d evictions, %d bytes went to adapters and %d to the cache: the test tests too little",
			preemptions, evictions, toAdapters, toCache)
	}
}

// TestOneStep: two adapters of different rank and modules and the base are
// computed in one forward pass.
func TestOneStep(t *testing.T) { atDepths(t, oneStep) }

func oneStep(t *testing.T, f *fixture) {
	e := f.start(t, roomy())
	c := e.Connect()
	defer c.Close()
	warm := []engine.Request{}
	for i, a := range []string{"attn-r4", "qv-r16"} {
		warm = append(warm, engine.Request{ID: uint64(i + 1), Tokens: []int32{1, 2}, Adapter: a, MaxTokens: 1, Params: sample.Params{TopP: 1, RepetitionPenalty: 1}})
	}
	c.Submit(warm)
	collect(t, c, 2)
	reqs := []engine.Request{}
	for i, a := range []string{"attn-r4", "qv-r16", ""} {
		reqs = append(reqs, engine.Request{ID: uint64(i + 10), Tokens: []int32{5, 6, 7}, Adapter: a, MaxTokens: 8, IgnoreEOS: true, Params: sample.Params{TopP: 1, RepetitionPenalty: 1}})
	}
	c.Submit(reqs)
	got, st := collect(t, c, 3)
	if st.Adapters != 2 || st.Rows != 3 || st.BaseRows != 1 {
		t.Errorf("last step had %d rows, %d adapters, %d base rows; want 3, 2, 1", st.Rows, st.Adapters, st.BaseRows)
	}
	for id, a := range got {
		if len(a.Tokens) != 8 || a.Reason != engine.Length {
			t.Errorf("sequence %d: %+v", id, a)
		}
	}
}

// TestContinuation: an answer cut anywhere and continued from prompt and
// tokens so far is the same answer.
func TestContinuation(t *testing.T) { atDepths(t, continuation) }

func continuation(t *testing.T, f *fixture) {
	e := f.start(t, roomy())
	c := e.Connect()
	defer c.Close()
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range uint64(10) {
		r := engine.Request{
			ID: 100*i + 1, Tokens: randomIDs(rng, f.model.Spec.Vocab, 10), MaxTokens: 20, IgnoreEOS: true, Adapter: adapterNames[i%3],
			Params: sample.Params{Temperature: 1, TopP: 0.9, RepetitionPenalty: 1.2, PresencePenalty: 0.3, Seed: i},
		}
		c.Submit([]engine.Request{r})
		whole, _ := collect(t, c, 1)
		want := whole[r.ID].Tokens
		cut := 1 + rng.IntN(18)
		rest := r
		rest.ID++
		rest.Tokens, rest.Generated = append(append([]int32(nil), r.Tokens...), want[:cut]...), cut
		c.Submit([]engine.Request{rest})
		got, _ := collect(t, c, 1)
		if !reflect.DeepEqual(got[rest.ID].Tokens, want[cut:]) {
			t.Errorf("cut at %d: %v, want %v", cut, got[rest.ID].Tokens, want[cut:])
		}
	}
}

// TestDropWaitsForLeases: an adapter in use is dropped when its last sequence
// ends, at once with force; new sequences are refused meanwhile.
func TestDropWaitsForLeases(t *testing.T) { atDepths(t, dropWaitsForLeases) }

func dropWaitsForLeases(t *testing.T, f *fixture) {
	e := f.start(t, roomy())
	c := e.Connect()
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	long := engine.Request{ID: 1, Tokens: []int32{1, 2, 3}, Adapter: "attn-r4", MaxTokens: 400, IgnoreEOS: true, Params: sample.Params{TopP: 1, RepetitionPenalty: 1}}
	c.Submit([]engine.Request{long})
	dropped := make(chan error, 1)
	go func() { dropped <- e.DropAdapter(ctx, "attn-r4", false) }()
	for { // until the drop is known
		id := uint64(time.Now().UnixNano())
		r := long
		r.ID, r.MaxTokens = id, 1
		c.Submit([]engine.Request{r})
		got, _ := collect(t, c, 1)
		if a := got[id]; a != nil && a.Err != "" {
			break
		}
	}
	c.Abort([]uint64{1})
	if err := <-dropped; err != nil {
		t.Fatal(err)
	}
	list, err := e.Adapters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if a.Digest == "attn-r4" {
			t.Error("still there")
		}
	}
	if err := e.DropAdapter(ctx, "attn-r4", false); err != nil {
		t.Errorf("dropping again: %v", err)
	}
	r := long
	r.ID, r.Adapter = 2, "qv-r16"
	c.Submit([]engine.Request{r})
	if err := e.DropAdapter(ctx, "qv-r16", true); err != nil {
		t.Fatal(err)
	}
}
