//go:build cgo && linux && amd64

package cpu

// #include "peak.h"
import "C"

import (
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"chorale/worker/tensor"
)

func readRate(threads, bytes, times int) (float64, error) {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	if !runs("avx2") {
		return 0, fmt.Errorf("cpu: measuring needs AVX2: %w", tensor.ErrUnsupported)
	}
	pool := C.ck_pool_new(C.int(threads))
	if pool == nil {
		return 0, fmt.Errorf("cpu: starting %d threads: %w", threads, tensor.ErrOutOfMemory)
	}
	defer C.ck_pool_free(pool)
	return readRateOn(pool, bytes, times)
}

func readRateOn(pool *C.ck_pool, bytes, times int) (best float64, err error) {
	mem, err := newBlock(bytes, 1)
	if err != nil {
		return 0, err
	}
	defer mem.release()
	for i := 0; i < len(mem.bytes); i += 4096 {
		mem.bytes[i] = 1 // an untouched page is not memory
	}
	p := unsafe.Pointer(unsafe.SliceData(mem.bytes))
	for range times {
		start := time.Now()
		C.ck_read(pool, p, C.long(bytes))
		best = max(best, float64(bytes)/time.Since(start).Seconds())
	}
	return best, nil
}

func measureLimits(threads int) (Limits, error) {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	l := Limits{Threads: threads}
	if !runs("avx2") {
		return l, fmt.Errorf("cpu: measuring limits needs AVX2: %w", tensor.ErrUnsupported)
	}
	pool := C.ck_pool_new(C.int(threads))
	if pool == nil {
		return l, fmt.Errorf("cpu: starting %d threads: %w", threads, tensor.ErrOutOfMemory)
	}
	defer C.ck_pool_free(pool)
	var err error
	if l.Read, err = readRateOn(pool, limitBytes, limitRuns); err != nil {
		return l, err
	}
	const steps = 100_000
	rate := func(run func(units, steps C.long) C.double) (best float64) {
		for range limitRuns {
			start := time.Now()
			ops := float64(run(C.long(4*threads), steps)) * float64(4*threads)
			best = max(best, ops/time.Since(start).Seconds())
		}
		return best
	}
	switch {
	case runs("avx512bf16"):
		l.Dot = rate(func(u, s C.long) C.double { return C.ck_dot_512(pool, u, s) })
		fallthrough
	case runs("avx512f32"):
		l.FMA = rate(func(u, s C.long) C.double { return C.ck_fma_512(pool, u, s) })
	default:
		l.FMA = rate(func(u, s C.long) C.double { return C.ck_fma_256(pool, u, s) })
	}
	if runs("amxbf16") {
		l.Tiles = rate(func(u, s C.long) C.double { return C.ck_dot_tiles(pool, u, s) })
	}
	return l, nil
}
