package cpu

import (
	"errors"
	"fmt"

	"chorale/worker/tensor"
)

// image is an adapter in its packed form. There is no other memory to bring it
// to: Load hands it out.
type image struct {
	loaded tensor.Loaded
	bytes  int64
}

var _ tensor.Image = (*image)(nil)

func (m *image) Bytes() int64                 { return m.bytes }
func (m *image) DeviceBytes() int64           { return m.bytes }
func (m *image) Load() (tensor.Loaded, error) { return m.loaded, nil }

func (m *image) Free() {
	for _, p := range m.loaded.Pairs {
		if p != nil {
			p.Free()
		}
	}
	for _, v := range m.loaded.Vectors {
		if v != nil {
			v.Free()
		}
	}
	m.loaded = tensor.Loaded{Free: func() {}}
}

// NewImage packs an adapter, several pairs at once.
func (b *Backend) NewImage(pairs []tensor.LoRASpec, vectors [][]float32) (tensor.Image, error) {
	m := &image{loaded: tensor.Loaded{
		Pairs: make([]tensor.LoRAPair, len(pairs)), Vectors: make([]tensor.Vector, len(vectors)), Free: func() {},
	}}
	errs := make([]error, len(pairs)+1)
	parallel(b.threads, len(pairs), func(i int) {
		s := &pairs[i]
		p, err := b.imagePair(s)
		if err != nil {
			errs[i] = fmt.Errorf("pair %d: %w", i, err)
			return
		}
		m.loaded.Pairs[i] = p
	})
	for i, v := range vectors {
		vec, err := b.NewVector(v)
		if err != nil {
			errs[len(pairs)] = err
			break
		}
		m.loaded.Vectors[i] = vec
		m.bytes += int64(4 * len(v))
	}
	if err := errors.Join(errs...); err != nil {
		m.Free()
		return nil, err
	}
	for _, p := range m.loaded.Pairs {
		m.bytes += p.Bytes()
	}
	return m, nil
}

func (b *Backend) imagePair(s *tensor.LoRASpec) (tensor.LoRAPair, error) {
	if s.Cut != tensor.Uncut {
		return b.newCutPair(s)
	}
	return b.newPair(s.Rank, s.In, s.Out, s.Scale, s.Embedding, s.A, s.B)
}

// NewMatrix16 packs a weight [out, in] from float32 rows: packing rounds anyway.
func (b *Backend) NewMatrix16(out, in int, rows tensor.Rows, _ tensor.Rows16) (tensor.Matrix, error) {
	return b.NewMatrix(out, in, rows)
}
