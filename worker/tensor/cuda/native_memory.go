//go:build cgo && linux

package cuda

// #include <stdlib.h>
// #include "shim_memory.h"
import "C"

import (
	"fmt"
	"unsafe"

	"chorale/worker/tensor/chunk"
)

// chunkShims are the memory functions of each library.
var chunkShims = map[*library]*C.chunk_shim{} // guarded by loaded

// chunkShim finds the memory functions of a library that is loaded.
func (l *library) chunkShim() (*C.chunk_shim, error) {
	loaded.Lock()
	defer loaded.Unlock()
	if s := chunkShims[l]; s != nil {
		return s, nil
	}
	for path, other := range loaded.byPath {
		if other != l {
			continue
		}
		p := C.CString(path)
		defer C.free(unsafe.Pointer(p))
		s := new(C.chunk_shim)
		var e C.ch_error
		if err := toError(C.chunk_shim_load(p, s, &e), &e); err != nil {
			return nil, fmt.Errorf("the kernel library cannot be loaded: %w", err)
		}
		chunkShims[l] = s
	}
	return chunkShims[l], nil
}

// chunks prepares to make chunks on the device.
func (d *device) chunks() (chunkDriver, error) {
	l, err := d.l.chunkShim()
	if err != nil {
		return nil, err
	}
	var e C.ch_error
	var bytes C.int64_t
	var p *C.ch_chunks
	status := C.chunk_open(l, d.c, &p, &bytes, &e)
	return &deviceChunks{l: l, p: p, bytes: int64(bytes)}, toError(status, &e)
}

// deviceChunks are a device's chunks.
type deviceChunks struct {
	l     *C.chunk_shim
	p     *C.ch_chunks
	bytes int64
}

var _ chunkDriver = (*deviceChunks)(nil)

func (c *deviceChunks) ChunkBytes() int64 { return c.bytes }

func (c *deviceChunks) close() error {
	var e C.ch_error
	return toError(C.chunk_close(c.l, c.p, &e), &e)
}

// list is handles as C sees them.
func list(hs []chunk.Handle) *C.uint64_t { return (*C.uint64_t)(unsafe.Pointer(unsafe.SliceData(hs))) }

func (c *deviceChunks) Create(n int) ([]chunk.Handle, error) {
	var e C.ch_error
	hs := make([]chunk.Handle, n)
	err := toError(C.chunk_create(c.l, c.p, C.int32_t(n), list(hs), &e), &e)
	return hs, err
}

func (c *deviceChunks) Release(hs []chunk.Handle) error {
	var e C.ch_error
	return toError(C.chunk_release(c.l, c.p, C.int32_t(len(hs)), list(hs), &e), &e)
}

func (c *deviceChunks) Reserve(n int) (addr, error) {
	var e C.ch_error
	var at C.uintptr_t
	err := toError(C.chunk_reserve(c.l, c.p, C.int32_t(n), &at, &e), &e)
	return addr(at), err
}

func (c *deviceChunks) Unreserve(at addr, n int) error {
	var e C.ch_error
	return toError(C.chunk_unreserve(c.l, c.p, C.uintptr_t(at), C.int32_t(n), &e), &e)
}

func (c *deviceChunks) Map(at addr, hs []chunk.Handle) error {
	var e C.ch_error
	return toError(C.chunk_map(c.l, c.p, C.uintptr_t(at), C.int32_t(len(hs)), list(hs), &e), &e)
}

func (c *deviceChunks) Unmap(at addr, n int) error {
	var e C.ch_error
	return toError(C.chunk_unmap(c.l, c.p, C.uintptr_t(at), C.int32_t(n), &e), &e)
}

func (c *deviceChunks) Clear(at addr, n int) error {
	var e C.ch_error
	return toError(C.chunk_clear(c.l, c.p, C.uintptr_t(at), C.int32_t(n), &e), &e)
}

func (c *deviceChunks) read(to []byte, from addr) error {
	var e C.ch_error
	return toError(C.chunk_read(c.l, c.p, unsafe.Pointer(unsafe.SliceData(to)), C.uintptr_t(from), C.int64_t(len(to)), &e), &e)
}
