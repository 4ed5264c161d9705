//go:build linux

package cpu

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	hugePage = 2 << 20
	// chunkBytes is the size of the mappings that blocks below ownBytes share.
	chunkBytes = 32 << 20
	ownBytes   = 8 << 20
)

// systemMemory returns n zeroed bytes. Everything lies in huge pages where the
// system grants them, small blocks too: an adapter is hundreds of matrices of
// some ten kilobytes that a step reads once each, and with 4 KiB pages the page
// walks cost as much as the reading.
func systemMemory(n int) (*block, error) {
	if n >= ownBytes {
		m, part, err := mapHuge(n)
		if err != nil {
			return nil, err
		}
		return &block{bytes: part, free: func() { _ = unix.Munmap(m) }}, nil
	}
	return chunks.take(n)
}

// mapHuge maps memory that starts on a huge-page boundary. m is the mapping,
// part its n usable bytes.
func mapHuge(n int) (m, part []byte, err error) {
	length := ceilDiv(n, hugePage)*hugePage + hugePage
	m, err = unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, nil, err
	}
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(m))) & (hugePage - 1))
	// Only advice: without huge pages the kernels are slower, not wrong.
	_ = unix.Madvise(m[skip:], unix.MADV_HUGEPAGE)
	return m, m[skip : skip+n : skip+n], nil
}

// reserve maps n bytes, whole huge pages apart, that cost nothing until they
// are touched.
func reserve(n int) (*block, error) {
	m, part, err := mapHuge(n)
	if err != nil {
		return nil, err
	}
	return &block{bytes: part, free: func() { _ = unix.Munmap(m) }}, nil
}

// systemDiscard gives memory back to the system; it reads as zeros from now on.
func systemDiscard(part []byte) error {
	if err := unix.Madvise(part, unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("cpu: giving back %d bytes: %w", len(part), err)
	}
	return nil
}

// arena hands out pieces of chunks, one after another. A chunk is unmapped when
// its last piece is freed: the pieces of an adapter or a model are taken
// together and freed together, so chunks do not stay half empty for long.
type arena struct {
	mu  sync.Mutex
	now *slab
}

// slab is one shared mapping.
type slab struct {
	mapping, bytes []byte
	used, live     int
}

var chunks arena

func (a *arena) take(n int) (*block, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	size := ceilDiv(n, 64) * 64
	if a.now == nil || len(a.now.bytes)-a.now.used < size {
		m, part, err := mapHuge(chunkBytes)
		if err != nil {
			return nil, err
		}
		a.now = &slab{mapping: m, bytes: part}
	}
	c := a.now
	part := c.bytes[c.used : c.used+n : c.used+n]
	c.used += size
	c.live++
	return &block{bytes: part, free: func() { a.give(c) }}, nil
}

func (a *arena) give(c *slab) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.live--; c.live > 0 {
		return
	}
	if a.now == c {
		a.now = nil
	}
	_ = unix.Munmap(c.mapping)
}
