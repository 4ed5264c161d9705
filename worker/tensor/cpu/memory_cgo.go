//go:build cgo && linux && amd64

package cpu

// #include <stdlib.h>
// #include <string.h>
import "C"

import (
	"syscall"
	"unsafe"
)

// smallBlock takes memory from the C allocator.
func smallBlock(n int) (*block, error) {
	var p unsafe.Pointer
	if rc := C.posix_memalign(&p, 64, C.size_t(n)); rc != 0 {
		return nil, syscall.Errno(rc)
	}
	C.memset(p, 0, C.size_t(n))
	return &block{bytes: unsafe.Slice((*byte)(p), n), free: func() { C.free(p) }}, nil
}
