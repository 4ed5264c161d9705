package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"chorale/worker/device"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
	"chorale/worker/tensor/cuda"
)

// openBackend makes the backend that --device asks for. auto takes the first
// GPU when there is one that works, and says why when there is none.
func openBackend(wf *weightFlags, p tensor.Precision, log *zap.Logger) (tensor.Backend, error) {
	gpu, number, err := parseDevice(wf.Device)
	if err != nil {
		return nil, err
	}
	if gpu || wf.Device == "auto" && p == tensor.BF16 {
		o := cudaOptions()
		o.Device, o.Precision, o.Tune, o.CacheDir = number, p, true, cacheDir()
		o.Deterministic, o.NoGraphs = wf.Deterministic, wf.DisableCudaGraph
		if wf.DisableOverlapSchedule {
			o.Depth = 1
		}
		b, err := cuda.New(o)
		if err == nil {
			return b, nil
		}
		if gpu || !errors.Is(err, tensor.ErrUnsupported) {
			return nil, fmt.Errorf("--device %s: %w", wf.Device, err)
		}
		log.Info("computing on the CPU", zap.String("reason", err.Error()))
	}
	return cpu.New(cpu.Options{Precision: p, Threads: wf.threads(), Kernel: wf.CPUKernel})
}

// cudaOptions say where the libraries are. GPUs are numbered as their driver and
// its tools number them, by PCI address, unless the environment says otherwise.
func cudaOptions() cuda.Options {
	if _, set := os.LookupEnv("CUDA_DEVICE_ORDER"); !set {
		_ = os.Setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID") // fails for names with = only
	}
	return cuda.Options{Library: os.Getenv("CHORALE_KERNELS"), CuBLASLt: os.Getenv("CHORALE_CUBLASLT"), NCCL: os.Getenv("CHORALE_NCCL")}
}

// watchGPU finds the GPU that the backend computes on at its driver's, for
// metrics and faults. Without a driver that tells the worker works all the same.
func (w *workerRole) watchGPU(wf *weightFlags) {
	if _, gpu := w.backend.(*cuda.Backend); !gpu {
		return
	}
	_, number, _ := parseDevice(wf.Device) // auto is the first
	d, err := device.Open(os.Getenv("CHORALE_NVML"))
	if err != nil {
		w.log.Warn("the GPU is not watched", zap.Error(err))
		return
	}
	gpus, err := d.GPUs()
	for _, g := range gpus {
		// With another order of devices the number may mean another GPU.
		if g.Ordinal == number && strings.HasSuffix(w.backend.Name(), g.Name) {
			w.driver, w.monitor = d, device.NewMonitor(d, g, time.Second, w.gpuEvent)
			return
		}
	}
	d.Close()
	w.log.Warn("the GPU is not watched: its driver does not list it", zap.Int("number", number), zap.Error(err))
}

func (w *workerRole) gpuEvent(e device.Event) {
	log := w.log.Warn
	if e.Fatal {
		log = w.log.Error
	}
	log("the driver reports an error of the GPU", zap.Stringer("event", e), zap.Uint64("xid", e.XID), zap.Bool("unhealthy", e.Fatal),
		zap.String("device", w.backend.Name()))
}

// bandwidth is that of the device's memory in bytes per second, 0 where nobody
// knows.
func (w *workerRole) bandwidth(wf *weightFlags) float64 {
	if _, gpu := w.backend.(ownMemory); gpu {
		if w.monitor == nil {
			return 0
		}
		return w.monitor.Report().GPU.MemoryBandwidth
	}
	rate, err := cpu.ReadRate(wf.threads())
	if err != nil {
		w.log.Info("the memory's bandwidth is not known", zap.Error(err))
	}
	return rate
}

// devices tells of the worker's GPUs.
func (w *workerRole) devices() []device.Report { return []device.Report{w.monitor.Report()} }

// health is why the worker should not be given work, nil when all is well.
func (w *workerRole) health() error {
	if w.monitor == nil {
		return nil
	}
	if u := w.monitor.Report().Unhealthy; u != "" {
		return errors.New(u)
	}
	return nil
}

// parseDevice reads auto, cpu, cuda or cuda:NUMBER.
func parseDevice(s string) (gpu bool, number int, err error) {
	switch s {
	case "auto", "cpu":
		return false, 0, nil
	case "cuda":
		return true, 0, nil
	}
	if rest, ok := strings.CutPrefix(s, "cuda:"); ok {
		if n, err := strconv.Atoi(rest); err == nil && n >= 0 {
			return true, n, nil
		}
	}
	return false, 0, fmt.Errorf("--device %s: want auto, cpu, cuda or cuda:NUMBER", s)
}

// cacheDir is where measurements are kept; empty when there is no such place.
func cacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "chorale")
}
