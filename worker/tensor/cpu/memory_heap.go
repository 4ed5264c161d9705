package cpu

import "unsafe"

// heapBlock takes memory from Go's heap. Only the plain-Go kernels may use it:
// C code keeps addresses in its own structures.
func heapBlock(n int) *block {
	raw := make([]byte, n+63)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(raw))) & 63)
	return &block{bytes: raw[skip : skip+n : skip+n], free: func() {}}
}
