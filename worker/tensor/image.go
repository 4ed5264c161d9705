package tensor

// Rows16 delivers rows like Rows, as bfloat16 rounded to nearest, ties to even.
// Unlike Rows it may be called by several goroutines at once.
type Rows16 func(dst []uint16, row, n int) error

// LoRASpec is one adapted module of an image: A [Rank, In], B [Out, Rank].
type LoRASpec struct {
	Rank, In, Out int
	// Scale multiplies B.
	Scale float32
	// Embedding: A [Rank, vocabulary] is looked up by column, In is the
	// vocabulary.
	Embedding bool
	A, B      Rows
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
