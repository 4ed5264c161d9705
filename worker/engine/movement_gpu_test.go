//go:build gpu

package engine_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"chorale/internal/bf16"
	"chorale/internal/checkpoint"
	"chorale/internal/mapfile"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/engine"
	"chorale/worker/kv"
	"chorale/worker/lora"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cuda"
)

// movement is what TestGPUMovement finds, on Llama-3-8B's shape.
type movement struct {
	Device  string `json:"device"`
	Weights struct {
		Bytes   int64   `json:"bytes"`
		Seconds float64 `json:"seconds"`
		GBps    float64 `json:"gb_per_s"`
	} `json:"weights_from_page_cache"`
	Adapter struct {
		Rank       int     `json:"rank"`
		HostBytes  int64   `json:"host_bytes"`
		BF16       spread  `json:"image_from_bf16_ms"`
		F32        spread  `json:"image_from_f32_ms"`
		Load       spread  `json:"host_to_device_ms"`
		Loaded     spread  `json:"host_to_device_while_decoding_ms"`
		DigestMS   float64 `json:"digest_ms"`
		BindMS     float64 `json:"parse_and_bind_ms"`
		FromFileMS float64 `json:"file_to_image_ms"`
	} `json:"adapter"`
	Steps map[string]spread `json:"decode_steps_ms"`
	TTFT  map[string]spread `json:"ttft_ms"`
}

type spread struct {
	N      int     `json:"n"`
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
}

func spreadOf(v []float64) spread {
	if len(v) == 0 {
		return spread{}
	}
	v = slices.Sorted(slices.Values(v))
	return spread{len(v), v[0], v[len(v)/2], v[len(v)*99/100], v[len(v)-1]}
}

func since(start time.Time) float64 { return float64(time.Since(start).Microseconds()) / 1000 }

// config8B is Llama-3-8B's configuration.
const config8B = `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 4096,
	"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
	"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
	"tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2}`

// noisePool is random values in a form.
func noisePool(n int, t safetensors.DType) []byte {
	rng := rand.New(rand.NewPCG(9, 9))
	out := make([]byte, n*t.Size())
	for i := range n {
		v := float32(rng.NormFloat64() * 0.02)
		if t == safetensors.BF16 {
			h := bf16.Of(v)
			out[2*i], out[2*i+1] = byte(h), byte(h>>8)
			continue
		}
		u := math.Float32bits(v)
		out[4*i], out[4*i+1], out[4*i+2], out[4*i+3] = byte(u), byte(u>>8), byte(u>>16), byte(u>>24)
	}
	return out
}

// writeModel writes a checkpoint of noise in shards, several at once.
func writeModel(t *testing.T, dir string) {
	t.Helper()
	pool := noisePool(1<<20, safetensors.BF16)
	for len(pool) < 1<<31 {
		pool = append(pool, pool...)
	}
	ones := bytes.Repeat([]byte{0x80, 0x3f}, 4096)
	var all []safetensors.Tensor
	add := func(name string, rows, cols int) {
		x := safetensors.Tensor{Name: name, DType: safetensors.BF16, Shape: []int{rows, cols}, Data: pool[:2*rows*cols]}
		if rows == 1 {
			x.Shape, x.Data = []int{cols}, ones[:2*cols]
		}
		all = append(all, x)
	}
	add("model.embed_tokens.weight", 128256, 4096)
	add("lm_head.weight", 128256, 4096)
	add("model.norm.weight", 1, 4096)
	for l := range 32 {
		p := fmt.Sprintf("model.layers.%d.", l)
		add(p+"input_layernorm.weight", 1, 4096)
		add(p+"post_attention_layernorm.weight", 1, 4096)
		for n, s := range map[string][2]int{
			"self_attn.q_proj": {4096, 4096}, "self_attn.k_proj": {1024, 4096}, "self_attn.v_proj": {1024, 4096}, "self_attn.o_proj": {4096, 4096},
			"mlp.gate_proj": {14336, 4096}, "mlp.up_proj": {14336, 4096}, "mlp.down_proj": {4096, 14336},
		} {
			add(p+n+".weight", s[0], s[1])
		}
	}
	const shards = 16
	placed := map[string]string{}
	var wg sync.WaitGroup
	for i := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, shards)
		var mine []safetensors.Tensor
		for k := i; k < len(all); k += shards {
			mine, placed[all[k].Name] = append(mine, all[k]), name
		}
		wg.Go(func() {
			f, err := os.Create(filepath.Join(dir, name))
			if err == nil {
				err = cmp.Or(safetensors.Write(f, mine, nil), f.Close())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	index, err := json.Marshal(map[string]any{"weight_map": placed})
	if err == nil {
		err = cmp.Or(os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), index, 0o600),
			os.WriteFile(filepath.Join(dir, "config.json"), []byte(config8B), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// noiseAdapter adapts all linear modules; n chooses the values.
func noiseAdapter(s *decoder.Spec, pool []byte, d safetensors.DType, rank, n int) *peft.Adapter {
	a := &peft.Adapter{}
	take := func(rows, cols, at int) safetensors.Tensor {
		size := rows * cols * d.Size()
		from := (at * 4096 * d.Size()) % (len(pool) - size)
		return safetensors.Tensor{Name: "noise", DType: d, Shape: []int{rows, cols}, Data: pool[from : from+size]}
	}
	for i, m := range model.Modules(s) {
		if m.Kind == peft.Linear {
			t := peft.Target{Module: m, R: rank, Alpha: float64(rank), Scale: 1}
			a.LoRAs = append(a.LoRAs, peft.LoRA{Target: t, A: take(rank, m.In, 7*i+13*n), B: take(m.Out, rank, 11*i+17*n)})
		}
	}
	return a
}

// mover is the fixture of TestGPUMovement.
type mover struct {
	*testing.T
	b   *cuda.Backend
	m   *decoder.Model
	out movement

	cache  tensor.KV
	runner *decoder.Runner
	step   *decoder.Step
	first  []tensor.Sampled
}

// TestGPUMovement: weights and adapters come fast, and steps neither feel it nor
// change by it. With CHORALE_RESULTS the figures go to that file.
func TestGPUMovement(t *testing.T) {
	dir, _ := os.UserCacheDir()
	b, err := cuda.New(cuda.Options{Tune: true, CacheDir: dir, Library: os.Getenv("CHORALE_KERNELS"), CuBLASLt: os.Getenv("CHORALE_CUBLASLT")})
	if err != nil {
		t.Fatal(err)
	}
	m := &mover{T: t, b: b}
	m.out.Device, m.out.Steps, m.out.TTFT = b.Name(), map[string]spread{}, map[string]spread{}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	m.weights()
	defer m.m.Free()
	m.decoding()
	m.engine()
	text, err := json.MarshalIndent(&m.out, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", text)
	if path := os.Getenv("CHORALE_RESULTS"); path != "" {
		if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// weights loads a checkpoint that lies in the page cache.
func (m *mover) weights() {
	root := "/dev/shm"
	if _, err := os.Stat(root); err != nil {
		root = ""
	}
	dir, err := os.MkdirTemp(root, "chorale-*")
	if err != nil {
		m.Fatal(err)
	}
	defer os.RemoveAll(dir)
	start := time.Now()
	writeModel(m.T, dir)
	m.Logf("checkpoint written in %v", time.Since(start))
	runtime.GC()
	c, err := checkpoint.Open(dir)
	if err != nil {
		m.Fatal(err)
	}
	defer c.Close()
	start = time.Now()
	if m.m, _, err = model.Open(m.b, c); err != nil {
		m.Fatal(err)
	}
	w := &m.out.Weights
	w.Seconds, w.Bytes = time.Since(start).Seconds(), m.m.Bytes()
	w.GBps = float64(w.Bytes) / w.Seconds / 1e9
	m.Logf("weights: %d MB in %.2f s, %.1f GB/s", w.Bytes>>20, w.Seconds, w.GBps)
}

const (
	moveRank = 16
	moveRows = 64
	moveCtx  = 512
)

// decoding lets 50 adapters come and go beside decode steps.
func (m *mover) decoding() {
	spec := &m.m.Spec
	half, wide := noisePool(1<<24, safetensors.BF16), noisePool(1<<22, safetensors.F32)
	adapters := make([]*peft.Adapter, 50)
	for i := range adapters {
		adapters[i] = noiseAdapter(spec, half, safetensors.BF16, moveRank, i)
	}
	images := make([]*model.Image, len(adapters))
	for i := range 4 {
		images[i] = m.image(adapters[i])
	}
	m.prepare(images[:4])
	m.run("quiet", func() { time.Sleep(time.Second) })
	var build, floats, loads []float64
	m.run("while images are made in new pinned memory", func() {
		for i := 4; i < len(images); i++ {
			start := time.Now()
			images[i] = m.image(adapters[i])
			build = append(build, since(start))
		}
	})
	m.Logf("images of bfloat16, new memory: %+v ms", spreadOf(build))
	build = nil
	m.run("while images are made", func() {
		for i := 4; i < len(images); i++ {
			images[i].Free()
			start := time.Now()
			images[i] = m.image(adapters[i])
			build = append(build, since(start))
		}
	})
	other := noiseAdapter(spec, wide, safetensors.F32, moveRank, 1)
	for range 10 {
		start := time.Now()
		im := m.image(other)
		floats = append(floats, since(start))
		im.Free()
	}
	m.run("while adapters are loaded", func() {
		for range 2 {
			for _, im := range images[4:] {
				start := time.Now()
				p := m.load(im)
				loads = append(loads, since(start))
				time.Sleep(5 * time.Millisecond)
				p.Free()
			}
		}
	})
	a := &m.out.Adapter
	a.Rank, a.HostBytes, a.BF16, a.F32, a.Loaded = moveRank, images[0].Bytes(), spreadOf(build), spreadOf(floats), spreadOf(loads)
	loads = nil
	for _, im := range images[4:] {
		start := time.Now()
		p := m.load(im)
		loads = append(loads, since(start))
		p.Free()
	}
	a.Load = spreadOf(loads)
	m.runner.Free()
	m.cache.Free()
	for _, im := range images {
		im.Free()
	}
}

func (m *mover) image(a *peft.Adapter) *model.Image {
	im, err := model.NewImage(m.m, a)
	if err != nil {
		m.Fatal(err)
	}
	return im
}

func (m *mover) load(im *model.Image) lora.Packed {
	p, err := im.Load()
	if err != nil {
		m.Fatal(err)
	}
	return p
}

// prepare makes a decode step whose rows share four adapters.
func (m *mover) prepare(images []*model.Image) {
	spec := &m.m.Spec
	perSeq := moveCtx / kv.PageSize
	var err error
	m.cache, err = m.b.NewKV(tensor.KVLayout{Layers: spec.Layers, KVHeads: spec.KVHeads, HeadDim: spec.HeadDim, PageSize: kv.PageSize, Pages: moveRows * perSeq})
	if err == nil {
		m.runner, err = m.m.NewRunner(m.cache, moveRows)
	}
	if err != nil {
		m.Fatal(err)
	}
	m.step = &decoder.Step{}
	for i := range moveRows {
		table := make([]int32, perSeq)
		for p := range table {
			table[p] = int32(p*moveRows + i)
		}
		st := m.step
		st.Batch.IDs, st.Batch.Pos = append(st.Batch.IDs, int32(i*17+3)), append(st.Batch.Pos, moveCtx-1)
		st.Batch.Seqs = append(st.Batch.Seqs, tensor.Seq{QStart: i, QLen: 1, CtxLen: moveCtx, Pages: table})
		st.LogitRows = append(st.LogitRows, int32(i))
	}
	for i, im := range images {
		p := m.load(im)
		m.Cleanup(p.Free)
		n := moveRows / (len(images) + 1) // the rest is the base's
		m.step.Segments = append(m.step.Segments, nn.Segment{Start: i * n, End: (i + 1) * n, Adapter: p.Adapter})
	}
	m.step.LogitSegments = m.step.Segments
	for range 8 { // kernels are chosen, the graph is recorded
		m.decode()
	}
	m.first = m.decode()
}

// decode computes the step and gives each row's best tokens with their log
// probabilities, which hang on all of its logits.
func (m *mover) decode() []tensor.Sampled {
	out, rows := make([]tensor.Sampled, moveRows), make([]tensor.SampleRow, moveRows)
	for i := range rows {
		rows[i] = tensor.SampleRow{Repetition: 1, TopK: 1, TopP: 1, Top: 4}
	}
	m.runner.Forward(m.step)
	m.runner.Sample(m.step, out, rows)
	if err := m.runner.Finish(); err != nil {
		m.Fatal(err)
	}
	return out
}

// run decodes as long as traffic lasts, and checks that every step gives the
// bits of the first.
func (m *mover) run(name string, traffic func()) {
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		defer done.Store(true)
		traffic()
	})
	var took []float64
	for !done.Load() {
		start := time.Now()
		out := m.decode()
		took = append(took, since(start))
		if !reflect.DeepEqual(out, m.first) {
			m.Fatalf("%s: step %d gives other tokens", name, len(took))
		}
	}
	wg.Wait()
	s := spreadOf(took)
	m.out.Steps[name] = s
	m.Logf("steps %s: %+v ms", name, s)
	if s.Max-s.Median > 1 {
		m.Logf("steps %s: the longest is %.2f ms above the median", name, s.Max-s.Median)
	}
}

// engine measures the time to the first token of prompts of 128 tokens whose
// adapter is on the device, in host memory, or in a file in the page cache.
func (m *mover) engine() {
	spec := &m.m.Spec
	e, err := engine.New(m.b, m.m, engine.Options{MaxBatchTokens: 512, MaxRunning: 80, MaxAdapters: 8, MaxResident: 8, StarveSteps: 32, Pages: 4096}, zap.NewNop())
	if err != nil {
		m.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.Run(ctx); err != nil {
			m.Error(err)
		}
	})
	defer func() { cancel(); wg.Wait() }()
	half := noisePool(1<<24, safetensors.BF16)
	for i := range 24 {
		im := m.image(noiseAdapter(spec, half, safetensors.BF16, moveRank, i))
		m.put(e, fmt.Sprint(i), im)
	}
	c := e.Connect()
	ask := &asker{m: m, c: c}
	var hot, cold, none []float64
	for i := range 40 { // the first ones choose kernels
		x := ask.ttft(ctx, "")
		if i >= 10 {
			none = append(none, x)
		}
	}
	for i := range 24 {
		cold = append(cold, ask.ttft(ctx, fmt.Sprint(i)))
		hot = append(hot, ask.ttft(ctx, fmt.Sprint(i)))
	}
	m.out.TTFT["base"], m.out.TTFT["on the device"], m.out.TTFT["in host memory"] = spreadOf(none), spreadOf(hot[4:]), spreadOf(cold[4:])
	m.Logf("time to first token: %+v ms", m.out.TTFT)
	m.fromFile(ctx, e, ask)
	c.Close()
}

func (m *mover) put(e *engine.Engine, digest string, im *model.Image) {
	h := lora.Host{Digest: digest, Bytes: im.Bytes(), Pack: im.Load, Release: im.Free}
	if err := e.PutAdapter(context.Background(), h); err != nil {
		m.Fatal(err)
	}
}

// fromFile does what a worker does with an adapter's files.
func (m *mover) fromFile(ctx context.Context, e *engine.Engine, ask *asker) {
	config, tensors, err := model.DummyAdapter(&m.m.Spec, model.DummyLoRA{Base: "noise", Rank: moveRank, Seed: 1})
	if err != nil {
		m.Fatal(err)
	}
	path := filepath.Join(m.TempDir(), "adapter_model.safetensors")
	f, err := os.Create(path)
	if err == nil {
		err = cmp.Or(safetensors.Write(f, tensors, nil), f.Close())
	}
	if err != nil {
		m.Fatal(err)
	}
	all, err := os.ReadFile(path)
	if err != nil {
		m.Fatal(err)
	}
	digest, err := peft.Digest(config, bytes.NewReader(all))
	if err != nil {
		m.Fatal(err)
	}
	out, total := &m.out.Adapter, []float64{}
	for i := range 10 {
		begin := time.Now()
		file, err := mapfile.Open(path, false)
		if err != nil {
			m.Fatal(err)
		}
		weights := file.Data
		start := time.Now()
		if err := peft.Verify(digest, config, weights); err != nil {
			m.Fatal(err)
		}
		out.DigestMS = since(start)
		start = time.Now()
		cfg, err := peft.ParseConfig(config)
		if err != nil {
			m.Fatal(err)
		}
		parsed, err := safetensors.Parse(weights)
		if err != nil {
			m.Fatal(err)
		}
		a, err := peft.Bind(cfg, parsed, model.Modules(&m.m.Spec), peft.Limits{})
		if err != nil {
			m.Fatal(err)
		}
		out.BindMS = since(start)
		name := fmt.Sprintf("file %d", i)
		m.put(e, name, m.image(a))
		out.FromFileMS = since(begin)
		ask.ttft(ctx, name)
		total = append(total, since(begin))
		if err := file.Close(); err != nil {
			m.Fatal(err)
		}
	}
	m.out.TTFT["in a file"] = spreadOf(total)
	m.Logf("from a file of %d MB: %+v, to the first token %+v ms", len(all)>>20, out, m.out.TTFT["in a file"])
}

// asker sends one prompt at a time.
type asker struct {
	m    *mover
	c    *engine.Conn
	next uint64
}

func (a *asker) ttft(ctx context.Context, digest string) float64 {
	a.next++
	r := engine.Request{ID: a.next, Adapter: digest, MaxTokens: 1, IgnoreEOS: true}
	for i := range 128 {
		r.Tokens = append(r.Tokens, int32((i*31+int(a.next)*977)%120000))
	}
	start := time.Now()
	a.c.Submit([]engine.Request{r})
	for {
		msg, err := a.c.Recv(ctx)
		if err != nil {
			a.m.Fatal(err)
		}
		for _, o := range msg.Outputs {
			if o.Err != nil {
				a.m.Fatal(o.Err)
			}
			if o.ID == a.next && o.Reason != engine.Running {
				return since(start)
			}
		}
	}
}
