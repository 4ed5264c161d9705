package main

import (
	"context"
	"net"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"chorale/internal/checkpoint"
)

// ownWorker is the worker group of a server that is everything: in this process,
// or ranks in processes below it.
type ownWorker interface {
	// peer is how router and manager reach it.
	peer() peer
	// start makes it work and returns when it does.
	start(ctx context.Context, team *crew, c *serveCmd) error
	// free gives everything back, after the crew has stopped.
	free()
}

func (c *serveCmd) worker(ctx context.Context, ckpt *checkpoint.Checkpoint, log *zap.Logger) (ownWorker, error) {
	if c.TpSize > 1 {
		return newRanksBelow(ckpt, c, log)
	}
	w, err := newWorker(ctx, ckpt, &c.modelFlags, &c.weightFlags, &c.loraFlags, nil, log)
	if err != nil {
		return nil, err
	}
	cc, err := w.server.Loop()
	if err != nil {
		w.free()
		return nil, err
	}
	return &workerHere{w, cc}, nil
}

// workerHere is a worker in this process.
type workerHere struct {
	*workerRole
	cc grpc.ClientConnInterface
}

func (w *workerHere) peer() peer { return peer{localName, w.cc, w.service} }

// localName is the address of a server's own worker group in logs and metrics.
const localName = "local"

func (w *workerHere) start(ctx context.Context, team *crew, c *serveCmd) error {
	team.start(task{"worker", w.run})
	if err := w.warmUp(ctx, &c.weightFlags, &c.loraFlags); err != nil {
		return team.cause(err)
	}
	team.start(task{"worker grpc", stopWith(w.server.Server, w.server.ServeLoop)})
	return nil
}

// ranksBelow is a group whose ranks are processes of this one.
type ranksBelow struct {
	*rankGroup
	l      net.Listener
	conn   peer
	hangUp func()
}

func newRanksBelow(ckpt *checkpoint.Checkpoint, c *serveCmd, log *zap.Logger) (*ranksBelow, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &ranksBelow{l: l, hangUp: func() {}}
	if r.rankGroup, err = newRankGroup(ckpt, &c.groupFlags, &rankFlags{TpRank: -1}, &c.weightFlags, l, c.DrainTimeout, log); err != nil {
		l.Close()
		return nil, err
	}
	peers, hangUp, err := dialAll([]string{l.Addr().String()}, "", insecure.NewCredentials())
	if err != nil {
		r.free()
		return nil, err
	}
	r.conn, r.hangUp = peer{address: localName, cc: peers[0].cc}, hangUp
	return r, nil
}

func (r *ranksBelow) peer() peer { return r.conn }

// start waits until all ranks are ready.
func (r *ranksBelow) start(ctx context.Context, team *crew, _ *serveCmd) error {
	team.start(task{"worker", r.run})
	select {
	case <-r.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case err := <-team.failed:
		return err
	}
}

func (r *ranksBelow) free() {
	r.hangUp()
	r.l.Close()
}
