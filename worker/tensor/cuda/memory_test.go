package cuda

import (
	"errors"
	"testing"

	"chorale/worker/tensor"
	"chorale/worker/tensor/chunk"
)

// fakeChunks counts what is mapped of a fake device's memory.
type fakeChunks struct {
	next   addr
	made   int
	mapped map[addr]chunk.Handle
	closed bool
}

var _ chunkDriver = (*fakeChunks)(nil)

func (f *fake) chunks() (chunkDriver, error) {
	return &fakeChunks{next: 1 << 40, mapped: map[addr]chunk.Handle{}}, f.broken
}

const fakeChunk = 2 << 20

func (c *fakeChunks) ChunkBytes() int64 { return fakeChunk }

func (c *fakeChunks) Create(n int) ([]chunk.Handle, error) {
	c.made += n
	return make([]chunk.Handle, n), nil
}

func (c *fakeChunks) Release(hs []chunk.Handle) error {
	c.made -= len(hs)
	return nil
}

func (c *fakeChunks) Reserve(n int) (addr, error) {
	at := c.next
	c.next += addr(n) * fakeChunk
	return at, nil
}

func (c *fakeChunks) Unreserve(addr, int) error { return nil }

func (c *fakeChunks) Map(at addr, hs []chunk.Handle) error {
	for i, h := range hs {
		c.mapped[at+addr(i)*fakeChunk] = h
	}
	return nil
}

func (c *fakeChunks) Unmap(at addr, n int) error {
	for i := range n {
		delete(c.mapped, at+addr(i)*fakeChunk)
	}
	return nil
}

func (c *fakeChunks) Clear(addr, int) error   { return nil }
func (c *fakeChunks) read([]byte, addr) error { return nil }
func (c *fakeChunks) close() error            { c.closed = true; return nil }

// llamaKV is the cache of an 8B Llama: a page is a chunk.
var llamaKV = tensor.KVLayout{Layers: 32, KVHeads: 8, HeadDim: 128, PageSize: 16}

// TestMemoryViews: layers and pages of a pool's cache lie where kernels look.
func TestMemoryViews(t *testing.T) {
	b := newBackend(newFake())
	for _, l := range []tensor.KVLayout{llamaKV, {Layers: 30, KVHeads: 3, HeadDim: 64, PageSize: 16}} {
		mem, err := b.NewMemory(tensor.MemoryLayout{Bytes: 90 << 20, KV: l})
		if err != nil {
			t.Fatal(err)
		}
		pages, chunks := mem.Group()
		c := mem.KV().(*kvCache)
		half := int64(l.PageSize * l.KVHeads * l.HeadDim)
		if c.stride < int64(l.Layers)*2*half || c.stride*2*int64(pages) != int64(chunks)*fakeChunk || c.layout.Pages != 45/chunks*pages {
			t.Errorf("%+v: %d pages every %d values, %d in %d chunks", l, c.layout.Pages, c.stride, pages, chunks)
		}
		for layer := range l.Layers {
			v := c.view(layer)
			if want := c.at + addr(int64(layer)*4*half); v.keys != want || v.values != want+addr(2*half) || v.pageStride != c.stride {
				t.Fatalf("layer %d: %+v, want keys at %x", layer, v, want)
			}
		}
		mem.KV().Free() // goes with the pool
		if err := mem.Close(); err != nil || !mem.(*memoryPool).d.(*fakeChunks).closed || mem.(*memoryPool).d.(*fakeChunks).made != 0 {
			t.Errorf("closing: %v", err)
		}
	}
}

// TestMemoryRanges: ranges come from the pool while there is one, and go back
// to where they came from.
func TestMemoryRanges(t *testing.T) {
	b := newBackend(newFake())
	before, err := b.ranges.take(100)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := b.NewMemory(tensor.MemoryLayout{Bytes: 10 * fakeChunk, KV: llamaKV})
	if err != nil {
		t.Fatal(err)
	}
	d := mem.(*memoryPool).d.(*fakeChunks)
	if _, err := b.NewMemory(tensor.MemoryLayout{Bytes: 10 * fakeChunk, KV: llamaKV}); !errors.Is(err, tensor.ErrUnsupported) {
		t.Errorf("a second pool: %v", err)
	}
	if err := mem.Grow([]int32{0, 1, 2, 9}); err != nil {
		t.Fatal(err)
	}
	own, err := b.ranges.take(3*fakeChunk + 1)
	if err != nil || len(d.mapped) != 8 {
		t.Fatalf("%d chunks are mapped, %v", len(d.mapped), err)
	}
	if _, err := b.ranges.take(3 * fakeChunk); !errors.Is(err, tensor.ErrOutOfMemory) {
		t.Errorf("more than is free: %v", err)
	}
	b.ranges.give(before, 100)
	if err := mem.Close(); !errors.Is(err, chunk.ErrBusy) {
		t.Errorf("closing with a range out: %v", err)
	}
	b.ranges.give(own, 3*fakeChunk+1)
	if err := mem.Close(); err != nil || len(d.mapped) != 0 {
		t.Errorf("%d chunks are mapped, %v", len(d.mapped), err)
	}
	after, err := b.ranges.take(100)
	if err != nil || after >= 1<<40 {
		t.Errorf("without a pool: %x, %v", after, err)
	}
}

func TestMemoryErrors(t *testing.T) {
	f := newFake()
	b := newBackend(f)
	bad := llamaKV
	bad.HeadDim = 12
	for name, l := range map[string]tensor.MemoryLayout{
		"head size": {Bytes: 1 << 30, KV: bad}, "no layers": {Bytes: 1 << 30}, "no room": {Bytes: fakeChunk - 1, KV: llamaKV},
	} {
		if m, err := b.NewMemory(l); err == nil {
			t.Errorf("%s: %v", name, m)
		}
	}
	f.broken = tensor.ErrLost
	if _, err := b.NewMemory(tensor.MemoryLayout{Bytes: 1 << 30, KV: llamaKV}); !errors.Is(err, tensor.ErrLost) {
		t.Errorf("a lost device: %v", err)
	}
}
