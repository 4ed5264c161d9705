//go:build gpu

package engine_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"chorale/internal/safetensors"
	"chorale/worker/engine"
	"chorale/worker/lora"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/sample"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cuda"
)

// sharedSpec is a model of a billion parameters: two pages of its cache are a
// chunk.
func sharedSpec() decoder.Spec {
	s := decoder.Spec{
		Vocab: 32000, Hidden: 2048, Layers: 16, Heads: 32, KVHeads: 8, HeadDim: 64, FFN: 8192, Context: 2048, Eps: 1e-5,
		Windows: make([]int, 16), Rope: tensor.RopeSpec{Scale: 1},
	}
	for i := range s.HeadDim / 2 {
		s.Rope.InvFreq = append(s.Rope.InvFreq, float32(math.Pow(500000, -2*float64(i)/float64(s.HeadDim))))
	}
	return s
}

// gpuEngine runs an engine on noise with adapters of ranks 4 to 64.
func gpuEngine(t *testing.T, b *cuda.Backend, m *decoder.Model, images []*model.Image, o engine.Options) (*engine.Engine, func()) {
	t.Helper()
	e, err := engine.New(b, m, o, zap.NewNop())
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
	for i, im := range images {
		if err := e.PutAdapter(ctx, lora.Host{Digest: fmt.Sprint(i), Bytes: im.Bytes(), Device: im.DeviceBytes(), Pack: im.Load}); err != nil {
			t.Fatal(err)
		}
	}
	return e, func() { cancel(); wg.Wait() }
}

// TestGPUSharing: cache and adapters take memory from each other all the time,
// and every answer is, bit for bit, the one that the request alone gets.
func TestGPUSharing(t *testing.T) {
	b, err := cuda.New(cuda.Options{Deterministic: true, Library: os.Getenv("CHORALE_KERNELS"), CuBLASLt: os.Getenv("CHORALE_CUBLASLT")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	spec := sharedSpec()
	m, err := decoder.Load(b, spec, model.Dummy(&spec))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Free()
	noise := noisePool(1<<24, safetensors.BF16)
	var images []*model.Image
	for i := range 24 {
		im, err := model.NewImage(m, noiseAdapter(&spec, noise, safetensors.BF16, []int{4, 16, 64}[i%3], i))
		if err != nil {
			t.Fatal(err)
		}
		defer im.Free()
		images = append(images, im)
	}
	reqs := gpuRequests(spec.Vocab, 150, len(images))
	want := map[uint64]*answer{}
	alone, stop := gpuEngine(t, b, m, images, engine.Options{MaxBatchTokens: 512, MaxRunning: 48, MaxAdapters: 8, StarveSteps: 32, MemoryBytes: 8 << 30})
	c := alone.Connect()
	for i := range reqs {
		c.Submit(reqs[i : i+1])
		got, _ := collect(t, c, 1)
		want[reqs[i].ID] = got[reqs[i].ID]
	}
	c.Close()
	stop()
	// Kernels and libraries have been brought up by now, and stay.
	before, _, err := b.Memory()
	if err != nil {
		t.Fatal(err)
	}
	shared, stop := gpuEngine(t, b, m, images, engine.Options{MaxBatchTokens: 512, MaxRunning: 48, MaxAdapters: 8, StarveSteps: 32, MemoryBytes: 640 << 20})
	c = shared.Connect()
	start := time.Now()
	var st engine.Status
	var steps []time.Duration
	for from := 0; from < len(reqs); from += 50 {
		c.Submit(reqs[from : from+50])
		var got map[uint64]*answer
		got, st = collectSteps(t, c, 50, &steps)
		for _, r := range reqs[from : from+50] {
			if !reflect.DeepEqual(got[r.ID], want[r.ID]) {
				t.Errorf("request %d (adapter %q, %d tokens): shared %+v\nalone %+v", r.ID, r.Adapter, len(r.Tokens), got[r.ID], want[r.ID])
			}
		}
	}
	t.Logf("%d steps in %v (median %v, longest %v), %d preemptions; %+v; memory %+v", st.Step, time.Since(start), median(steps), slices.Max(steps), st.Preemptions, st.LoRA, st.Memory)
	if st.Memory.ToAdapters == 0 || st.Memory.ToCache == 0 {
		t.Errorf("nothing was traded: %+v", st.Memory)
	}
	c.Close()
	stop()
	after, _, err := b.Memory()
	if err != nil || after < before-64<<20 {
		t.Errorf("%d MiB of device memory were free before, %d are after; %v", before>>20, after>>20, err)
	}
}

func median(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }

// collectSteps is collect that notes how long steps took.
func collectSteps(t *testing.T, c *engine.Conn, n int, steps *[]time.Duration) (map[uint64]*answer, engine.Status) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out := map[uint64]*answer{}
	var st engine.Status
	for ended := 0; ended < n; {
		m, err := c.Recv(ctx)
		if err != nil {
			t.Fatalf("%d of %d sequences ended: %v; %+v", ended, n, err, st)
		}
		st = m.Status
		*steps = append(*steps, st.Duration)
		for _, o := range m.Outputs {
			if out[o.ID] == nil {
				out[o.ID] = &answer{}
			}
			a := out[o.ID]
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

// gpuRequests are prompts of up to 600 tokens, a third of them for the base.
func gpuRequests(vocab, n, adapters int) []engine.Request {
	rng := rand.New(rand.NewPCG(5, 6))
	shared := randomIDs(rng, vocab, 300)
	reqs := make([]engine.Request, n)
	for i := range reqs {
		ids := randomIDs(rng, vocab, 1+rng.IntN(300))
		if rng.IntN(2) == 0 {
			ids = append(slices.Clone(shared), ids...)
		}
		reqs[i] = engine.Request{
			ID: uint64(i + 1), Tokens: ids, MaxTokens: 1 + rng.IntN(60), IgnoreEOS: true,
			Params: sample.Params{Temperature: float64(rng.IntN(2)), TopP: 1, RepetitionPenalty: 1, Seed: rng.Uint64()},
		}
		if rng.IntN(3) > 0 {
			reqs[i].Adapter = fmt.Sprint(rng.IntN(adapters))
		}
	}
	return reqs
}
