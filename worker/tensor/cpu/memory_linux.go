//go:build linux

package cpu

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// mapBlock maps anonymous memory that starts on a huge-page boundary.
func mapBlock(n int) (*block, error) {
	length := n + hugePage
	m, err := unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(m))) & (hugePage - 1))
	part := m[skip : skip+n : skip+n]
	// Only advice: without huge pages the kernels are slower, not wrong.
	_ = unix.Madvise(m[skip:], unix.MADV_HUGEPAGE)
	return &block{bytes: part, free: func() { _ = unix.Munmap(m) }}, nil
}
