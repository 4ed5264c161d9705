//go:build faults

package main

import (
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"

	"chorale/worker/tensor"
)

// armFaults is in builds for tests alone: SIGUSR1 breaks the device. A CPU cannot
// be broken, so its backend only says that it is.
func armFaults(b tensor.Backend, log *zap.Logger) tensor.Backend {
	f, ok := b.(interface{ Fault() error })
	if !ok {
		m := &mortal{Backend: b}
		b, f = m, m
	}
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR1)
	go func() {
		for range ch {
			log.Warn("breaking the device", zap.NamedError("result", f.Fault()))
		}
	}()
	return b
}

// mortal is a backend that can be lost.
type mortal struct {
	tensor.Backend
	lost atomic.Bool
}

// Fault makes every further step fail.
func (m *mortal) Fault() error {
	m.lost.Store(true)
	return nil
}

// NewStream makes a stream that is lost with the backend.
func (m *mortal) NewStream(maxTokens int, ropes []tensor.RopeSpec) (tensor.Stream, error) {
	s, err := m.Backend.NewStream(maxTokens, ropes)
	return &mortalStream{s, m}, err
}

type mortalStream struct {
	tensor.Stream
	m *mortal
}

// Finish ends a step.
func (s *mortalStream) Finish() error { return s.end(s.Stream.Finish()) }

// Wait ends a step that was launched.
func (s *mortalStream) Wait() error { return s.end(s.Stream.Wait()) }

func (s *mortalStream) end(err error) error {
	if err != nil || !s.m.lost.Load() {
		return err
	}
	return fmt.Errorf("step: broken on request: %w", tensor.ErrLost)
}
