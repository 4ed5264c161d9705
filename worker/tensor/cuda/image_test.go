package cuda

import (
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"chorale/internal/bf16"
	"chorale/worker/tensor"
)

// copies is the part of the fake driver that takes weights in. It keeps what
// is copied, by its address.
type copies struct {
	mu     sync.Mutex
	slabs  [][]byte
	at     addr
	device map[addr][]byte
	live   map[addr]int64
	errs   struct{ take, copy error }
}

func (c *copies) rangeAlloc(bytes int64) (addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.errs.take != nil {
		return 0, c.errs.take
	}
	if c.live == nil {
		c.live = map[addr]int64{}
	}
	c.at += 1 << 32
	c.live[c.at] = bytes
	return c.at, nil
}

func (c *copies) rangeFree(at addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.live, at)
}

func (c *copies) pin(bytes int64) (unsafe.Pointer, error) {
	b := make([]byte, bytes)
	c.slabs = append(c.slabs, b)
	return unsafe.Pointer(&b[0]), nil
}

func (c *copies) unpin(unsafe.Pointer, int64) {}

func (c *copies) copy(dst addr, src unsafe.Pointer, bytes int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.device == nil {
		c.device = map[addr][]byte{}
	}
	c.device[dst] = slices.Clone(unsafe.Slice((*byte)(src), bytes))
	return c.errs.copy
}

// bytesAt are n bytes of the device from an address on.
func (c *copies) bytesAt(at addr, n int) []byte {
	for from, b := range c.device {
		if at >= from && at+addr(n) <= from+addr(len(b)) {
			return b[at-from:][:n]
		}
	}
	return nil
}

// source is a matrix [rows, cols] of noise, read in either form.
type source struct {
	rows, cols int
	v          []float32
}

func newSource(rng *rand.Rand, rows, cols int) *source {
	s := &source{rows, cols, make([]float32, rows*cols)}
	for i := range s.v {
		s.v[i] = float32(rng.NormFloat64())
	}
	return s
}

func (s *source) read(dst []float32, row, n int) error {
	copy(dst, s.v[row*s.cols:(row+n)*s.cols])
	return nil
}

func (s *source) read16(dst []uint16, row, n int) error {
	bf16.Round(dst, s.v[row*s.cols:(row+n)*s.cols])
	return nil
}

// want checks that row r of a matrix on the device, pitch values apart, is as
// the source says, with zeros behind it.
func (s *source) want(t failer, what string, got []uint16, pitch int) {
	t.Helper()
	for r := range s.rows {
		for c := range pitch {
			want := uint16(0)
			if c < s.cols {
				want = bf16.Of(s.v[r*s.cols+c])
			}
			if got[r*pitch+c] != want {
				t.Fatalf("%s [%d, %d]: row %d column %d is %#x, want %#x", what, s.rows, s.cols, r, c, got[r*pitch+c], want)
			}
		}
	}
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// TestImage: every part lies where its pair says, padded with zeros, whatever
// the pinned memory held before.
func TestImage(t *testing.T) {
	f := newFake()
	b := newBackend(f)
	dirty, err := b.pinned.take(slabBytes)
	if err != nil {
		t.Fatal(err)
	}
	for i := range dirty.mem {
		dirty.mem[i] = 0xff
	}
	b.pinned.give(dirty)
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		dim := rapid.IntRange(1, 70)
		var specs []tensor.LoRASpec
		var sources [][2]*source
		for range rapid.IntRange(1, 5).Draw(t, "pairs") {
			s := tensor.LoRASpec{Rank: dim.Draw(t, "rank"), In: dim.Draw(t, "in"), Out: dim.Draw(t, "out"), Scale: 2, Embedding: rapid.Bool().Draw(t, "embedding")}
			x, y := newSource(rng, s.Rank, s.In), newSource(rng, s.Out, s.Rank)
			s.A, s.B = x.read, y.read
			if rapid.Bool().Draw(t, "bf16") {
				s.A16, s.B16 = x.read16, y.read16
			}
			specs, sources = append(specs, s), append(sources, [2]*source{x, y})
		}
		bias := newSource(rng, 1, dim.Draw(t, "bias"))
		im, err := b.NewImage(specs, [][]float32{bias.v})
		if err != nil {
			t.Fatal(err)
		}
		clear(f.device)
		l, err := im.Load()
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range specs {
			checkPair(t, f, &s, l.Pairs[i].(*loraPair), sources[i])
		}
		v := l.Vectors[0].(*vector)
		n8 := pad8(bias.cols)
		mem := f.bytesAt(v.at, 6*n8)
		wide := unsafe.Slice((*float32)(unsafe.Pointer(&mem[0])), n8)
		for i, w := range wide {
			if i < bias.cols && w != bias.v[i] || i >= bias.cols && w != 0 {
				t.Fatalf("bias %d is %v", i, w)
			}
		}
		bias.want(t, "bias", values(mem[4*n8:]), n8)
		l.Pairs[0].Free() // goes with the rest
		l.Vectors[0].Free()
		if len(f.live) != 1 {
			t.Fatalf("%d ranges are out, want 1", len(f.live))
		}
		l.Free()
		l.Free()
		im.Free()
		im.Free()
		if len(f.live) != 0 || b.pinned.taken != 0 {
			t.Fatalf("%d ranges are out, %d bytes of pinned memory", len(f.live), b.pinned.taken)
		}
	})
}

func checkPair(t failer, f *fake, s *tensor.LoRASpec, p *loraPair, src [2]*source) {
	t.Helper()
	if p.at%imageAlign != 0 || p.b%imageAlign != 0 || p.Rank() != s.Rank || p.In() != s.In || p.Out() != s.Out || p.scale != 2 || p.embedding != s.Embedding {
		t.Fatalf("pair is %+v of %+v", p, s)
	}
	if s.Embedding {
		turned := &source{s.In, s.Rank, make([]float32, s.In*s.Rank)}
		for r := range s.Rank {
			for i := range s.In {
				turned.v[i*s.Rank+r] = src[0].v[r*s.In+i]
			}
		}
		turned.want(t, "embedding A", values(f.bytesAt(p.at, 2*s.In*s.Rank)), s.Rank)
	} else {
		src[0].want(t, "A", values(f.bytesAt(p.at, 2*s.Rank*pad8(s.In))), pad8(s.In))
	}
	src[1].want(t, "B", values(f.bytesAt(p.b, 2*s.Out*ldb(s.Rank))), ldb(s.Rank))
}

// TestImageFails: nothing stays taken when an image cannot be made or loaded.
func TestImageFails(t *testing.T) {
	f := newFake()
	b := newBackend(f)
	x := newSource(rand.New(rand.NewPCG(1, 1)), 8, 8)
	good := tensor.LoRASpec{Rank: 8, In: 8, Out: 8, Scale: 1, A: x.read, B: x.read}
	broken := good
	broken.B = func([]float32, int, int) error { return io.ErrUnexpectedEOF }
	huge := good
	huge.Rank = maxLoRARank + 1
	for name, c := range map[string]struct {
		specs   []tensor.LoRASpec
		vectors [][]float32
		want    error
	}{
		"read":  {[]tensor.LoRASpec{good, broken}, nil, io.ErrUnexpectedEOF},
		"rank":  {[]tensor.LoRASpec{huge}, nil, tensor.ErrUnsupported},
		"shape": {[]tensor.LoRASpec{{Rank: 1, In: 0, Out: 1, A: x.read, B: x.read}}, nil, tensor.ErrShape},
		"none":  {nil, nil, tensor.ErrShape},
		"bias":  {[]tensor.LoRASpec{good}, [][]float32{{}}, tensor.ErrShape},
	} {
		if _, err := b.NewImage(c.specs, c.vectors); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	im, err := b.NewImage([]tensor.LoRASpec{good}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.errs.copy = tensor.ErrLost
	if _, err := im.Load(); !errors.Is(err, tensor.ErrLost) {
		t.Errorf("copy: %v", err)
	}
	f.errs.copy, f.errs.take = nil, tensor.ErrOutOfMemory
	if _, err := im.Load(); !errors.Is(err, tensor.ErrOutOfMemory) || !strings.Contains(err.Error(), "MiB") {
		t.Errorf("range: %v", err)
	}
	im.Free()
	if len(f.live) != 0 || b.pinned.taken != 0 {
		t.Errorf("%d ranges are out, %d bytes of pinned memory", len(f.live), b.pinned.taken)
	}
}

// TestFill: a matrix of many pieces arrives whole, read by one goroutine or by
// many.
func TestFill(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	for _, shape := range [][2]int{{1, 1}, {7, 9}, {64, 8}, {700, 4000}, {5, 1 << 20}} {
		s := newSource(rng, shape[0], shape[1])
		f := newFake()
		b := newBackend(f)
		one, err := b.NewMatrix(s.rows, s.cols, s.read)
		if err != nil {
			t.Fatal(err)
		}
		many, err := b.NewMatrix16(s.rows, s.cols, s.read, s.read16)
		if err != nil {
			t.Fatal(err)
		}
		pitch := pad8(s.cols)
		step := stageBytes / 2 / pitch
		for _, m := range []tensor.Matrix{one, many} {
			for row := 0; row < s.rows; row += step {
				part := &source{min(step, s.rows-row), s.cols, s.v[row*s.cols:]}
				part.want(t, "matrix", values(f.bytesAt(m.(*matrix).at+addr(2*row*pitch), 2*part.rows*pitch)), pitch)
			}
		}
		if b.pinned.taken != 0 {
			t.Errorf("%d bytes of pinned memory are out", b.pinned.taken)
		}
	}
	b := newBackend(newFake())
	fails := func([]uint16, int, int) error { return io.ErrUnexpectedEOF }
	if _, err := b.NewMatrix16(5000, 5000, nil, fails); !errors.Is(err, io.ErrUnexpectedEOF) || b.pinned.taken != 0 {
		t.Errorf("%v; %d bytes of pinned memory are out", err, b.pinned.taken)
	}
	if _, err := b.NewMatrix(1, maxColumns+1, nil); !errors.Is(err, tensor.ErrUnsupported) {
		t.Errorf("long row: %v", err)
	}
	if v, err := b.NewVector([]float32{1, float32(math.Inf(1))}); err != nil || v.Len() != 2 {
		t.Errorf("vector: %v", err)
	}
}
