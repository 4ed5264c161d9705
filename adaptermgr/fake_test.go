package adaptermgr

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chorale/adaptermgr/source"
	"chorale/adaptermgr/store"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The base model of the tests: one attention layer.
const hidden = 8

func baseModules() []peft.Module {
	return []peft.Module{
		{Name: "model.layers.0.self_attn.q_proj", In: hidden, Out: hidden},
		{Name: "model.layers.0.self_attn.v_proj", In: hidden, Out: hidden},
	}
}

// art describes a synthetic adapter. Equal arts have equal digests.
type art struct {
	seed   int
	rank   int            // default 2
	mods   []string       // default q_proj
	config map[string]any // added to adapter_config.json
	tokens string         // added_tokens.json
	in     int            // of A, default hidden
	err    error          // instead of an artifact
	block  chan struct{}  // Fetch waits for it
}

func (a art) files(t testing.TB) (config, weights []byte) {
	t.Helper()
	rank, in := a.rank, a.in
	if rank == 0 {
		rank = 2
	}
	if in == 0 {
		in = hidden
	}
	mods := a.mods
	if mods == nil {
		mods = []string{"q_proj"}
	}
	fields := map[string]any{"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": mods}
	maps.Copy(fields, a.config)
	config, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	tensor := func(module, part string, rows, cols int) safetensors.Tensor {
		var data []byte
		for i := range rows * cols {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(a.seed)+float32(i)/8))
		}
		return safetensors.Tensor{
			Name:  "base_model.model.model.layers.0.self_attn." + module + "." + part + ".weight",
			DType: safetensors.F32, Shape: []int{rows, cols}, Data: data,
		}
	}
	var b bytes.Buffer
	var tensors []safetensors.Tensor
	for _, m := range mods {
		tensors = append(tensors, tensor(m, "lora_A", rank, in), tensor(m, "lora_B", hidden, rank))
	}
	if err := safetensors.Write(&b, tensors, nil); err != nil {
		t.Fatal(err)
	}
	return config, b.Bytes()
}

func (a art) digest(t testing.TB) string {
	t.Helper()
	config, weights := a.files(t)
	d, err := peft.Digest(config, bytes.NewReader(weights))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// shelf is a Source from memory.
type shelf struct {
	t    testing.TB
	mu   sync.Mutex
	arts map[string]art
}

func newShelf(t testing.TB, arts map[string]art) *shelf { return &shelf{t: t, arts: arts} }

func (s *shelf) Fetch(ctx context.Context, name string) (*source.Artifact, error) {
	s.mu.Lock()
	a, ok := s.arts[name]
	s.mu.Unlock()
	if !ok {
		return nil, source.ErrNotFound
	}
	if a.block != nil {
		select {
		case <-a.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	config, weights := a.files(s.t)
	out := &source.Artifact{Config: config, Weights: io.NopCloser(bytes.NewReader(weights)), Size: int64(len(weights))}
	if a.tokens != "" {
		out.AddedTokens = []byte(a.tokens)
	}
	return out, nil
}

// fakeWorker is a worker group in memory. It checks what it is sent.
type fakeWorker struct {
	addr string

	mu          sync.Mutex
	info        WorkerInfo
	up          bool
	incarnation int
	held        map[string]bool // digest → pinned
	leases      map[string]int  // sequences by digest
	dropping    map[string]bool // as soon as its sequences end, whoever waits
	pushes      map[string]int
	forced      map[string]int
	pushErr     func(digest string) error
	pushGate    chan struct{} // Push waits for it
	pushTakes   time.Duration // Push takes so long, and takes a piece each second
	dropGate    chan struct{} // Drop waits for it
	step        chan struct{} // List waits for its end
	changed     chan struct{}
	bad         error // what a push was wrong about
}

func newWorker(addr string) *fakeWorker {
	w := &fakeWorker{
		addr: addr, up: true, held: map[string]bool{}, leases: map[string]int{}, dropping: map[string]bool{}, pushes: map[string]int{},
		forced: map[string]int{}, changed: make(chan struct{}),
		info: WorkerInfo{ModelDigest: "model", Modules: baseModules(), VocabSize: 100, MaxLoRAsPerBatch: 3, LoRAEnabled: true},
	}
	w.restart()
	return w
}

func (w *fakeWorker) Address() string { return w.addr }

// set changes the worker and wakes those who wait in Drop.
func (w *fakeWorker) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.settle()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *fakeWorker) restart() {
	w.set(func() {
		w.incarnation++
		w.info.Incarnation = fmt.Sprint(w.addr, "#", w.incarnation)
		clear(w.held)
		clear(w.leases)
		clear(w.dropping)
	})
}

// settle removes what is to be dropped and has no sequences. mu is held.
func (w *fakeWorker) settle() {
	for d := range w.dropping {
		if w.leases[d] <= 0 {
			delete(w.held, d)
			delete(w.dropping, d)
		}
	}
}

func (w *fakeWorker) setUp(up bool) { w.set(func() { w.up = up }) }

func (w *fakeWorker) lease(digest string, n int) { w.set(func() { w.leases[digest] += n }) }

func (w *fakeWorker) holds() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.held)
}

func (w *fakeWorker) pushCount(digest string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pushes[digest]
}

func (w *fakeWorker) forcedCount(digest string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.forced[digest]
}

func (w *fakeWorker) reachable() error {
	if !w.up {
		return fmt.Errorf("%w: connection refused", ErrUnavailable)
	}
	return nil
}

func (w *fakeWorker) Describe(context.Context) (WorkerInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.info, w.reachable()
}

func (w *fakeWorker) List(ctx context.Context) (Inventory, error) {
	w.mu.Lock()
	step := w.step
	w.mu.Unlock()
	if step != nil {
		select {
		case <-step:
		case <-ctx.Done():
			return Inventory{}, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	inv := Inventory{Incarnation: w.info.Incarnation}
	for _, d := range slices.Sorted(maps.Keys(w.held)) {
		inv.Adapters = append(inv.Adapters, Held{d, w.held[d]})
	}
	return inv, w.reachable()
}

func (w *fakeWorker) Push(ctx context.Context, p Push) error {
	w.mu.Lock()
	gate, incarnation, takes := w.pushGate, w.incarnation, w.pushTakes
	w.mu.Unlock()
	for ; takes > 0; takes -= time.Second {
		select {
		case <-time.After(time.Second):
			p.Sent()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	digest, err := peft.Digest(p.Config, p.Weights)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.up || incarnation != w.incarnation:
		return fmt.Errorf("%w: connection reset", ErrUnavailable)
	case err != nil || digest != p.Digest:
		w.bad = fmt.Errorf("%w: pushed %s as %s: %v", ErrRejected, digest, p.Digest, err)
		return w.bad
	}
	w.pushes[p.Digest]++
	if w.pushErr != nil {
		if err := w.pushErr(p.Digest); err != nil {
			return err
		}
	}
	w.held[p.Digest] = p.Pinned
	delete(w.dropping, p.Digest)
	return nil
}

func (w *fakeWorker) Drop(ctx context.Context, digest string, force bool) error {
	w.mu.Lock()
	gate := w.dropGate
	w.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for first := true; ; first = false {
		w.mu.Lock()
		if err := w.reachable(); err != nil {
			w.mu.Unlock()
			return err
		}
		if first {
			w.dropping[digest] = true
			if force {
				w.forced[digest]++
				delete(w.leases, digest)
			}
			w.settle()
		}
		waits, changed := w.dropping[digest], w.changed
		w.mu.Unlock()
		if !waits {
			return nil // gone, or kept by a push
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// world is a manager with its surroundings on a folder that outlives it.
type world struct {
	t       testing.TB
	dir     string
	shelf   *shelf
	workers []*fakeWorker
	change  func(*Options)

	m    *Manager
	reg  store.Store
	stop func()
}

func newWorld(t testing.TB, arts map[string]art, workers int, change ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), shelf: newShelf(t, arts), change: func(o *Options) {
		for _, c := range change {
			c(o)
		}
	}}
	for i := range workers {
		w.workers = append(w.workers, newWorker(fmt.Sprint("w", i)))
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// open returns a manager on the world's folder without running it.
func (w *world) open() error {
	reg, err := store.OpenBolt(filepath.Join(w.dir, "registry.db"), store.BoltOptions{NoSync: true})
	if err != nil {
		return err
	}
	blobs, err := OpenBlobs(filepath.Join(w.dir, "blobs"))
	if err != nil {
		return errors.Join(err, reg.Close())
	}
	o := Options{Registry: reg, Blobs: blobs, Source: w.shelf}
	for _, x := range w.workers {
		o.Workers = append(o.Workers, x)
	}
	w.change(&o)
	m, err := New(o)
	if err != nil {
		return errors.Join(err, reg.Close())
	}
	w.m, w.reg = m, reg
	return nil
}

func (w *world) start() {
	w.t.Helper()
	if err := w.open(); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.m.Run(ctx) }()
	reg := w.reg
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		if err := reg.Close(); err != nil {
			w.t.Error(err)
		}
		for _, x := range w.workers {
			if x.bad != nil {
				w.t.Error(x.bad)
			}
		}
	})
}

func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

func (w *world) load(name, src string, change ...func(*LoadRequest)) (Result, error) {
	req := LoadRequest{Name: name, Source: src}
	for _, c := range change {
		c(&req)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return w.m.Load(ctx, req)
}

func (w *world) mustLoad(name, src string, change ...func(*LoadRequest)) Result {
	w.t.Helper()
	r, err := w.load(name, src, change...)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) unload(name string, force bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := w.m.Unload(ctx, UnloadRequest{Name: name, Force: force})
	return err
}

func (w *world) watch(ctx context.Context, from uint64) <-chan Change {
	w.t.Helper()
	c, err := w.m.Watch(ctx, from)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) state(name string) State {
	a, err := w.m.Get(name)
	if errors.Is(err, ErrNotFound) {
		return StateUnspecified
	}
	return a.State
}

func (w *world) check() {
	w.t.Helper()
	if err := w.m.Check(); err != nil {
		w.t.Error(err)
	}
}

func pinned(r *LoadRequest)    { r.Pinned = true }
func replacing(r *LoadRequest) { r.Replace = true }
func mustBeNew(r *LoadRequest) { r.MustBeNew = true }

// patience is how long a test waits for one operation.
func (w *world) patience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}
