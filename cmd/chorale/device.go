package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.uber.org/zap"

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
		o := cuda.Options{
			Device: number, Precision: p, Tune: true, CacheDir: cacheDir(),
			Library: os.Getenv("CHORALE_KERNELS"), CuBLASLt: os.Getenv("CHORALE_CUBLASLT"),
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
