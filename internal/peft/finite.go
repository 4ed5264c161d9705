package peft

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"

	"chorale/internal/safetensors"
)

// checkAllFinite is checkFinite of many tensors, several at once. The error is
// that of the first bad one.
func checkAllFinite(ts []safetensors.Tensor) error {
	errs := make([]error, len(ts))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(ts), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(ts); i = int(next.Add(1)) - 1 {
				errs[i] = checkFinite(ts[i])
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkFinite refuses a tensor with a NaN or infinity, naming the element. A
// float64 beyond float32's range counts as infinite.
func checkFinite(t safetensors.Tensor) error {
	if t.DType != safetensors.F64 && allFinite(t) {
		return nil
	}
	one := safetensors.Tensor{Name: t.Name, DType: t.DType, Shape: []int{1}}
	size := t.DType.Size()
	var v [1]float32
	for i := 0; i < len(t.Data); i += size {
		one.Data = t.Data[i : i+size]
		if err := one.Float32(v[:]); err != nil {
			return err
		}
		if x := float64(v[0]); math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("%w: tensor %s: element %d of %v is %v", ErrNonFinite, quote(t.Name), i/size, t.Shape, x)
		}
	}
	return nil
}

// allFinite scans eight bytes at a time for an element whose exponent bits are
// all ones. It may say false for finite data (F8E4M3 has finite values there,
// other types never come here); then the elements are looked at one by one.
func allFinite(t safetensors.Tensor) bool {
	var mask, low uint64 // exponent bits, and the lowest bit, of each lane
	switch t.DType {
	case safetensors.F32:
		mask, low = 0x7f800000_7f800000, 0x00000001_00000001
	case safetensors.F16:
		mask, low = 0x7c00_7c00_7c00_7c00, 0x0001_0001_0001_0001
	case safetensors.BF16:
		mask, low = 0x7f80_7f80_7f80_7f80, 0x0001_0001_0001_0001
	default:
		return false
	}
	high := low << (8*t.DType.Size() - 1)
	data := t.Data
	for ; len(data) >= 8; data = data[8:] {
		// A lane of x is zero exactly when its exponent is all ones. Subtracting
		// one from each lane borrows into the top bit of zero lanes, and of none
		// if no lane is zero, as x never has the top bit.
		x := ^binary.LittleEndian.Uint64(data) & mask
		if (x-low)&high != 0 {
			return false
		}
	}
	var rest [8]byte
	copy(rest[:], data)
	x := ^binary.LittleEndian.Uint64(rest[:]) & mask
	return (x-low)&high == 0
}
