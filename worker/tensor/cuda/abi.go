package cuda

import (
	"time"
	"unsafe"

	"chorale/worker/tensor"
)

// The structs of kernels/include/chorale_kernels.h, laid out alike (native.go
// checks it). Addresses are numbers here: none is of Go's memory.

type addr = uintptr

type view struct {
	data        addr
	cols, pitch int32
	wide        int32
	_           int32
}

type cacheView struct {
	keys, values               addr
	pageStride                 int64
	pageSize, kvHeads, headDim int32
	_                          int32
}

type opKind int32

const (
	opAngles opKind = iota + 1
	opEmbed
	opRMSNorm
	opAddRMSNorm
	opLinear
	opRopeKV
	opAttention
	opSiluMul
	opGather
	opSample
	opToHost
	opAllReduce
	opAllGather
)

type op struct {
	kind                opKind
	rows                int32
	dst, x, y           view
	w, w2               addr
	bias                addr
	out, in             int32
	cache               cacheView
	host                addr
	heads, window, rope int32
	list                int32
	slot                int32
	eps, scale          float32
	_                   int32
}

type seq struct{ qStart, qLen, ctxLen, firstPage int32 }

type samples struct{ at, rows, first, _ int32 }

type header struct {
	rows, seqs, turn, _ int32
	samples             [lists]samples
}

type adjustment struct {
	id          int32
	bias        float32
	count, seen int32
}

type sampleRow struct {
	u, topP                         float64
	inverse, reach, minReach        float32
	repetition, frequency, presence float32
	topK, given, last               int32
	adjust, adjusts                 int32
	bans, banCount                  int32
	ids, idCount                    int32
	top, out, gathered              int32
}

type sampled struct {
	token, argMax             int32
	max, logSumExp, fromLogit float32
}

type loraTerm struct {
	a, b, bias                    addr
	row0, rows, rank, out, col, s int32
	scale                         float32
	_                             int32
}

const (
	lists      = 8
	maxTerms   = 4096
	slotHeader = 16
	termBytes  = int32(unsafe.Sizeof(loraTerm{}))
	results    = 2
)

// layout says where a step's tables lie, in bytes from the start of the block.
// It depends on the padded number of rows alone, so it is part of what tells
// one recorded graph from another.
type layout struct{ rows, header, ids, pos, rowSeq, seqs, lists, pages int32 }

// layoutOf lays out the tables of a step of rows padded rows; the page tables
// come last because only their length varies.
func layoutOf(rows int32) layout {
	l := layout{rows: rows}
	at := int32(unsafe.Sizeof(header{}))
	section := func(bytes int32) int32 {
		start := at
		at += (bytes + 15) / 16 * 16
		return start
	}
	l.ids, l.pos, l.rowSeq = section(4*rows), section(4*rows), section(4*rows)
	l.seqs = section(int32(unsafe.Sizeof(seq{})) * rows)
	l.lists = section(4 * rows * lists)
	l.pages = at
	return l
}

// submission is one call's worth of work.
type submission struct {
	ops                 []op
	graph               bool
	layout              layout
	used                int32 // bytes of the tables
	firstSlot, lastSlot int32
	slotBytes           int32
	words, result       int32
	gather              bool // the words of all ranks
}

// room is what a stream's tables need to hold, and then what they do.
type room struct {
	bytes, tiles int64
	slots, terms int32
	words        int32
	// Set by the driver: the memory, and whether slots moved.
	tables     []byte
	slotMemory []byte
	slotStride int64
	moved      bool
	results    [results][]uint32
}

// driver is one device: the library, or a recorder in tests.
type driver interface {
	name() string
	memory() (free, total int64, err error)
	alloc(bytes int64) (addr, error)
	free(a addr)
	hostAlloc(bytes int64) (unsafe.Pointer, error)
	hostFree(p unsafe.Pointer)
	// rangeAlloc and rangeFree do not wait for the device.
	rangeAlloc(bytes int64) (addr, error)
	rangeFree(a addr)
	// pin gives memory for copy, a multiple of pinBytes; it takes its time, lest
	// steps suffer. unpin stops the device.
	pin(bytes int64) (unsafe.Pointer, error)
	unpin(p unsafe.Pointer, bytes int64)
	// copy copies pinned memory to the device, beside all streams. It sleeps
	// until all is there.
	copy(dst addr, src unsafe.Pointer, bytes int64) error
	// chunks prepares to make chunks for a memory pool.
	chunks() (chunkDriver, error)
	openStream(maxRows int32, ropes []tensor.RopeSpec) (driverStream, error)
	// uuid tells devices apart, whoever counts them.
	uuid() ([16]byte, error)
	// ncclVersion loads NCCL, or says why not. ncclID is what ranks find each other
	// by, openComm returns when all have called it.
	ncclVersion(library string) (int, error)
	ncclID(library string) ([]byte, error)
	openComm(library string, id []byte, rank, size int, timeout time.Duration) (driverComm, error)
	// openPeers makes memory that other processes' devices see by its handle.
	openPeers(rank, size int) (driverPeers, []byte, error)
	close() error
}

// driverComm is a communicator of NCCL.
type driverComm interface {
	// check tells whether the group has failed; abort ends what runs, from any
	// goroutine; close comes after the streams'.
	check() error
	abort() error
	close() error
}

// driverPeers are devices that see each other's memory.
type driverPeers interface {
	connect(handles []byte) error
	// measure gives the microseconds of sums of so many bytes.
	measure(comm driverComm, half bool, sizes []int64) (peers, nccl []float32, err error)
	// abort ends what runs, from any goroutine; close comes after the streams'.
	abort()
	close()
}

type driverStream interface {
	// join makes the stream one of a group's, before anything else.
	join(r *ranks) error
	makeRoom(need *room) error
	submit(s *submission) error
	// ready waits until the tables may be written, wait until a submission with
	// this result buffer has ended; every one, for -1.
	ready() error
	wait(result int32) error
	statistics() (Statistics, error)
	close() error
}

// Statistics count a stream's submissions.
type Statistics struct {
	Eager, Captured, Replayed int64
}

// idBytes is the size of what ncclID gives.
const idBytes = 128

// handleBytes is the size of a handle of memory.
const handleBytes = 64

// What the host does for a group: see ch_host_operation.
const (
	hostReduce = 1
	hostGather = 2
)
