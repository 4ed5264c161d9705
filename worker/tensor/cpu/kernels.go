package cpu

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"chorale/worker/tensor"
)

// kernels are the operations on checked operands. Every size has been checked
// by the stream before a kernel sees it. norm, attention and siluMul keep the
// shadow of their destination up to date when it has one. Implementations
// serialise calls from several streams themselves. The only errors are those of
// scratch memory.
type kernels interface {
	name() string
	// rounds reports whether linear reads the rounded shadow of its input.
	rounds() bool
	// pack packs c <= 32 rows [c, in] into one panel.
	pack(dst weights, src []float32, c, in int)
	// round fills the shadow of x.
	round(x *buffer) error
	// embed gathers dst[t] = table[ids[t]] and adds the terms.
	embed(dst *buffer, table *matrix, ids []int32, terms []term) error
	// norm adds delta (when not nil) to x in place and writes the norm.
	norm(dst, x, delta *buffer, w *vector, eps float32) error
	linear(dst, x *buffer, w *matrix, bias *vector, terms []term, s []float32) error
	ropeKV(j *ropeJob) error
	attention(j *attentionJob) error
	siluMul(dst, gateUp *buffer) error
	logitStats(out []tensor.LogitStat, logits *buffer) error
	close()
}

// term is a checked LoRATerm. Its intermediate occupies (end-start)*rank values
// of the stream's scratch from at.
type term struct {
	start, end int
	offset     int
	out        int // columns covered, by the pair or the bias
	pair       *loraPair
	bias       *vector
	at         int
}

// rowPlace says where a row stands: its sequence's page table and position.
type rowPlace struct {
	pos  int32
	page int32 // physical page of pos
}

// ropeJob is a checked RopeKV call.
type ropeJob struct {
	qkv          *buffer
	kv           *kvCache
	layer, heads int
	cos, sin     []float32 // [T, HeadDim/2]
	qNorm, kNorm *vector
	eps          float32
	places       []rowPlace // [T]
}

// attentionJob is a checked Attention call.
type attentionJob struct {
	dst, qkv     *buffer
	kv           *kvCache
	layer, heads int
	scale        float32
	window       int
	seqs         []tensor.Seq
}

// blockTiles is the number of tiles in a block of the online softmax. It is
// part of the definition of the result: see Batch invariance.
const blockTiles = 8

// openKernels finds the kernels that o asks for.
func openKernels(o Options) (kernels, error) {
	name := o.Kernel
	if name == "" || name == "auto" {
		name = fastest(o.Precision)
	}
	if name == "go" {
		return &goKernels{precision: o.Precision, threads: o.Threads}, nil
	}
	for _, have := range nativeKernels(o.Precision) {
		if have == name {
			return openNative(name, o)
		}
	}
	return nil, fmt.Errorf("cpu: kernel %q in %v, this processor and build have %s: %w",
		o.Kernel, o.Precision, strings.Join(Kernels(o.Precision), ", "), tensor.ErrUnsupported)
}

// Kernels lists the kernels that New accepts on this machine, widest first.
func Kernels(p tensor.Precision) []string {
	return append(nativeKernels(p), "go")
}

// parallel runs fn(0..n-1) on up to threads goroutines, the caller's included.
func parallel(threads, n int, fn func(i int)) {
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			fn(i)
		}
	}
	var wg sync.WaitGroup
	for range min(threads, n) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}
