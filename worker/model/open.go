package model

import (
	"fmt"

	"chorale/internal/checkpoint"
	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
	"chorale/worker/tensor"
)

// Open loads a checkpoint's model onto a backend.
func Open(b tensor.Backend, c *checkpoint.Checkpoint) (*decoder.Model, *hfconfig.Config, error) {
	cfg, spec, err := Read(c)
	if err != nil {
		return nil, nil, err
	}
	if err := c.OpenWeights(); err != nil {
		return nil, nil, err
	}
	return load(b, c, cfg, spec, weights{c})
}

// OpenDummy is Open with weights of noise: of the checkpoint only the
// configuration is read.
func OpenDummy(b tensor.Backend, c *checkpoint.Checkpoint) (*decoder.Model, *hfconfig.Config, error) {
	cfg, spec, err := Read(c)
	if err != nil {
		return nil, nil, err
	}
	return load(b, c, cfg, spec, Dummy(&spec))
}

// Read reads a checkpoint's configuration.
func Read(c *checkpoint.Checkpoint) (*hfconfig.Config, decoder.Spec, error) {
	cfg, err := hfconfig.Parse(c.Config)
	if err != nil {
		return nil, decoder.Spec{}, fmt.Errorf("%s: %w", c.Path, err)
	}
	spec, err := Spec(cfg)
	if err != nil {
		return nil, decoder.Spec{}, fmt.Errorf("%s: %w", c.Path, err)
	}
	return cfg, spec, nil
}

func load(b tensor.Backend, c *checkpoint.Checkpoint, cfg *hfconfig.Config, spec decoder.Spec, w decoder.Weights) (*decoder.Model, *hfconfig.Config, error) {
	m, err := decoder.Load(b, spec, w)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	return m, cfg, nil
}

// weights brings a checkpoint's tensors into the loader's form.
type weights struct{ c *checkpoint.Checkpoint }

func (w weights) Names() []string { return w.c.Names() }

func (w weights) Tensor(name string) ([]int, tensor.Rows, bool) {
	t, ok := w.c.Tensor(name)
	return t.Shape, tensor.Rows(t.Rows), ok
}

// Tensor16 gives a tensor's rows as bfloat16.
func (w weights) Tensor16(name string) (tensor.Rows16, bool) {
	t, ok := w.c.Tensor(name)
	return tensor.Rows16(t.Rows16), ok
}

// TensorColumns gives columns of a tensor, where the file has them in one piece.
func (w weights) TensorColumns(name string, from, n int) (tensor.Rows, tensor.Rows16, bool) {
	t, ok := w.c.Tensor(name)
	if !ok || t.Columns == nil {
		return nil, nil, false
	}
	rows, rows16, ok := t.Columns(from, n)
	return tensor.Rows(rows), tensor.Rows16(rows16), ok
}
