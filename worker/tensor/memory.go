package tensor

// MemoryLayout describes a pool of memory that a cache and adapters share.
type MemoryLayout struct {
	// Bytes is the pool's size; what is not a whole chunk of it is left. 0 is what
	// KV.Pages take.
	Bytes int64
	// KV describes the cache. Pages is the most that it may ever have, rounded up
	// to whole groups, 0 what the pool's size allows.
	KV KVLayout
}

// Memory is a device's pool of physical memory, all of which is taken when the
// pool is made: nothing that is within the pool can fail later for lack of it.
// Groups of the cache's pages and loaded images (Image.Load) take whole chunks
// of it and give them back; worker/memory decides who takes how many. Its methods
// may be called by several goroutines at once.
type Memory interface {
	// ChunkBytes is the size of a chunk.
	ChunkBytes() int64
	// ImageChunks is how many chunks a loaded image of so many DeviceBytes takes: 0
	// where images are loaded from where they are.
	ImageChunks(bytes int64) int
	// Chunks counts all chunks and those that are mapped nowhere at this moment.
	Chunks() (total, free int)
	// Group tells how many pages of the cache come and go together and how many
	// chunks they take.
	Group() (pages, chunks int)
	// KV is the cache. Its layout's Pages are the most that there can be; only
	// pages of groups that Grow brought may be used. It is freed with the pool.
	KV() KV
	// Grow brings groups of the cache, full of zeros. It may wait for memory that
	// was given back but for no step, and fails with ErrOutOfMemory when too
	// little was. Several may run, for different groups.
	Grow(groups []int32) error
	// Shrink gives groups back, which no step uses. It returns at once.
	Shrink(groups []int32)
	// Close frees the pool and its cache; no image may be loaded.
	Close() error
}
