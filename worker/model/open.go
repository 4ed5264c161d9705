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
	cfg, err := hfconfig.Parse(c.Config)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	spec, err := Spec(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	if err := c.OpenWeights(); err != nil {
		return nil, nil, err
	}
	m, err := decoder.Load(b, spec, weights{c})
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
