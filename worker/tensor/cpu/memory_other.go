//go:build !linux

package cpu

import "unsafe"

// systemMemory takes memory from Go's heap: here only the plain-Go kernels run,
// which need no fixed addresses.
func systemMemory(n int) (*block, error) {
	raw := make([]byte, n+63)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(raw))) & 63)
	return &block{bytes: raw[skip : skip+n : skip+n], free: func() {}}, nil
}

func reserve(n int) (*block, error) { return systemMemory(n) }

// systemDiscard only clears: the Go heap keeps what it has.
func systemDiscard(part []byte) error {
	clear(part)
	return nil
}
