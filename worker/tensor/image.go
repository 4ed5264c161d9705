package tensor

// Rows16 delivers rows like Rows, as bfloat16 rounded to nearest, ties to even.
// Unlike Rows it may be called by several goroutines at once.
type Rows16 func(dst []uint16, row, n int) error

// LoRACut says how a group's ranks share a module's A and B out beyond the cuts of
// the layer itself, S-LoRA's way: each value of an adapter is then on one rank
// only, and Linear joins the intermediates x · Aᵀ, those of all terms of a call
// in one collective.
type LoRACut uint8

const (
	// Uncut needs nothing of the other ranks.
	Uncut LoRACut = iota
	// Gathered: of A [Rank, in] this rank has ceil(Rank/Size) rows, padded with
	// zeros after the last; the ranks' intermediates are put side by side. B
	// [Out, Rank].
	Gathered
	// Summed: A [Rank, In] is this rank's inputs; the ranks' intermediates are
	// added. B [Out, Rank] is this rank's part of outputs that are summed later.
	Summed
)

// Rows is how many rows of A each of size ranks has.
func (c LoRACut) Rows(rank, size int) int {
	if c == Gathered {
		return (rank + size - 1) / size
	}
	return rank
}

// LoRASpec is one adapted module of an image: A [Rank, In], B [Out, Rank].
type LoRASpec struct {
	Rank, In, Out int
	// Scale multiplies B.
	Scale float32
	// Embedding: A [Rank, vocabulary] is looked up by column, In is the
	// vocabulary.
	Embedding bool
	// Cut says that the ranks of a group have parts of A and B. A backend that does
	// not have it refuses with ErrUnsupported; embeddings are never cut so.
	Cut  LoRACut
	A, B Rows
	// A16 and B16, when both are there, deliver the same to backends that store
	// bfloat16.
	A16, B16 Rows16
}

// Image is an adapter in host memory in the device's own layout, made once so
// that bringing the adapter onto the device is copying and nothing else.
type Image interface {
	// Bytes is the host memory that the image occupies, DeviceBytes the device
	// memory that Load takes.
	Bytes() int64
	DeviceBytes() int64
	// Load brings the image onto the device and returns when it is there. No
	// stream waits for it. Several may be under way at once.
	Load() (Loaded, error)
	// Free gives the host memory back; nothing that was loaded may be in use.
	Free()
}

// Loaded is an image on the device.
type Loaded struct {
	// Pairs and Vectors are in the order in which the image was made. They go
	// with Free, not on their own.
	Pairs   []LoRAPair
	Vectors []Vector
	// Free gives the device memory back. No stream may use it; none is waited
	// for.
	Free func()
}
