//go:build !(cgo && linux && amd64)

package cpu

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"
)

// measureLimits measures reading only: plain Go code says nothing about the
// processor's arithmetic.
func measureLimits(threads int) (l Limits, err error) {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	l.Threads = threads
	l.Read, err = readRate(threads, limitBytes, limitRuns)
	return l, err
}

func readRate(threads, bytes, times int) (best float64, err error) {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	mem, err := newBlock(bytes, 1)
	if err != nil {
		return 0, err
	}
	defer mem.release()
	const piece = 1 << 20
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(mem.bytes))), bytes/8)
	for i := range words {
		words[i] = uint64(i)
	}
	var sink atomic.Uint64
	for range times {
		start := time.Now()
		parallel(threads, bytes/piece, func(i int) {
			var a, b, c, d uint64
			part := words[i*piece/8 : (i+1)*piece/8]
			for j := 0; j+4 <= len(part); j += 4 {
				a, b, c, d = a^part[j], b^part[j+1], c^part[j+2], d^part[j+3]
			}
			sink.Add(a ^ b ^ c ^ d)
		})
		best = max(best, float64(bytes)/time.Since(start).Seconds())
	}
	return best, nil
}
