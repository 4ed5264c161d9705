package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"chorale/internal/checkpoint"
	"chorale/worker/engine"
	"chorale/worker/model"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

// mortal is a backend that is lost after some steps.
type mortal struct {
	tensor.Backend
	left atomic.Int64
}

func (m *mortal) NewStream(maxTokens int, ropes []tensor.RopeSpec) (tensor.Stream, error) {
	s, err := m.Backend.NewStream(maxTokens, ropes)
	return &mortalStream{s, m}, err
}

type mortalStream struct {
	tensor.Stream
	m *mortal
}

func (s *mortalStream) Wait() error {
	if err := s.Stream.Wait(); err != nil {
		return err
	}
	if s.m.left.Add(-1) < 0 {
		return fmt.Errorf("CUDA error 700: %w", tensor.ErrLost)
	}
	return nil
}

// TestLost: a lost device ends the engine with a report; every sequence ends as
// in a process that stops, with the tokens it had, so that others continue it.
func TestLost(t *testing.T) {
	b, err := cpu.New(cpu.Options{Precision: tensor.BF16})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m := &mortal{Backend: b}
	m.left.Store(5)
	c, err := checkpoint.Open(goldenModel)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	md, _, err := model.Open(m, c)
	if err != nil {
		t.Fatal(err)
	}
	defer md.Free()
	e, err := engine.New(m, md, roomy(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(context.Background()) }()
	conn := e.Connect()
	var reqs []engine.Request
	for id := range uint64(3) {
		reqs = append(reqs, engine.Request{ID: id + 1, Tokens: []int32{1, 2, int32(id) + 3}, MaxTokens: 40, IgnoreEOS: true})
	}
	conn.Submit(reqs)
	ended := map[uint64]error{}
	tokens := 0
	for len(ended) < len(reqs) {
		msg, err := conn.Recv(context.Background())
		if err != nil {
			t.Fatalf("%v with %d of %d ended", err, len(ended), len(reqs))
		}
		for _, o := range msg.Outputs {
			tokens += len(o.Tokens)
			if o.Reason != engine.Running {
				ended[o.ID] = o.Err
			}
		}
	}
	for id, err := range ended {
		if !errors.Is(err, engine.ErrClosed) {
			t.Errorf("sequence %d: %v", id, err)
		}
	}
	if tokens == 0 {
		t.Error("no token before the loss")
	}
	err = <-done
	if !errors.Is(err, tensor.ErrLost) || !strings.HasPrefix(err.Error(), "step ") || !strings.Contains(err.Error(), "CUDA error 700") {
		t.Errorf("Run ended with %v", err)
	}
	if _, err := e.Status(context.Background()); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("afterwards: %v", err)
	}
}
