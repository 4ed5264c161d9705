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
func measureLimits(threads int) (Limits, error) {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	l := Limits{Threads: threads}
	mem, err := newBlock(limitBytes, 1)
	if err != nil {
		return l, err
	}
	defer mem.release()
	const piece = 1 << 20
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(mem.bytes))), limitBytes/8)
	for i := range words {
		words[i] = uint64(i)
	}
	var sink atomic.Uint64
	for range limitRuns {
		start := time.Now()
		parallel(threads, limitBytes/piece, func(i int) {
			var a, b, c, d uint64
			part := words[i*piece/8 : (i+1)*piece/8]
			for j := 0; j+4 <= len(part); j += 4 {
				a, b, c, d = a^part[j], b^part[j+1], c^part[j+2], d^part[j+3]
			}
			sink.Add(a ^ b ^ c ^ d)
		})
		l.Read = max(l.Read, limitBytes/time.Since(start).Seconds())
	}
	return l, nil
}
