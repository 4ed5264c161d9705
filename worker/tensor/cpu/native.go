//go:build cgo && linux && amd64

package cpu

// #cgo CFLAGS: -O3 -std=gnu11
// #cgo LDFLAGS: -lm -lpthread
// #include <string.h>
// #include "kernels.h"
//
// // C's function pointers cannot be called from Go.
// static void call_linear(const ck_set *s, ck_pool *p, ck_linear *a) { s->linear(p, a); }
// static void call_embed(const ck_set *s, ck_pool *p, ck_embed *a) { s->embed(p, a); }
// static void call_norm(const ck_set *s, ck_pool *p, ck_norm *a) { s->norm(p, a); }
// static void call_silu(const ck_set *s, ck_pool *p, ck_silu *a) { s->silu(p, a); }
// static void call_rope(const ck_set *s, ck_pool *p, ck_rope *a) { s->rope(p, a); }
// static void call_attention(const ck_set *s, ck_pool *p, ck_attention *a) { s->attention(p, a); }
// static void call_stats(const ck_set *s, ck_pool *p, ck_stats *a) { s->stats(p, a); }
// static void call_round(const ck_set *s, ck_pool *p, ck_round *a) { s->round(p, a); }
// static void call_pack(const ck_set *s, void *dst, const float *src, long c, long k) { s->pack(dst, src, c, k); }
// static const ck_set *set_at(int i) { return ck_sets[i]; }
import "C"

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"chorale/worker/tensor"
)

// native runs the C kernels of one set.
//
// C reads and writes only C memory and mappings (see block), except for pack's
// source; what belongs to Go (page tables, ids, terms) is copied into scratch.
// So operands may hold addresses without breaking cgo's rules.
type native struct {
	set  *C.ck_set
	pool *C.ck_pool
	size int // threads

	mu      sync.Mutex // one operation at a time; guards what follows
	scratch *block
	used    int

	args    *nativeArgs
	argsMem *block
}

// nativeArgs lie in C memory, like everything that they point to.
type nativeArgs struct {
	linear    C.ck_linear
	embed     C.ck_embed
	norm      C.ck_norm
	silu      C.ck_silu
	rope      C.ck_rope
	attention C.ck_attention
	stats     C.ck_stats
	round     C.ck_round
}

var _ kernels = (*native)(nil)

// runs reports whether the processor has the instructions of a set.
func runs(name string) bool {
	x := &cpu.X86
	avx2 := x.HasAVX2 && x.HasFMA
	avx512 := avx2 && x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ
	switch name {
	case "avx2":
		return avx2
	case "avx512f32":
		return avx512
	case "avx512bf16":
		return avx512 && x.HasAVX512BF16
	case "amxbf16":
		return avx512 && x.HasAVX512BF16 && x.HasAMXTile && x.HasAMXBF16 && tilesAllowed()
	}
	return false
}

// tilesAllowed asks Linux for the use of AMX's tile registers, which a process
// must do once before its first use (Documentation/arch/x86/xstate.rst).
var tilesAllowed = sync.OnceValue(func() bool {
	const requestPermission, tileData = 0x1023, 18
	_, _, errno := unix.Syscall(unix.SYS_ARCH_PRCTL, requestPermission, tileData, 0)
	return errno == 0
})

// sets calls fn for the sets of a precision that the processor runs.
func sets(p tensor.Precision, fn func(name string, s *C.ck_set)) {
	for i := C.int(0); ; i++ {
		s := C.set_at(i)
		if s == nil {
			return
		}
		if name := C.GoString(s.name); (s.f32 != 0) == (p == tensor.F32) && runs(name) {
			fn(name, s)
		}
	}
}

// nativeKernels lists the C kernels that the processor runs.
func nativeKernels(p tensor.Precision) []string {
	var names []string
	sets(p, func(name string, _ *C.ck_set) { names = append(names, name) })
	return names
}

func openNative(name string, o Options) (kernels, error) {
	k := &native{size: o.Threads}
	sets(o.Precision, func(have string, s *C.ck_set) {
		if have == name {
			k.set = s
		}
	})
	if k.set == nil {
		return nil, fmt.Errorf("cpu: kernel %q: %w", name, tensor.ErrUnsupported)
	}
	mem, err := newBlock(1, int(unsafe.Sizeof(nativeArgs{})))
	if err != nil {
		return nil, err
	}
	k.argsMem, k.args = mem, (*nativeArgs)(unsafe.Pointer(unsafe.SliceData(mem.bytes)))
	if k.pool = C.ck_pool_new(C.int(o.Threads)); k.pool == nil {
		k.argsMem.release()
		return nil, fmt.Errorf("cpu: starting %d threads: %w", o.Threads, tensor.ErrOutOfMemory)
	}
	return k, nil
}

func (k *native) name() string { return C.GoString(k.set.name) }
func (k *native) rounds() bool { return k.set.rounds != 0 }

func (k *native) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	C.ck_pool_free(k.pool)
	k.pool = nil
	k.scratch.release()
	k.argsMem.release()
}

// begin takes the kernels for one operation and makes room for its lists.
func (k *native) begin(scratch int) error {
	k.mu.Lock()
	k.used = 0
	if scratch == 0 || k.scratch != nil && len(k.scratch.bytes) >= scratch {
		return nil
	}
	mem, err := newBlock(scratch*2, 1)
	if err != nil {
		k.mu.Unlock()
		return err
	}
	k.scratch.release()
	k.scratch = mem
	return nil
}

func (k *native) end() { k.mu.Unlock() }

// take returns room for n values of T from the scratch that begin made.
func take[T any](k *native, n int) []T {
	var v T
	at := k.used
	k.used += ceilDiv(n*int(unsafe.Sizeof(v)), 64) * 64
	return unsafe.Slice((*T)(unsafe.Pointer(&k.scratch.bytes[at])), n)
}

// room is what take needs for n values of T.
func room[T any](n int) int {
	var v T
	return ceilDiv(n*int(unsafe.Sizeof(v)), 64)*64 + 64
}

func floats(v []float32) *C.float   { return (*C.float)(unsafe.SliceData(v)) }
func halves(v []uint16) *C.uint16_t { return (*C.uint16_t)(unsafe.SliceData(v)) }

func (w weights) pointer() unsafe.Pointer {
	if w.f != nil {
		return unsafe.Pointer(unsafe.SliceData(w.f))
	}
	return unsafe.Pointer(unsafe.SliceData(w.bf))
}

func (k *native) pack(dst weights, src []float32, c, in int) {
	C.call_pack(k.set, dst.pointer(), floats(src), C.long(c), C.long(in))
}

// terms copies LoRA terms for C. s is the room for their intermediates.
func (k *native) terms(terms []term, s []float32) *C.ck_term {
	if len(terms) == 0 {
		return nil
	}
	out := take[C.ck_term](k, len(terms))
	for i, t := range terms {
		c := C.ck_term{start: C.long(t.start), end: C.long(t.end), offset: C.long(t.offset), out: C.long(t.out)}
		if t.pair != nil {
			c.rank, c.scale = C.long(t.pair.rank), C.float(t.pair.scale)
			c.a, c.b = t.pair.a.pointer(), t.pair.b.pointer()
			if s != nil {
				c.s = floats(s[t.at:])
			}
		}
		if t.bias != nil {
			c.bias = floats(t.bias.data)
		}
		out[i] = c
	}
	return &out[0]
}

func (k *native) linear(dst, x *buffer, w *matrix, bias *vector, terms []term, s []float32) error {
	if err := k.begin(room[C.ck_term](len(terms))); err != nil {
		return err
	}
	defer k.end()
	a := &k.args.linear
	*a = C.ck_linear{
		x: floats(x.data), xb: halves(x.shadow), ldxb: C.long(x.stride), y: floats(dst.data), w: w.w.pointer(),
		terms: k.terms(terms, s), nterms: C.long(len(terms)),
		m: C.long(x.rows), k: C.long(w.in), n: C.long(w.out), threads: C.int(k.size),
	}
	if bias != nil {
		a.bias = floats(bias.data)
	}
	C.call_linear(k.set, k.pool, a)
	return nil
}

func (k *native) embed(dst *buffer, table *matrix, ids []int32, terms []term) error {
	if err := k.begin(room[C.ck_term](len(terms)) + room[int32](len(ids))); err != nil {
		return err
	}
	defer k.end()
	own := take[int32](k, len(ids))
	copy(own, ids)
	k.args.embed = C.ck_embed{
		y: floats(dst.data), w: table.w.pointer(), ids: (*C.int32_t)(&own[0]),
		terms: k.terms(terms, nil), nterms: C.long(len(terms)), m: C.long(len(ids)), h: C.long(table.in),
	}
	C.call_embed(k.set, k.pool, &k.args.embed)
	return nil
}

func (k *native) norm(dst, x, delta *buffer, w *vector, eps float32) error {
	if err := k.begin(0); err != nil {
		return err
	}
	defer k.end()
	k.args.norm = C.ck_norm{
		y: floats(dst.data), x: floats(x.data), w: floats(w.data), m: C.long(x.rows), n: C.long(x.cols), eps: C.float(eps),
		yb: halves(dst.shadow), ldyb: C.long(dst.stride),
	}
	if delta != nil {
		k.args.norm.delta = floats(delta.data)
	}
	C.call_norm(k.set, k.pool, &k.args.norm)
	return nil
}

func (k *native) siluMul(dst, gateUp *buffer) error {
	if err := k.begin(0); err != nil {
		return err
	}
	defer k.end()
	k.args.silu = C.ck_silu{
		y: floats(dst.data), x: floats(gateUp.data), m: C.long(dst.rows), f: C.long(dst.cols),
		yb: halves(dst.shadow), ldyb: C.long(dst.stride),
	}
	C.call_silu(k.set, k.pool, &k.args.silu)
	return nil
}

func (k *native) round(x *buffer) error {
	if err := k.begin(0); err != nil {
		return err
	}
	defer k.end()
	k.args.round = C.ck_round{x: floats(x.data), xb: halves(x.shadow), ldxb: C.long(x.stride), m: C.long(x.rows), n: C.long(x.cols)}
	C.call_round(k.set, k.pool, &k.args.round)
	return nil
}

// cache describes one layer for C.
func (c *kvCache) cache(layer int) C.ck_cache {
	w := c.w.slice(c.base(layer, 0, 0), c.headSize())
	size := 2
	if c.w.f != nil {
		size = 4
	}
	return C.ck_cache{
		base: w.pointer(), page_stride: C.long(c.stride * size),
		kv_heads: C.long(c.layout.KVHeads), d: C.long(c.layout.HeadDim), page_size: C.long(c.layout.PageSize),
	}
}

func (k *native) ropeKV(j *ropeJob) error {
	if err := k.begin(room[rowPlace](len(j.places))); err != nil {
		return err
	}
	defer k.end()
	places := take[rowPlace](k, len(j.places))
	copy(places, j.places)
	k.args.rope = C.ck_rope{
		x: floats(j.qkv.data), kv: j.kv.cache(j.layer), cos: floats(j.cos), sin: floats(j.sin),
		places: (*C.ck_place)(unsafe.Pointer(&places[0])), m: C.long(j.qkv.rows), heads: C.long(j.heads), eps: C.float(j.eps),
	}
	if j.qNorm != nil {
		k.args.rope.q_norm = floats(j.qNorm.data)
	}
	if j.kNorm != nil {
		k.args.rope.k_norm = floats(j.kNorm.data)
	}
	C.call_rope(k.set, k.pool, &k.args.rope)
	return nil
}

func (k *native) attention(j *attentionJob) error {
	l := j.kv.layout
	rows := max(1, int(k.set.attention_lanes)/(j.heads/l.KVHeads)) // of one unit
	pages, units := 0, 0
	for _, q := range j.seqs {
		pages += ceilDiv(q.CtxLen, l.PageSize)
		units += ceilDiv(q.QLen, rows) * l.KVHeads
	}
	if err := k.begin(room[int32](pages) + room[C.ck_queries](units)); err != nil {
		return err
	}
	defer k.end()
	table, list := take[int32](k, pages), take[C.ck_queries](k, units)
	n := 0
	for _, q := range j.seqs {
		own := table[:copy(table, q.Pages[:ceilDiv(q.CtxLen, l.PageSize)])]
		table = table[len(own):]
		for at := 0; at < q.QLen; at += rows {
			for h := range l.KVHeads {
				list[n] = C.ck_queries{
					pages: (*C.int32_t)(&own[0]), row: C.long(q.QStart + at), n: C.long(min(rows, q.QLen-at)),
					pos: C.long(q.CtxLen - q.QLen + at), kv_head: C.long(h),
				}
				n++
			}
		}
	}
	k.args.attention = C.ck_attention{
		y: floats(j.dst.data), yb: halves(j.dst.shadow), ldyb: C.long(j.dst.stride), x: floats(j.qkv.data),
		kv: j.kv.cache(j.layer), units: &list[0], nunits: C.long(n), heads: C.long(j.heads),
		window: C.long(j.window), scale: C.float(j.scale), threads: C.int(k.size),
	}
	C.call_attention(k.set, k.pool, &k.args.attention)
	return nil
}

func (k *native) logitStats(out []tensor.LogitStat, logits *buffer) error {
	if err := k.begin(room[C.ck_stat](len(out))); err != nil {
		return err
	}
	defer k.end()
	own := take[C.ck_stat](k, len(out))
	k.args.stats = C.ck_stats{out: &own[0], x: floats(logits.data), m: C.long(logits.rows), n: C.long(logits.cols)}
	C.call_stats(k.set, k.pool, &k.args.stats)
	for i, s := range own {
		out[i] = tensor.LogitStat{ArgMax: int32(s.arg_max), Max: float32(s.max), LogSumExp: float32(s.log_sum_exp)}
	}
	return nil
}
