package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"chorale/adaptermgr"
	"chorale/adaptermgr/source"
	"chorale/adaptermgr/store"
	"chorale/internal/hub"
	"chorale/internal/peft"
	pb "chorale/proto/gen/chorale/v1"
	"chorale/services/adapters"
	"chorale/services/auth"
	"chorale/services/rpc"
)

// managerRole is the adapter manager in this process.
type managerRole struct {
	m        *adaptermgr.Manager
	registry *store.Bolt
	server   *rpc.Server
	initial  []initial
	log      *zap.Logger
}

// peer is a worker group that another role talks to.
type peer struct {
	address string
	cc      grpc.ClientConnInterface
}

func newManager(rf *registryFlags, lf *loraFlags, peers []peer, keys *auth.Keys, log *zap.Logger) (_ *managerRole, err error) {
	r := &managerRole{log: log.Named("adaptermgr")}
	if r.initial, err = rf.initials(); err != nil {
		return nil, err
	}
	dir, err := rf.dataDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	// The registry first: its lock tells whether another manager is at work here.
	if r.registry, err = store.OpenBolt(filepath.Join(dir, "registry.db"), store.BoltOptions{}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.registry.Close()
		}
	}()
	blobs, err := adaptermgr.OpenBlobs(filepath.Join(dir, "blobs"))
	if err != nil {
		return nil, err
	}
	client, err := hub.FromEnv()
	if err != nil {
		return nil, err
	}
	so := source.Options{Roots: rf.AdapterRoot, Hub: client, Log: r.log}
	for _, a := range r.initial {
		so.Exact = append(so.Exact, a.Path)
	}
	src, err := source.New(so)
	if err != nil {
		return nil, err
	}
	o := adaptermgr.Options{
		Registry: r.registry, Blobs: blobs, Source: src, Log: r.log, Disabled: !lf.EnableLora, MaxLoaded: rf.MaxLoadedLoras,
		Limits: peft.Limits{MaxRank: lf.MaxLoraRank, TargetModules: targets(lf.LoraTargetModules)},
	}
	for _, p := range peers {
		o.Workers = append(o.Workers, adapters.NewWorkerClient(p.address, p.cc))
	}
	if r.m, err = adaptermgr.New(o); err != nil {
		return nil, err
	}
	if r.server, err = rpc.NewServer(rpc.Options{Log: log, Keys: keys}); err != nil {
		return nil, err
	}
	pb.RegisterAdapterServiceServer(r.server, adapters.NewServer(r.m))
	return r, nil
}

// run manages until ctx ends.
func (r *managerRole) run(ctx context.Context) error {
	defer r.registry.Close()
	return r.m.Run(ctx)
}

// loadInitial loads the adapters of the command line, several at once. Those
// that are registered with the same content already are left as they are.
func (r *managerRole) loadInitial(ctx context.Context) error {
	errs := make([]error, len(r.initial))
	var wg sync.WaitGroup
	for i, a := range r.initial {
		wg.Go(func() {
			res, err := r.m.Load(ctx, adaptermgr.LoadRequest{Name: a.Name, Source: a.Path, Pinned: a.Pinned, Replace: true})
			if err != nil {
				errs[i] = fmt.Errorf("--lora-paths %s=%s: %w", a.Name, a.Path, err)
				return
			}
			r.log.Info("adapter loaded", zap.String("name", a.Name), zap.String("digest", res.Adapter.Digest), zap.Int("max_rank", res.Adapter.MaxRank))
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
