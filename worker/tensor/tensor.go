package tensor

import (
	"errors"

	"chorale/worker/collective"
)

// Precision selects how a backend stores weights and KV and multiplies.
type Precision uint8

const (
	// BF16 stores weights, adapters and KV as bfloat16 and accumulates in
	// float32. The serving mode.
	BF16 Precision = iota
	// F32 stores and multiplies everything in float32. The parity mode: logits
	// within 1e-4 of transformers in float32.
	F32
)

// String returns the name used on the command line.
func (p Precision) String() string {
	if p == F32 {
		return "float32"
	}
	return "bfloat16"
}

// Errors of backends. They are wrapped with the operation and shapes.
var (
	// ErrShape reports operands whose shapes do not fit together.
	ErrShape = errors.New("tensor: shapes do not fit")
	// ErrOutOfMemory reports an allocation that the device cannot serve.
	ErrOutOfMemory = errors.New("tensor: out of memory")
	// ErrUnsupported reports an operation or configuration that this backend
	// does not have, such as a head size.
	ErrUnsupported = errors.New("tensor: unsupported by this backend")
	// ErrLost reports a device that failed: its memory is gone, nothing of the
	// backend works any more, and only a new process can use the device again.
	ErrLost = errors.New("tensor: the device is lost")
)

// Rows delivers n rows of a row-major [rows, cols] matrix, starting at row,
// into dst (n*cols values). Weight files implement it so that no whole
// float32 copy of a matrix ever exists.
type Rows func(dst []float32, row, n int) error

// Matrix is an immutable weight w [Out, In], packed by its backend.
type Matrix interface {
	Out() int
	In() int
	// Bytes is the device memory that the matrix occupies.
	Bytes() int64
	// Free gives the memory back; the matrix must not be in use by a stream.
	Free()
}

// Vector is an immutable vector of float32 on the device: a norm weight or bias.
type Vector interface {
	Len() int
	Free()
}

// LoRAPair is one adapted module of one adapter on the device, at its true
// rank: A [r, in], B [out, r], scale folded in.
type LoRAPair interface {
	Rank() int
	In() int
	Out() int
	Bytes() int64
	Free()
}

// BufferKind says how precisely a backend keeps a buffer.
type BufferKind uint8

const (
	// Act is for what layers multiply: kept in the storage precision or better.
	// The x of Linear, q|k|v, gate|up and what Attention and SiluMul write are
	// of this kind.
	Act BufferKind = iota
	// Wide is float32 on every backend: for the residual, whose small additions
	// must not be rounded away, what is added to it, and logits.
	Wide
)

// Buffer is an activation matrix [Rows, Cols] of a capacity fixed when made.
// Operations set the destination's row count.
type Buffer interface {
	Rows() int
	Cols() int
	Cap() int
	Free()
}

// KVLayout describes a paged key/value cache.
type KVLayout struct {
	Layers   int
	KVHeads  int
	HeadDim  int
	PageSize int // tokens per page
	Pages    int
}

// KV is a paged key/value cache for all layers.
type KV interface {
	Layout() KVLayout
	Bytes() int64
	Free()
}

// RopeSpec is a rotary embedding of the "rotate half" kind (Hugging Face
// order): channel i turns with channel i+HeadDim/2.
type RopeSpec struct {
	// InvFreq [HeadDim/2] are the inverse frequencies after any scaling
	// (llama3, linear, yarn).
	InvFreq []float32
	// Scale multiplies cos and sin (yarn's attention factor); 1 otherwise.
	Scale float32
}

// LoRATerm adds one adapter's contribution to a contiguous run of rows:
//
//	dst[Start:End, Offset:Offset+Pair.Out()] += (x[Start:End] · Aᵀ) · Bᵀ  (+ Bias)
//
// Terms of one call never overlap in both rows and columns.
type LoRATerm struct {
	Start, End int
	// Offset is the first output column: fused projections (q|k|v, gate|up)
	// adapt each part on its own.
	Offset int
	Pair   LoRAPair // nil when the adapter brings only a bias
	// Bias [out of this part] is added to the rows; nil for none. It is the
	// difference to the base's bias (PEFT's bias="all" or "lora_only").
	Bias Vector
}

// Seq is one sequence's share of a step.
type Seq struct {
	// QStart and QLen say which rows of the batch are this sequence's queries.
	QStart, QLen int
	// CtxLen counts the cached tokens after this step, queries included; the
	// queries are the last QLen positions.
	CtxLen int
	// Pages is the sequence's page table; position i lives in page
	// Pages[i/PageSize], slot i%PageSize.
	Pages []int32
}

// Batch holds the integers of one step.
type Batch struct {
	// IDs [T] are token ids. A negative one, -1-n, stands for the token of the
	// n-th row that the step before sampled, which nobody need know yet.
	IDs []int32
	Pos []int32 // [T] positions
	// Seqs covers rows 0..T exactly once, in order.
	Seqs []Seq
}

// RopeKV describes how q|k|v rows are finished and cached in one layer.
type RopeKV struct {
	Layer int
	Heads int // query heads; KVHeads and HeadDim are the cache's
	Rope  int // index into the specs given to NewStream
	// QNorm and KNorm [HeadDim] are per-head RMS norms before the rotation
	// (Qwen3); nil for none.
	QNorm, KNorm Vector
	Eps          float32
}

// AttentionSpec describes one layer's causal attention over the paged cache.
type AttentionSpec struct {
	Layer int
	Heads int
	Scale float32 // usually 1/sqrt(HeadDim)
	// Window is the sliding window in tokens (a query sees itself and the
	// Window-1 positions before it); 0 means all.
	Window int
}

// LogitStat summarises one row of logits.
type LogitStat struct {
	ArgMax    int32   // lowest index of the largest value
	Max       float32 // that value
	LogSumExp float32 // log Σ exp(logit), accumulated in float64 order-independently of other rows
}

// Backend owns one device's memory and kernels. Its methods are safe for use
// by several goroutines; a Stream is not.
type Backend interface {
	// Name tells device and chosen kernel, e.g. "cpu/avx512bf16".
	Name() string
	Precision() Precision
	// Join makes the backend one rank of g, once and before any matrix or stream is
	// made. What matrices then hold is this rank's share, and AllReduce, AllGather
	// and SplitVocab of its streams mean g. The group stays the caller's to close.
	Join(g collective.Group) error
	// Group is what was joined, a group of one without Join.
	Group() collective.Group
	// NewMatrix packs a weight [out, in].
	NewMatrix(out, in int, rows Rows) (Matrix, error)
	// NewMatrix16 does the same from rows that are there in both forms, and reads
	// the one it likes: bfloat16, if it keeps no more, with many goroutines.
	NewMatrix16(out, in int, rows Rows, rows16 Rows16) (Matrix, error)
	NewVector(v []float32) (Vector, error)
	// NewLoRA packs A [r, in] and B [out, r] with B scaled by scale.
	NewLoRA(r, in, out int, scale float32, a, b Rows) (LoRAPair, error)
	// NewEmbeddingLoRA packs an adapter of the embedding table: A [r, vocab]
	// is looked up by column, B [hidden, r].
	NewEmbeddingLoRA(r, vocab, hidden int, scale float32, a, b Rows) (LoRAPair, error)
	// NewImage lays an adapter out in host memory: its pairs, and vectors of
	// float32. Different pairs may be read at the same time.
	NewImage(pairs []LoRASpec, vectors [][]float32) (Image, error)
	// NewKV makes a cache with all its pages, on memory of its own.
	NewKV(l KVLayout) (KV, error)
	// NewMemory makes a pool of memory with a cache in it. From then on loaded
	// images take their memory of the pool, where they take any.
	NewMemory(l MemoryLayout) (Memory, error)
	// NewBuffer makes an activation matrix for at most rows rows.
	NewBuffer(kind BufferKind, rows, cols int) (Buffer, error)
	// NewStream makes a stream for steps of at most maxTokens rows. ropes are
	// the rotary embeddings that layers refer to by index.
	NewStream(maxTokens int, ropes []RopeSpec) (Stream, error)
	// Close frees the backend's threads and memory; nothing of it may be in use.
	Close() error
}

// Stream runs the operations of one step after another, in order.
type Stream interface {
	// Begin starts a step; b must stay unchanged until Launch or Finish.
	Begin(b *Batch)
	// SplitVocab says, before the first step, that a vocabulary of total tokens is
	// shared out in equal parts, n = rows of a table or columns of logits each:
	// rank r has tokens [r*n, (r+1)*n), of which those from total on are padding
	// whose values mean nothing. It holds for all tables and logits of the stream;
	// a group of one has everything.
	SplitVocab(total int)
	// AllReduce replaces x, which is Wide, by the sum over ranks, which has the
	// same bits on all of them. Nothing happens in a group of one.
	AllReduce(x Buffer)
	// AllGather writes dst [T, Size*n], both Wide: all ranks' src [T, n], by rank.
	// dst and src must differ.
	AllGather(dst, src Buffer)
	// Embed looks up dst [T, H] = table[ids] and adds embedding adapters. Rows of
	// tokens that other ranks have are zero: AllReduce makes them whole.
	Embed(dst Buffer, table Matrix, lora []LoRATerm)
	// RMSNorm writes dst = x / rms(x) * w, row by row.
	RMSNorm(dst, x Buffer, w Vector, eps float32)
	// AddRMSNorm adds delta to residual in place and writes its norm to dst:
	// residual += delta; dst = norm(residual)*w.
	AddRMSNorm(dst, residual, delta Buffer, w Vector, eps float32)
	// Linear writes dst [T, out] = x [T, in] · w [out, in]ᵀ + bias, plus the
	// LoRA terms. bias may be nil. dst and x must differ.
	Linear(dst, x Buffer, w Matrix, bias Vector, lora []LoRATerm)
	// RopeKV normalises and rotates q and k inside qkv [T, (Heads+2*KVHeads)*HeadDim]
	// and writes k and v to the cache at the rows' positions.
	RopeKV(qkv Buffer, kv KV, r RopeKV)
	// Attention writes dst [T, Heads*HeadDim]; q is the first part of qkv's
	// rows, keys and values come from the cache.
	Attention(dst, qkv Buffer, kv KV, a AttentionSpec)
	// SiluMul writes dst [T, F] = silu(gate) * up of gateUp [T, 2F].
	SiluMul(dst, gateUp Buffer)
	// GatherRows copies the given rows of src into dst, in that order: at most
	// as many as the step has.
	GatherRows(dst, src Buffer, rows []int32)
	// LogitStats summarises each row of logits into out (one per row). With a
	// vocabulary that is split, all ranks get the statistics of the whole row.
	LogitStats(out []LogitStat, logits Buffer)
	// Sample does to each row of logits, which must be Wide, what rows asks for,
	// and fills out, one per row. The logits may be changed. rows may be reused at
	// once, except the slices IDs. A step may have as many rows in all as tokens.
	// With a vocabulary that is split, tokens are the vocabulary's, rows must be the
	// same on all ranks, and so are the results: those that a single rank would
	// find, up to the order of sums.
	Sample(out []Sampled, logits Buffer, rows []SampleRow)
	// Host returns buf's rows as host memory, row-major, valid until the next
	// operation that writes buf. Values may be modified by the caller.
	Host(buf Buffer) []float32
	// Err waits for all operations and returns the step's first error so far;
	// ask before believing what Host, LogitStats and Sample gave.
	Err() error
	// Depth is how many steps may be launched and not waited for: 1, or 2 where
	// the device works while the next step is prepared.
	Depth() int
	// Launch ends the step's operations and starts them; the next step may Begin.
	Launch()
	// Wait waits for the oldest step that was launched, fills its results and
	// returns its first error.
	Wait() error
	// Finish is Launch, and Wait for all that was launched; it returns the first
	// error.
	Finish() error
}
