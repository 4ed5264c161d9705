package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"chorale/internal/certs"
	pb "chorale/proto/gen/chorale/v1"
)

// drainCmd takes a worker group out of service while it serves.
type drainCmd struct {
	Worker string `arg:"" name:"worker" placeholder:"HOST:PORT" help:"The worker group's address (its --listen)."`
	Resume bool   `help:"Take new sequences again."`
	clusterFlags
	Timeout time.Duration `default:"10m" help:"How long to wait until those under way have ended."`
}

// Run asks the worker and waits until nothing runs there.
func (c *drainCmd) Run(ctx context.Context) error {
	cl, err := c.cluster(zap.NewNop())
	if err != nil {
		return err
	}
	peers, hangUp, err := dialAll([]string{c.Worker}, "", cl.to(certs.Worker))
	if err != nil {
		return err
	}
	defer hangUp()
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	began := time.Now()
	if _, err := pb.NewWorkerServiceClient(peers[0].cc).DrainWorker(ctx, &pb.DrainWorkerRequest{Resume: c.Resume}); err != nil {
		return fmt.Errorf("worker %s: %w", c.Worker, err)
	}
	done := fmt.Sprintf("%s runs nothing and takes nothing, after %v; it can be stopped", c.Worker, time.Since(began).Round(time.Millisecond))
	if c.Resume {
		done = c.Worker + " takes new sequences"
	}
	_, err = fmt.Fprintln(os.Stdout, done)
	return err
}
