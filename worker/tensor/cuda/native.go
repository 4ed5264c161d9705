//go:build cgo && linux

package cuda

// #cgo CFLAGS: -O2 -std=gnu11 -I${SRCDIR}/../../../kernels/include
// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// statusComm is CH_COMM of chorale_comm.h.
const statusComm = 5

// Go's structs are laid out like C's: these fail to compile otherwise.
var (
	_ [unsafe.Sizeof(op{})]byte               = [C.sizeof_ch_op]byte{}
	_ [unsafe.Offsetof(op{}.cache)]byte       = [unsafe.Offsetof(C.ch_op{}.cache)]byte{}
	_ [unsafe.Offsetof(op{}.scale)]byte       = [unsafe.Offsetof(C.ch_op{}.scale)]byte{}
	_ [unsafe.Sizeof(view{})]byte             = [C.sizeof_ch_view]byte{}
	_ [unsafe.Sizeof(cacheView{})]byte        = [C.sizeof_ch_cache]byte{}
	_ [unsafe.Sizeof(layout{})]byte           = [C.sizeof_ch_layout]byte{}
	_ [unsafe.Sizeof(header{})]byte           = [C.sizeof_ch_header]byte{}
	_ [unsafe.Sizeof(seq{})]byte              = [C.sizeof_ch_seq]byte{}
	_ [unsafe.Sizeof(loraTerm{})]byte         = [C.sizeof_struct_ch_lora_term]byte{}
	_ [unsafe.Offsetof(loraTerm{}.scale)]byte = [unsafe.Offsetof(C.struct_ch_lora_term{}.scale)]byte{}
	_ [unsafe.Sizeof(sampleRow{})]byte        = [C.sizeof_ch_sample_row]byte{}
	_ [unsafe.Offsetof(sampleRow{}.out)]byte  = [unsafe.Offsetof(C.ch_sample_row{}.out)]byte{}
	_ [unsafe.Sizeof(adjustment{})]byte       = [C.sizeof_ch_adjust]byte{}
	_ [unsafe.Sizeof(sampled{})]byte          = [C.sizeof_ch_sampled]byte{}
	_ [tensor.MaxTop]byte                     = [C.CH_MAX_TOP]byte{}
	_ [results]byte                           = [C.CH_RESULTS]byte{}
	_ [lists]byte                             = [C.CH_LISTS]byte{}
	_ [maxTerms]byte                          = [C.CH_MAX_TERMS]byte{}
	_ [opToHost]byte                          = [C.CH_TO_HOST]byte{}
)

// library is a loaded kernel library. It is never unloaded, so loads are kept.
type library struct{ shim C.shim }

var loaded = struct {
	sync.Mutex
	byPath map[string]*library
}{byPath: map[string]*library{}}

// find names the library's file.
func find(path string) (string, error) {
	if path != "" {
		return path, nil
	}
	const name = "libchorale_kernels.so"
	places := []string{filepath.Join("build", name)}
	if exe, err := os.Executable(); err == nil {
		dir := filepath.Dir(exe)
		places = append([]string{filepath.Join(dir, name), filepath.Join(dir, "..", "lib", name)}, places...)
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return filepath.Abs(p)
		}
	}
	return "", &reason{name + " is not beside the program, in ../lib or in build: run make kernels, or name it in CHORALE_KERNELS", tensor.ErrUnsupported}
}

func load(path string) (*library, error) {
	path, err := find(path)
	if err != nil {
		return nil, err
	}
	loaded.Lock()
	defer loaded.Unlock()
	if l := loaded.byPath[path]; l != nil {
		return l, nil
	}
	l := &library{}
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	var e C.ch_error
	if err := toError(C.shim_load(p, &l.shim, &e), &e); err != nil {
		return nil, fmt.Errorf("the kernel library cannot be loaded: %w", err)
	}
	loaded.byPath[path] = l
	return l, nil
}

// toError turns a status and its sentence into an error.
func toError(status C.int32_t, e *C.ch_error) error {
	if status == C.CH_OK {
		return nil
	}
	text := C.GoString(&e.text[0])
	switch status {
	case C.CH_OUT_OF_MEMORY:
		return &reason{text, tensor.ErrOutOfMemory}
	case C.CH_UNSUPPORTED:
		return &reason{text, tensor.ErrUnsupported}
	case C.CH_INVALID:
		return &reason{text, tensor.ErrShape}
	case statusComm:
		return &reason{text, collective.ErrAborted}
	default:
		return &reason{text, tensor.ErrLost}
	}
}

// Devices counts the usable GPUs. An error that wraps tensor.ErrUnsupported
// says in a sentence why there are none.
func Devices(o Options) (int, error) {
	l, err := load(o.Library)
	if err != nil {
		return 0, fmt.Errorf("cuda: %w", err)
	}
	var n C.int32_t
	var e C.ch_error
	if err := toError(C.shim_device_count(&l.shim, &n, &e), &e); err != nil {
		return 0, fmt.Errorf("cuda: %w", err)
	}
	return int(n), nil
}

// New makes a backend on one GPU. Errors that wrap tensor.ErrUnsupported say
// what is missing: the library, a driver, a GPU, cuBLASLt.
func New(o Options) (*Backend, error) {
	if o.Precision != tensor.BF16 {
		return nil, fmt.Errorf("cuda: %v: only bfloat16 is computed on GPUs: %w", o.Precision, tensor.ErrUnsupported)
	}
	l, err := load(o.Library)
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	d := &device{l: l, noGraphs: o.NoGraphs}
	if err := d.open(o); err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	b := newBackend(d)
	b.sums = groupOptions{o.Sums, o.NCCL, o.Peers, o.SumBF16, o.SumAlone}
	if o.Depth != 0 {
		b.depth = min(max(o.Depth, 1), maxDepth)
	}
	return b, nil
}

// device is a context of the library.
type device struct {
	l     *library
	c     *C.ch_context
	title string
	// noGraphs keeps steps from being recorded.
	noGraphs bool
}

func (d *device) open(o Options) error {
	opts := (*C.ch_options)(C.calloc(1, C.sizeof_ch_options))
	defer C.free(unsafe.Pointer(opts))
	opts.device, opts.deterministic, opts.tune = C.int32_t(o.Device), flag(o.Deterministic), flag(o.Tune)
	if o.CacheDir != "" {
		if err := os.MkdirAll(o.CacheDir, 0o755); err == nil { // without, measurements are not kept
			opts.cache_dir = C.CString(o.CacheDir)
			defer C.free(unsafe.Pointer(opts.cache_dir))
		}
	}
	if o.CuBLASLt != "" {
		opts.cublaslt = C.CString(o.CuBLASLt)
		defer C.free(unsafe.Pointer(opts.cublaslt))
	}
	var e C.ch_error
	if err := toError(C.shim_open(&d.l.shim, opts, &d.c, &e), &e); err != nil {
		return err
	}
	var info C.ch_device_info
	if err := toError(C.shim_info(&d.l.shim, d.c, &info, &e), &e); err != nil {
		return err
	}
	d.title = fmt.Sprintf("cuda:%d/%s", o.Device, C.GoString(&info.name[0]))
	return nil
}

func (d *device) fault() error {
	var e C.ch_error
	return toError(C.shim_fault(&d.l.shim, d.c, &e), &e)
}

func flag(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}

func (d *device) name() string { return d.title }

func (d *device) close() error {
	var e C.ch_error
	err := toError(C.shim_close(&d.l.shim, d.c, &e), &e)
	d.c = nil
	return err
}

func (d *device) memory() (free, total int64, err error) {
	var e C.ch_error
	var info C.ch_device_info
	err = toError(C.shim_info(&d.l.shim, d.c, &info, &e), &e)
	return int64(info.free_memory), int64(info.memory), err
}

func (d *device) alloc(bytes int64) (addr, error) {
	var e C.ch_error
	var at C.uintptr_t
	err := toError(C.shim_alloc(&d.l.shim, d.c, C.int64_t(bytes), &at, &e), &e)
	return addr(at), err
}

// free does nothing after close: the device's memory went with it.
func (d *device) free(a addr) {
	if d.c != nil {
		var e C.ch_error
		C.shim_free(&d.l.shim, d.c, C.uintptr_t(a), &e) // fails only on a lost device
	}
}

func (d *device) hostAlloc(bytes int64) (unsafe.Pointer, error) {
	var e C.ch_error
	var p unsafe.Pointer
	err := toError(C.shim_host_alloc(&d.l.shim, d.c, C.int64_t(bytes), &p, &e), &e)
	return p, err
}

func (d *device) hostFree(p unsafe.Pointer) {
	if d.c != nil {
		var e C.ch_error
		C.shim_host_free(&d.l.shim, d.c, p, &e) // fails only on a lost device
	}
}

func (d *device) rangeAlloc(bytes int64) (addr, error) {
	var e C.ch_error
	var at C.uintptr_t
	err := toError(C.shim_range_alloc(&d.l.shim, d.c, C.int64_t(bytes), &at, &e), &e)
	return addr(at), err
}

func (d *device) rangeFree(a addr) {
	if d.c != nil {
		var e C.ch_error
		C.shim_range_free(&d.l.shim, d.c, C.uintptr_t(a), &e) // fails only on a lost device
	}
}

func (d *device) pin(bytes int64) (unsafe.Pointer, error) {
	var e C.ch_error
	var p unsafe.Pointer
	err := toError(C.shim_pin(&d.l.shim, d.c, C.int64_t(bytes), &p, &e), &e)
	return p, err
}

func (d *device) unpin(p unsafe.Pointer, bytes int64) {
	if d.c != nil {
		var e C.ch_error
		C.shim_unpin(&d.l.shim, d.c, p, C.int64_t(bytes), &e) // fails only on a lost device
	}
}

func (d *device) copy(dst addr, src unsafe.Pointer, bytes int64) error {
	var e C.ch_error
	return toError(C.shim_copy(&d.l.shim, d.c, C.uintptr_t(dst), src, C.int64_t(bytes), &e), &e)
}

func (d *device) openStream(maxRows int32, ropes []tensor.RopeSpec) (driverStream, error) {
	half, scale, freq := []C.int32_t{0}, []C.float{0}, []C.float{0}
	half, scale, freq = half[:0], scale[:0], freq[:0]
	for _, r := range ropes {
		half, scale = append(half, C.int32_t(len(r.InvFreq))), append(scale, C.float(r.Scale))
		for _, f := range r.InvFreq {
			freq = append(freq, C.float(f))
		}
	}
	s := &deviceStream{l: d.l, noGraphs: d.noGraphs}
	var e C.ch_error
	err := toError(C.shim_stream_open(&d.l.shim, d.c, C.int32_t(maxRows), C.int32_t(len(ropes)),
		unsafe.SliceData(half), unsafe.SliceData(freq), unsafe.SliceData(scale), &s.s, &e), &e)
	return s, err
}

// deviceStream is a stream of the library.
type deviceStream struct {
	l        *library
	s        *C.ch_stream
	noGraphs bool
	ranks    int // whose results come; 0 without a group
}

func (s *deviceStream) makeRoom(r *room) error {
	need := C.ch_tables{bytes: C.int64_t(r.bytes), tiles: C.int64_t(r.tiles), slots: C.int32_t(r.slots), terms: C.int32_t(r.terms), words: C.int32_t(r.words)}
	var now C.ch_tables
	var e C.ch_error
	if err := toError(C.shim_stream_tables(&s.l.shim, s.s, &need, &now, &e), &e); err != nil {
		return err
	}
	*r = room{
		bytes: int64(now.bytes), tiles: int64(now.tiles), slots: int32(now.slots), terms: int32(now.terms),
		slotStride: int64(now.slot_stride), moved: now.moved != 0,
		tables:     unsafe.Slice((*byte)(now.tables), int(now.bytes)),
		slotMemory: unsafe.Slice((*byte)(now.slot_data), int(now.slot_stride)*int(now.slots)),
		words:      int32(now.words),
	}
	for i := range r.results {
		r.results[i] = unsafe.Slice((*uint32)(now.results[i]), int(now.words)*max(s.ranks, 1))
	}
	return nil
}

func (s *deviceStream) submit(sub *submission) error {
	l := sub.layout
	c := C.ch_submission{
		count: C.int32_t(len(sub.ops)), graph: flag(sub.graph && !s.noGraphs), used_bytes: C.int32_t(sub.used),
		first_slot: C.int32_t(sub.firstSlot), last_slot: C.int32_t(sub.lastSlot), slot_bytes: C.int32_t(sub.slotBytes),
		layout: *(*C.ch_layout)(unsafe.Pointer(&l)), words: C.int32_t(sub.words), result: C.int32_t(sub.result), gather: flag(sub.gather),
	}
	var e C.ch_error
	return toError(C.shim_submit(&s.l.shim, s.s, unsafe.Pointer(unsafe.SliceData(sub.ops)), c, &e), &e)
}

func (s *deviceStream) ready() error {
	var e C.ch_error
	return toError(C.shim_ready(&s.l.shim, s.s, &e), &e)
}

func (s *deviceStream) wait(result int32) error {
	var e C.ch_error
	return toError(C.shim_wait(&s.l.shim, s.s, C.int32_t(result), &e), &e)
}

func (s *deviceStream) statistics() (Statistics, error) {
	var e C.ch_error
	var st C.ch_stream_stats
	err := toError(C.shim_stream_statistics(&s.l.shim, s.s, &st, &e), &e)
	return Statistics{int64(st.eager), int64(st.captured), int64(st.replayed)}, err
}

func (s *deviceStream) close() error {
	var e C.ch_error
	return toError(C.shim_stream_close(&s.l.shim, s.s, &e), &e)
}
