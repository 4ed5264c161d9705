package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"chorale/internal/checkpoint"
	"chorale/internal/hub"
	pb "chorale/proto/gen/chorale/v1"
	"chorale/services/rpc"
	"chorale/services/workers"
	"chorale/worker/device"
	"chorale/worker/engine"
	"chorale/worker/kv"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
	"chorale/worker/tensor"
)

// workerRole is a worker group in this process.
type workerRole struct {
	ckpt    *checkpoint.Checkpoint
	backend tensor.Backend
	model   *decoder.Model
	engine  *engine.Engine
	service *workers.Server
	server  *rpc.Server
	log     *zap.Logger
	// fingerprint is of the model's files.
	fingerprint string
	// member is nil unless this is one rank of several.
	member *membership
	// driver and monitor are nil without a GPU that can be watched.
	driver  *device.Driver
	monitor *device.Monitor
}

// openModel finds a model's files, fetching them from the hub if need be.
func openModel(ctx context.Context, f *modelFlags, log *zap.Logger) (*checkpoint.Checkpoint, error) {
	path := f.ModelPath
	if _, err := os.Stat(path); err != nil && errors.Is(err, os.ErrNotExist) && looksLikeRepo(path) {
		client, err := hub.FromEnv()
		if err != nil {
			return nil, err
		}
		log.Info("fetching model", zap.String("repo", path), zap.String("revision", f.Revision))
		if path, err = snapshot(ctx, client, path, f.Revision, nil); err != nil {
			return nil, err
		}
	}
	return checkpoint.Open(path)
}

// looksLikeRepo tells ORG/NAME from a mistyped path.
func looksLikeRepo(s string) bool {
	return strings.Count(s, "/") == 1 && !strings.HasPrefix(s, ".") && !strings.HasPrefix(s, "/") && filepath.Ext(s) != ".gguf"
}

// newWorker loads the model and makes the group ready to run. With a membership
// it waits for the other ranks.
func newWorker(ctx context.Context, ckpt *checkpoint.Checkpoint, mf *modelFlags, wf *weightFlags, lf *loraFlags, member *membership, log *zap.Logger) (_ *workerRole, err error) {
	w := &workerRole{ckpt: ckpt, log: log.Named("worker"), member: member}
	defer func() {
		if err != nil {
			w.free()
		}
	}()
	start := time.Now()
	m, cfg, precision, err := w.load(wf)
	if err != nil {
		return nil, err
	}
	opts, err := w.options(mf, wf, lf)
	if err != nil {
		return nil, err
	}
	if member != nil {
		if err := member.lead(ctx, member.options(w.fingerprint, w.backend, wf)); err != nil {
			return nil, err
		}
		opts.Ranks, opts.Sharers = member.leader, member.setting(settingSharers)
	}
	if w.engine, err = engine.New(w.backend, m, opts, log); err != nil {
		return nil, err
	}
	rank := lf.MaxLoraRank
	if rank <= 0 {
		rank = 512
	}
	desc := workers.Description{
		Incarnation: randomID(), Version: version, Device: w.backend.Name(), ModelType: cfg.ModelType, Architectures: cfg.Architectures,
		DType: precision.String(), Fingerprint: w.fingerprint, MaxLoRARank: rank, Targets: targets(lf.LoraTargetModules), LoRAEnabled: lf.EnableLora, Ranks: 1,
	}
	if lf.EnableLora {
		desc.MemoryBandwidth = w.bandwidth(wf)
	}
	if member != nil {
		desc.Leader, desc.Ranks, desc.Restarts = member.leader, member.parent.Size, member.parent.Restarts
	}
	if w.monitor != nil {
		desc.Devices = w.devices
	}
	if w.server, err = rpc.NewServer(rpc.Options{Log: log, Ready: w.health}); err != nil {
		return nil, err
	}
	w.service = workers.NewServer(w.engine, ckpt, desc)
	pb.RegisterWorkerServiceServer(w.server, w.service)
	w.log.Info("model loaded", zap.String("path", ckpt.Path), zap.String("type", cfg.ModelType), zap.String("device", w.backend.Name()), zap.Int("ranks", desc.Ranks),
		zap.String("dtype", precision.String()), zap.Int64("parameters", m.Spec.Parameters()), zap.Int64("weight_bytes", m.Bytes()),
		zap.Int("kv_tokens", w.engine.Options().Pages*kv.PageSize), zap.Int("context", opts.Context), zap.Duration("took", time.Since(start).Round(time.Millisecond)))
	return w, nil
}

// precision is the arithmetic that --dtype asks for.
func (f *weightFlags) precision() tensor.Precision {
	if f.Dtype == "float32" || f.Dtype == "float" {
		return tensor.F32
	}
	return tensor.BF16
}

// load opens the device and brings the model, or this rank's slice of it, there.
func (w *workerRole) load(wf *weightFlags) (*decoder.Model, *hfconfig.Config, tensor.Precision, error) {
	dummy, precision := wf.LoadFormat == "dummy", wf.precision()
	if k := w.ckpt.Kind(); wf.LoadFormat != "auto" && !dummy && wf.LoadFormat != k {
		return nil, nil, precision, fmt.Errorf("--load-format %s: %s holds %s", wf.LoadFormat, w.ckpt.Path, k)
	}
	var err error
	if w.backend, err = openBackend(wf, precision, w.log); err != nil {
		return nil, nil, precision, err
	}
	wf.fill(w.backend)
	w.watchGPU(wf)
	if w.member != nil {
		if err := w.backend.Join(w.member.late); err != nil {
			return nil, nil, precision, err
		}
	}
	w.backend = armFaults(w.backend, w.log)
	open, fingerprint := model.Open, w.ckpt.Fingerprint
	if dummy {
		open, fingerprint = model.OpenDummy, func() string { return "dummy " + w.ckpt.Fingerprint() }
	}
	w.fingerprint = fingerprint()
	m, cfg, err := open(w.backend, w.ckpt)
	if err != nil {
		return nil, nil, precision, err
	}
	if w.member != nil {
		m.ShardLoRA(w.member.flags.LoraSharding == shardSLoRA)
	}
	w.model = m
	return m, cfg, precision, nil
}

// targets reads --lora-target-modules; nil means all.
func targets(mods []string) []string {
	for _, m := range mods {
		if m == "all" {
			return nil
		}
	}
	return mods
}

// defaultCacheBytes is what the key/value cache takes when nothing is said.
// Pages are touched only when used, so an idle server does not pay for it.
const defaultCacheBytes = 1 << 30

// unchunked is the most tokens of a step for --chunked-prefill-size -1, SGLang's
// word for no chunks: longer prompts are cut all the same, lest the activations
// of a whole context take memory.
const unchunked = 2048

// fill sets what was left to the device: a GPU needs many rows to be busy.
func (f *weightFlags) fill(b tensor.Backend) {
	running, chunk := 64, 512
	if _, gpu := b.(ownMemory); gpu {
		running, chunk = 256, unchunked
	}
	f.MaxRunningRequests = cmp.Or(f.MaxRunningRequests, running)
	f.ChunkedPrefillSize = cmp.Or(f.ChunkedPrefillSize, chunk)
}

// checkCompute names the flags that make no sense.
func checkCompute(wf *weightFlags, lf *loraFlags) error {
	for _, c := range []struct {
		ok   bool
		want string
		got  any
	}{
		{lf.MaxLorasPerBatch >= 1, "--max-loras-per-batch must be at least 1", lf.MaxLorasPerBatch},
		{lf.MaxLoadedLoraBytes >= 0, "--max-loaded-lora-bytes must be at least 1", lf.MaxLoadedLoraBytes},
		{lf.MaxResidentLoras >= 0, "--max-resident-loras must be at least 1", lf.MaxResidentLoras},
		{wf.MaxRunningRequests >= 1, "--max-running-requests must be at least 1", wf.MaxRunningRequests},
		{wf.ChunkedPrefillSize >= 1 || wf.ChunkedPrefillSize == -1, "--chunked-prefill-size must be at least 1, or -1", wf.ChunkedPrefillSize},
		{wf.MaxTotalTokens >= 0, "--max-total-tokens must be at least 1", wf.MaxTotalTokens},
		{wf.MemFractionStatic >= 0 && wf.MemFractionStatic <= 1, "--mem-fraction-static must be in (0, 1]", wf.MemFractionStatic},
	} {
		if !c.ok {
			return fmt.Errorf("%s, got %v", c.want, c.got)
		}
	}
	return nil
}

func (w *workerRole) options(mf *modelFlags, wf *weightFlags, lf *loraFlags) (engine.Options, error) {
	if err := checkCompute(wf, lf); err != nil {
		return engine.Options{}, err
	}
	spec := &w.model.Spec
	o := engine.Options{
		MaxRunning: wf.MaxRunningRequests, MaxAdapters: lf.MaxLorasPerBatch,
		MaxResident: lf.MaxResidentLoras, Eviction: lf.eviction(), StarveSteps: 64, EOS: w.ckpt.EOS(), Context: mf.ContextLength,
	}
	if o.Context <= 0 || o.Context > spec.Context {
		if o.Context > spec.Context {
			return o, fmt.Errorf("--context-length %d is more than the model's %d", o.Context, spec.Context)
		}
		o.Context = spec.Context
	}
	o.MaxBatchTokens = stepRows(wf, o.Context)
	if o.MaxHostBytes = lf.MaxLoadedLoraBytes; o.MaxHostBytes == 0 {
		if m, err := machineMemory(); err == nil { // where it is not known there is no bound
			o.MaxHostBytes = m.available / 2 / int64(w.neighbours())
		}
	}
	if o.MaxResident != 0 && o.MaxResident < o.MaxAdapters {
		return o, fmt.Errorf("--max-resident-loras %d is less than --max-loras-per-batch %d", o.MaxResident, o.MaxAdapters)
	}
	if _, own := w.backend.(ownMemory); own { // the engine takes what is left beside weights and buffers
		o.Pages, o.MemFraction = pagesOf(int64(wf.MaxTotalTokens)), wf.MemFractionStatic
		return o, nil
	}
	tokens, err := w.hostTokens(wf, o.Context)
	o.Pages = pagesOf(tokens)
	return o, err
}

// neighbours counts the ranks that share this machine's memory.
func (w *workerRole) neighbours() int {
	if w.member == nil {
		return 1
	}
	return w.member.setting(settingLocal)
}

// stepRows is the most rows of a step.
func stepRows(wf *weightFlags, context int) int {
	if wf.ChunkedPrefillSize < 0 {
		return min(context, unchunked)
	}
	return wf.ChunkedPrefillSize
}

// pagesOf is how many pages hold so many tokens.
func pagesOf(tokens int64) int { return int((tokens + kv.PageSize - 1) / kv.PageSize) }

// hostTokens is how many tokens the cache holds where it lies in host memory.
func (w *workerRole) hostTokens(wf *weightFlags, context int) (int64, error) {
	if wf.MaxTotalTokens > 0 {
		return int64(wf.MaxTotalTokens), nil
	}
	l, size := w.model.KVLayout(kv.PageSize, 1), int64(2) // bytes of a cached value
	if w.backend.Precision() == tensor.F32 {
		size = 4
	}
	perToken := 2 * int64(l.Layers) * int64(l.KVHeads) * int64(l.HeadDim) * size
	f := wf.MemFractionStatic
	if f == 0 {
		return max(defaultCacheBytes/perToken, int64(context)), nil
	}
	m, err := machineMemory()
	if err != nil {
		return 0, fmt.Errorf("--mem-fraction-static: %w", err)
	}
	budget := int64(f*float64(m.available+w.model.Bytes())) - w.model.Bytes()
	budget /= int64(w.neighbours()) // whose weights are in memory already
	if budget < perToken*kv.PageSize {
		return 0, fmt.Errorf("--mem-fraction-static %g leaves nothing for the cache: %d bytes free, weights take %d", f, m.available, w.model.Bytes())
	}
	return budget / perToken, nil
}

// ownMemory is a device with memory of its own.
type ownMemory interface {
	Memory() (free, total int64, err error)
}

// memoryInfo is the machine's memory in bytes.
type memoryInfo struct{ total, available int64 }

func machineMemory() (m memoryInfo, err error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		at := map[string]*int64{"MemTotal": &m.total, "MemAvailable": &m.available}[name]
		if at == nil {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return m, fmt.Errorf("/proc/meminfo: %w", err)
		}
		*at = kb << 10
	}
	if m.total == 0 || m.available == 0 {
		return m, errors.New("no MemTotal or MemAvailable in /proc/meminfo")
	}
	return m, nil
}

// run computes until ctx ends.
func (w *workerRole) run(ctx context.Context) error {
	if w.monitor == nil {
		return w.compute(ctx)
	}
	watch, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.monitor.Run(watch); err != nil {
			w.log.Warn("the GPU's errors are not watched", zap.Error(err))
		}
	})
	defer wg.Wait()
	defer stop()
	return w.compute(ctx)
}

func (w *workerRole) compute(ctx context.Context) error {
	err := w.engine.Run(ctx)
	w.report(err)
	return err
}

// free gives everything back, after run.
func (w *workerRole) free() {
	if err := w.member.close(); err != nil {
		w.log.Warn("leaving the group", zap.Error(err))
	}
	if w.model != nil {
		w.model.Free()
	}
	if w.backend != nil {
		w.backend.Close()
	}
	if w.driver != nil {
		w.driver.Close()
	}
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
