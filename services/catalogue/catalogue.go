// Package catalogue keeps the router's picture of the adapters: it follows the
// adapter manager's WatchAdapters and swaps in a new snapshot at each change.
// It also is the router's way to ask for adapters that max_loaded_loras pushed
// out.
package catalogue

import (
	"context"
	"errors"
	"io"
	"maps"
	"time"

	"go.uber.org/zap"

	pb "chorale/proto/gen/chorale/v1"
	"chorale/router"
)

// Setter takes each new catalogue; the router does.
type Setter interface {
	SetCatalogue(*router.Catalogue)
}

// Follower follows an adapter manager.
type Follower struct {
	client pb.AdapterServiceClient
	log    *zap.Logger
}

var _ router.Residency = (*Follower)(nil)

// New makes a follower.
func New(client pb.AdapterServiceClient, log *zap.Logger) *Follower {
	return &Follower{client: client, log: log.Named("catalogue")}
}

// retryEvery is the wait before a lost watch is taken up again.
const retryEvery = 200 * time.Millisecond

// Run follows until ctx ends. While the manager is away the last picture
// stays: adapters that are loaded go on being served.
func (f *Follower) Run(ctx context.Context, to Setter) error {
	lost := false
	for ctx.Err() == nil {
		err := f.watch(ctx, to, func() {
			if lost {
				f.log.Info("adapter manager is back")
			}
			lost = false
		})
		if ctx.Err() != nil {
			break
		}
		if !lost {
			f.log.Warn("adapter manager lost; serving with the last known adapters", zap.Error(err))
			lost = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
	return nil
}

func (f *Follower) watch(ctx context.Context, to Setter, connected func()) error {
	stream, err := f.client.WatchAdapters(ctx, &pb.WatchAdaptersRequest{})
	if err != nil {
		return err
	}
	var now map[string]*router.AdapterEntry
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the watch ended")
		}
		if err != nil {
			return err
		}
		if m.GetSnapshot() || now == nil {
			connected()
			now = map[string]*router.AdapterEntry{}
		} else {
			now = maps.Clone(now)
		}
		for _, a := range m.GetAdapters() {
			now[a.GetName()] = entry(a)
		}
		for _, n := range m.GetRemoved() {
			delete(now, n)
		}
		if m.GetPartial() {
			continue // adapters of the parts to come are not gone
		}
		to.SetCatalogue(&router.Catalogue{Revision: m.GetRevision(), Adapters: now})
	}
}

func entry(a *pb.Adapter) *router.AdapterEntry {
	e := &router.AdapterEntry{
		Name: a.GetName(), Digest: a.GetDigest(), Version: a.GetVersion(), Source: a.GetSource(), Pinned: a.GetPinned(),
		MaxRank: int(a.GetMaxRank()), Modules: a.GetTargetModules(), Created: a.GetCreated().GetSeconds(),
	}
	place(e, a.GetState(), a.GetPlacements())
	if s := a.GetState(); s == pb.AdapterState_ADAPTER_STATE_DRAINING || a.GetVersion() == 0 {
		return e
	}
	for _, v := range a.GetVersions() {
		if v.GetNumber() == a.GetVersion() {
			continue
		}
		other := &router.AdapterEntry{
			Name: a.GetName(), Digest: v.GetDigest(), Version: v.GetNumber(), Source: v.GetSource(), Weight: int(v.GetWeight()),
			MaxRank: int(v.GetMaxRank()), Modules: v.GetTargetModules(), Created: v.GetCreated().GetSeconds(),
		}
		state := v.GetState()
		if state == pb.AdapterState_ADAPTER_STATE_DRAINING { // off the workers as soon as its sequences end; it can come back
			state = pb.AdapterState_ADAPTER_STATE_READY
		}
		place(other, state, v.GetPlacements())
		e.Versions = append(e.Versions, other)
	}
	return e
}

// place fills in where an entry is and what may be asked of it.
func place(e *router.AdapterEntry, s pb.AdapterState, placements []*pb.GroupPlacement) {
	for _, p := range placements {
		if p.GetLoaded() {
			e.Groups = append(e.Groups, p.GetWorker())
		}
	}
	switch s {
	case pb.AdapterState_ADAPTER_STATE_LOADED, pb.AdapterState_ADAPTER_STATE_LOADING:
		e.Usable = len(e.Groups) > 0
		e.Loading = !e.Usable
	case pb.AdapterState_ADAPTER_STATE_READY:
		e.Evicted = true
	}
}

// Ensure brings names back and returns the revision to wait for.
func (f *Follower) Ensure(ctx context.Context, names []string) (uint64, error) {
	r, err := f.client.EnsureAdapters(ctx, &pb.EnsureAdaptersRequest{Names: names})
	if err != nil {
		return 0, err
	}
	return r.GetRevision(), nil
}

// Reload loads a name that was unloaded.
func (f *Follower) Reload(ctx context.Context, name, source string) (uint64, error) {
	r, err := f.client.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: name, Source: source})
	if err != nil {
		return 0, err
	}
	return r.GetRevision(), nil
}

// Touch notes that names are in use.
func (f *Follower) Touch(ctx context.Context, names []string) error {
	_, err := f.client.EnsureAdapters(ctx, &pb.EnsureAdaptersRequest{Names: names, TouchOnly: true})
	return err
}
