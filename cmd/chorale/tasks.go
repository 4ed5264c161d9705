package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// task is a goroutine of a role; it returns when ctx ends or fails.
type task struct {
	name string
	run  func(ctx context.Context) error
}

// crew runs tasks and learns of the first that fails. Tasks are started in
// stages and stopped in reverse: a stage is stopped only when the later ones
// have ended.
type crew struct {
	stages []stage
	failed chan error
}

type stage struct {
	cancel context.CancelFunc
	wg     *sync.WaitGroup
}

func newCrew() *crew { return &crew{failed: make(chan error, 1)} }

// start begins a stage.
func (c *crew) start(tasks ...task) {
	ctx, cancel := context.WithCancel(context.Background())
	wg := &sync.WaitGroup{}
	c.stages = append(c.stages, stage{cancel, wg})
	for _, t := range tasks {
		wg.Go(func() {
			if err := t.run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				select {
				case c.failed <- fmt.Errorf("%s: %w", t.name, err):
				default:
				}
			}
		})
	}
}

// stop ends all stages, the last first.
func (c *crew) stop() {
	for i := len(c.stages) - 1; i >= 0; i-- {
		c.stages[i].cancel()
		c.stages[i].wg.Wait()
	}
	c.stages = nil
}

// cause is why a task failed, where one did a moment ago: what came of that at
// somebody else's is err.
func (c *crew) cause(err error) error {
	select {
	case first := <-c.failed:
		return first
	case <-time.After(100 * time.Millisecond):
		return err
	}
}

// untilStopped makes a task of a gRPC server's serve function.
func untilStopped(serve func() error) func(context.Context) error {
	return func(context.Context) error {
		if err := serve(); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	}
}
