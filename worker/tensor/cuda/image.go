package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"chorale/worker/tensor"
)

// imageAlign is where the parts of an image begin: whole cache lines, and
// enough for every kind of access.
const imageAlign = 256

// image is an adapter in pinned memory, in the device's layout: for each pair A
// and then B, and then the vectors.
type image struct {
	b       *Backend
	pairs   []pairLayout
	vectors []vectorLayout
	bytes   int64
	block   pinned
}

// pairLayout says where a pair lies in an image.
type pairLayout struct {
	tensor.LoRASpec
	a, b, end int64
}

type vectorLayout struct {
	n  int
	at int64
}

var _ tensor.Image = (*image)(nil)

// checkLoRA refuses pairs that the kernels do not have.
func checkLoRA(s *tensor.LoRASpec) error {
	if s.Rank <= 0 || s.In <= 0 || s.Out <= 0 || s.A == nil || s.B == nil {
		return fmt.Errorf("LoRA of rank %d, %d to %d: %w", s.Rank, s.In, s.Out, tensor.ErrShape)
	}
	if s.Cut != tensor.Uncut {
		return fmt.Errorf("LoRA that ranks share out as S-LoRA does: %w", tensor.ErrUnsupported)
	}
	if s.Rank > maxLoRARank {
		return fmt.Errorf("LoRA of rank %d, at most %d: %w", s.Rank, maxLoRARank, tensor.ErrUnsupported)
	}
	return nil
}

// pitchA is the length of a stored row of A, [rank, in].
func pitchA(in int) int { return pad8(in) }

// layOut places everything and reserves no memory.
func layOut(pairs []tensor.LoRASpec, vectors [][]float32) (*image, error) {
	m := &image{}
	place := func(bytes int64) int64 {
		at := m.bytes
		m.bytes += (bytes + imageAlign - 1) / imageAlign * imageAlign
		return at
	}
	for i := range pairs {
		s := &pairs[i]
		if err := checkLoRA(s); err != nil {
			return nil, err
		}
		sizeA := int64(s.Rank) * int64(pitchA(s.In))
		if s.Embedding {
			sizeA = int64(roundUp(s.Rank*s.In, 8))
		}
		p := pairLayout{LoRASpec: *s, a: place(2 * sizeA)}
		p.b = place(2 * int64(s.Out) * int64(ldb(s.Rank)))
		p.end = m.bytes
		m.pairs = append(m.pairs, p)
	}
	for _, v := range vectors {
		if len(v) == 0 {
			return nil, fmt.Errorf("empty vector: %w", tensor.ErrShape)
		}
		m.vectors = append(m.vectors, vectorLayout{len(v), place(vectorBytes(len(v)))})
	}
	if m.bytes == 0 {
		return nil, fmt.Errorf("empty adapter: %w", tensor.ErrShape)
	}
	return m, nil
}

// NewImage lays an adapter out in pinned memory, several pairs at once.
func (b *Backend) NewImage(pairs []tensor.LoRASpec, vectors [][]float32) (tensor.Image, error) {
	m, err := layOut(pairs, vectors)
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	m.b = b
	if m.block, err = b.pinned.take(m.bytes); err != nil {
		return nil, fmt.Errorf("cuda: adapter of %d MiB: %w", m.bytes>>20, err)
	}
	if err := m.write(vectors); err != nil {
		m.Free()
		return nil, fmt.Errorf("cuda: %w", err)
	}
	return m, nil
}

// write fills the block, with as many goroutines as there are processors.
func (m *image) write(vectors [][]float32) error {
	for i, v := range vectors {
		l := m.vectors[i]
		layVector(m.block.mem[l.at:l.at+vectorBytes(l.n)], v)
	}
	errs := make([]error, len(m.pairs))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(m.pairs)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(m.pairs); i = int(next.Add(1)) - 1 {
				errs[i] = m.pairs[i].write(m.block.mem)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// write lays one pair out in the image's memory.
func (p *pairLayout) write(mem []byte) error {
	readA, readB := p.A16, p.B16
	if readA == nil || readB == nil {
		readA, readB = rounded(p.In, p.A), rounded(p.Rank, p.B)
	}
	a, b := values(mem[p.a:p.b]), values(mem[p.b:p.end])
	var err error
	if p.Embedding {
		err = p.transpose(a, readA)
	} else {
		pitch := pitchA(p.In)
		err = readPadded(a[:p.Rank*pitch], 0, p.Rank, p.In, pitch, readA)
	}
	if err != nil {
		return fmt.Errorf("matrix A [%d, %d]: %w", p.Rank, p.In, err)
	}
	pitch := ldb(p.Rank)
	if err := readPadded(b[:p.Out*pitch], 0, p.Out, p.Rank, pitch, readB); err != nil {
		return fmt.Errorf("matrix B [%d, %d]: %w", p.Out, p.Rank, err)
	}
	return nil
}

// transpose writes A [rank, vocabulary] as [vocabulary, rank].
func (p *pairLayout) transpose(dst []uint16, read tensor.Rows16) error {
	row := make([]uint16, p.In)
	for r := range p.Rank {
		if err := read(row, r, 1); err != nil {
			return err
		}
		for i, v := range row {
			dst[i*p.Rank+r] = v
		}
	}
	clear(dst[p.Rank*p.In:])
	return nil
}

func (m *image) Bytes() int64       { return int64(len(m.block.mem)) }
func (m *image) DeviceBytes() int64 { return m.bytes }

func (m *image) Free() {
	if m.block.mem != nil {
		m.b.pinned.give(m.block)
		m.block = pinned{}
	}
}

// Load copies the image into a range of its own. The calling goroutine sleeps
// meanwhile.
func (m *image) Load() (tensor.Loaded, error) {
	at, err := m.b.ranges.take(m.bytes)
	if err != nil {
		return tensor.Loaded{}, fmt.Errorf("cuda: adapter of %d MiB: %w", m.bytes>>20, err)
	}
	if err := m.b.d.copy(at, unsafe.Pointer(&m.block.mem[0]), m.bytes); err != nil {
		m.b.ranges.give(at, m.bytes)
		return tensor.Loaded{}, fmt.Errorf("cuda: copying an adapter: %w", err)
	}
	return m.at(at), nil
}

// at describes what lies in a range.
func (m *image) at(at addr) tensor.Loaded {
	var l tensor.Loaded
	for _, p := range m.pairs {
		l.Pairs = append(l.Pairs, &loraPair{
			at: at + addr(p.a), b: at + addr(p.b), bytes: p.end - p.a,
			rank: p.Rank, in: p.In, out: p.Out, scale: p.Scale, embedding: p.Embedding,
		})
	}
	for _, v := range m.vectors {
		l.Vectors = append(l.Vectors, &vector{memory: memory{at: at + addr(v.at), bytes: vectorBytes(v.n)}, n: v.n})
	}
	l.Free = func() {
		if at == 0 {
			return
		}
		for _, p := range l.Pairs {
			p.(*loraPair).at = 0 // a use from now on is refused
		}
		m.b.ranges.give(at, m.bytes)
		at = 0
	}
	return l
}

// NewLoRA copies A [r, in] and B [out, r]; ranks up to 512.
func (b *Backend) NewLoRA(r, in, out int, scale float32, a, bRows tensor.Rows) (tensor.LoRAPair, error) {
	return b.newLoRA(tensor.LoRASpec{Rank: r, In: in, Out: out, Scale: scale, A: a, B: bRows})
}

// NewEmbeddingLoRA copies A [r, vocab], transposed, and B [hidden, r].
func (b *Backend) NewEmbeddingLoRA(r, vocab, hidden int, scale float32, a, bRows tensor.Rows) (tensor.LoRAPair, error) {
	return b.newLoRA(tensor.LoRASpec{Rank: r, In: vocab, Out: hidden, Scale: scale, Embedding: true, A: a, B: bRows})
}

// newLoRA makes a pair on its own, which needs no image afterwards.
func (b *Backend) newLoRA(s tensor.LoRASpec) (tensor.LoRAPair, error) {
	m, err := b.NewImage([]tensor.LoRASpec{s}, nil)
	if err != nil {
		return nil, err
	}
	defer m.Free()
	l, err := m.Load()
	if err != nil {
		return nil, err
	}
	pair := l.Pairs[0].(*loraPair)
	pair.free = l.Free
	return pair, nil
}
