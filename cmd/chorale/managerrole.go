package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"chorale/adaptermgr"
	"chorale/adaptermgr/store"
	"chorale/internal/peft"
	pb "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/services/adapters"
	"chorale/services/auth"
	"chorale/services/rpc"
	"chorale/services/workers"
)

// managerRole is the adapter manager in this process.
type managerRole struct {
	m        *adaptermgr.Manager
	registry *store.Bolt
	server   *rpc.Server
	initial  []initial
	limits   adapterLimits
	log      *zap.Logger
	// preload are --preload's adapters; unready is why they are not there yet.
	preload []string
	unready atomic.Pointer[error]
}

// patienceFlags say how long worker groups are waited for.
type patienceFlags struct {
	AckTimeout time.Duration `group:"lora" placeholder:"DURATION" help:"How long a worker group may say nothing about an adapter before a load, or an unload by force, names it and goes on without it (default: 1m)."`
}

// peer is a worker group that another role talks to.
type peer struct {
	address string
	cc      grpc.ClientConnInterface
	// shared is the worker's service when it is in this process, to which files
	// are named instead of sent.
	shared *workers.Server
}

func newManager(rf *registryFlags, lf *loraFlags, peers []peer, keys *auth.Keys, log *zap.Logger) (_ *managerRole, err error) {
	r := &managerRole{log: log.Named("adaptermgr"), limits: adapterLimits{
		Limits:       peft.Limits{MaxRank: lf.MaxLoraRank, TargetModules: targets(lf.LoraTargetModules)},
		modulesGiven: len(lf.LoraTargetModules) > 0,
	}}
	if r.initial, err = rf.initials(); err != nil {
		return nil, err
	}
	if r.preload = rf.Preload; len(r.preload) > 0 {
		r.notReady(errPreloading)
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
	src, blobs, err := rf.openSources(dir, r.initial, r.log)
	if err != nil {
		return nil, err
	}
	o := adaptermgr.Options{
		Registry: r.registry, Blobs: blobs, Source: src, Log: r.log, Disabled: !lf.EnableLora, MaxLoaded: rf.MaxLoadedLoras, Eviction: lf.eviction(), MaxVersions: rf.MaxAdapterVersions, AckTimeout: rf.AckTimeout,
		Limits: r.limits.Limits,
	}
	for _, p := range peers {
		w := adapters.NewWorkerClient(p.address, p.cc)
		if p.shared != nil {
			blobDir, err := filepath.Abs(filepath.Join(dir, "blobs"))
			if err != nil {
				return nil, err
			}
			w.ShareFiles()
			p.shared.ShareFiles(blobDir)
		}
		o.Workers = append(o.Workers, w)
	}
	if r.m, err = adaptermgr.New(o); err != nil {
		return nil, err
	}
	if r.server, err = rpc.NewServer(rpc.Options{Log: log, Keys: keys, Ready: r.ready}); err != nil {
		return nil, err
	}
	admin := adapters.NewServer(r.m)
	admin.AcceptUploads(src)
	pb.RegisterAdapterServiceServer(r.server, admin)
	return r, nil
}

// setWorkers changes the worker groups.
func (r *managerRole) setWorkers(peers []peer) {
	var ws []adaptermgr.Worker
	for _, p := range peers {
		ws = append(ws, adapters.NewWorkerClient(p.address, p.cc))
	}
	r.m.SetWorkers(ws)
}

// run manages until ctx ends.
func (r *managerRole) run(ctx context.Context) error {
	defer r.registry.Close()
	return r.m.Run(ctx)
}

// checkNames refuses adapters of the command line that are called like the base
// model.
func (r *managerRole) checkNames(m router.ModelInfo) error {
	for _, a := range r.initial {
		if m.IsBase(a.Name) {
			return fmt.Errorf("--lora-paths %s=%s: the name means the base model", a.Name, a.Path)
		}
	}
	return nil
}

// loadInitial loads the adapters of the command line, several at once, and
// infers from them the limits that no flag gives, as SGLang does. Those that
// are registered with the same content already are left as they are.
func (r *managerRole) loadInitial(ctx context.Context) error {
	errs := make([]error, len(r.initial))
	loaded := make([]adaptermgr.Adapter, len(r.initial))
	var wg sync.WaitGroup
	for i, a := range r.initial {
		wg.Go(func() {
			res, err := r.m.Load(ctx, adaptermgr.LoadRequest{Name: a.Name, Source: a.Path, Pinned: a.Pinned, Replace: true})
			if errors.Is(err, adaptermgr.ErrSourceNotFound) && filepath.IsAbs(a.Path) {
				// The manager tells clients nothing of the disk; the operator may know.
				if _, serr := os.Stat(a.Path); serr != nil {
					err = serr
				}
			}
			if err != nil {
				errs[i] = fmt.Errorf("--lora-paths %s=%s: %w", a.Name, a.Path, err)
				return
			}
			loaded[i] = res.Adapter
			r.log.Info("adapter loaded", zap.String("name", a.Name), zap.String("digest", res.Adapter.Digest), zap.Int("max_rank", res.Adapter.MaxRank))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil || len(loaded) == 0 {
		return err
	}
	l := infer(r.limits, loaded)
	r.m.Restrict(l)
	r.log.Info("adapters that may be loaded", zap.Int("max_lora_rank", l.MaxRank), zap.Strings("lora_target_modules", named(l.TargetModules)))
	return nil
}

// named spells a list of modules as --lora-target-modules takes it.
func named(modules []string) []string {
	if len(modules) == 0 {
		return []string{"all"}
	}
	return modules
}

// infer fills the limits that the operator has not set from the adapters that
// the server starts with.
func infer(l adapterLimits, from []adaptermgr.Adapter) peft.Limits {
	out := l.Limits
	modules := map[string]struct{}{}
	rank := 0
	for _, a := range from {
		rank = max(rank, a.MaxRank)
		for _, m := range a.TargetModules {
			modules[m] = struct{}{}
		}
	}
	if out.MaxRank == 0 {
		out.MaxRank = rank
	}
	if !l.modulesGiven {
		out.TargetModules = slices.Sorted(maps.Keys(modules))
	}
	return out
}

// adapterLimits are the limits that flags give.
type adapterLimits struct {
	peft.Limits
	// modulesGiven tells "all" from nothing said.
	modulesGiven bool
}
