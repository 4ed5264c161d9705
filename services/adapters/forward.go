package adapters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"chorale/adaptermgr"
	pb "chorale/proto/gen/chorale/v1"
	"chorale/router"
)

// Forwarder passes AdapterService on to the adapter manager, so that clients
// of a router need one address only. The caller's key goes along: the manager
// decides for itself.
type Forwarder struct {
	pb.UnimplementedAdapterServiceServer
	to   pb.AdapterServiceClient
	seen Router
	quit context.Context // ends with Close
	stop context.CancelFunc
}

// Router is what a forwarder asks the router.
type Router interface {
	// WaitRevision waits until the router has seen a revision of the registry.
	WaitRevision(ctx context.Context, revision uint64) error
	// Model knows the base model's names.
	Model() router.ModelInfo
}

// NewForwarder makes a forwarder to a manager. Loads and unloads are answered
// when seen has seen them, so that a client's next request finds them done.
func NewForwarder(to pb.AdapterServiceClient, seen Router) *Forwarder {
	f := &Forwarder{to: to, seen: seen}
	f.quit, f.stop = context.WithCancel(context.Background())
	return f
}

// Close ends the watches with router.ErrDraining: they would keep a server
// that drains from its end.
func (f *Forwarder) Close() { f.stop() }

// seenWithin bounds the wait for the router, which hears of a change at once
// unless the manager went away right after it.
const seenWithin = 10 * time.Second

func (f *Forwarder) wait(ctx context.Context, revision uint64) error {
	wctx, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	err := f.seen.WaitRevision(wctx, revision)
	if err != nil && ctx.Err() == nil {
		return Status(fmt.Errorf("the change is made, but the router has not heard of it: %w", adaptermgr.ErrUnavailable)).Err()
	}
	return err
}

// with carries the caller's key over to the outgoing call.
func with(ctx context.Context) context.Context {
	if key := metadata.ValueFromIncomingContext(ctx, "authorization"); len(key) > 0 {
		return metadata.AppendToOutgoingContext(ctx, "authorization", key[0])
	}
	return ctx
}

// noManager is what clients hear when the manager is away.
type noManager struct{}

func (noManager) Error() string { return "the adapter manager cannot be reached" }

// Is makes the table find it.
func (noManager) Is(target error) bool { return target == adaptermgr.ErrUnavailable }

// explain puts words for people, and the reason, in the place of gRPC's report
// of a failed connection. The manager's own errors have a reason already.
func explain(err error) error {
	if s := status.Convert(err); s.Code() != codes.Unavailable || len(s.Details()) > 0 {
		return err
	}
	return Status(noManager{}).Err()
}

// LoadAdapter forwards and waits until the router serves what was loaded. The
// base model's names are refused: the manager does not know them, and either
// the adapter or the base model could not be asked for.
func (f *Forwarder) LoadAdapter(ctx context.Context, r *pb.LoadAdapterRequest) (*pb.LoadAdapterResponse, error) {
	if f.seen.Model().IsBase(r.GetName()) {
		return nil, Status(fmt.Errorf("adapter %q: %w: it means the base model", r.GetName(), adaptermgr.ErrName)).Err()
	}
	resp, err := f.to.LoadAdapter(with(ctx), r)
	if err != nil {
		return nil, explain(err)
	}
	return resp, f.wait(ctx, resp.GetRevision())
}

// UnloadAdapter forwards and waits until the router refuses the name.
func (f *Forwarder) UnloadAdapter(ctx context.Context, r *pb.UnloadAdapterRequest) (*pb.UnloadAdapterResponse, error) {
	resp, err := f.to.UnloadAdapter(with(ctx), r)
	if err != nil {
		return nil, explain(err)
	}
	return resp, f.wait(ctx, resp.GetRevision())
}

// CanaryAdapter forwards and waits until the router gives requests their version.
func (f *Forwarder) CanaryAdapter(ctx context.Context, r *pb.CanaryAdapterRequest) (*pb.CanaryAdapterResponse, error) {
	resp, err := f.to.CanaryAdapter(with(ctx), r)
	if err != nil {
		return nil, explain(err)
	}
	return resp, f.wait(ctx, resp.GetRevision())
}

// RollbackAdapter forwards and waits until the router gives requests their
// version.
func (f *Forwarder) RollbackAdapter(ctx context.Context, r *pb.RollbackAdapterRequest) (*pb.RollbackAdapterResponse, error) {
	resp, err := f.to.RollbackAdapter(with(ctx), r)
	if err != nil {
		return nil, explain(err)
	}
	return resp, f.wait(ctx, resp.GetRevision())
}

// GetAdapter forwards.
func (f *Forwarder) GetAdapter(ctx context.Context, r *pb.GetAdapterRequest) (*pb.GetAdapterResponse, error) {
	resp, err := f.to.GetAdapter(with(ctx), r)
	return resp, explain(err)
}

// ListAdapters forwards.
func (f *Forwarder) ListAdapters(ctx context.Context, r *pb.ListAdaptersRequest) (*pb.ListAdaptersResponse, error) {
	resp, err := f.to.ListAdapters(with(ctx), r)
	return resp, explain(err)
}

// UpdateAdapter forwards.
func (f *Forwarder) UpdateAdapter(ctx context.Context, r *pb.UpdateAdapterRequest) (*pb.UpdateAdapterResponse, error) {
	resp, err := f.to.UpdateAdapter(with(ctx), r)
	return resp, explain(err)
}

// ValidateAdapter forwards.
func (f *Forwarder) ValidateAdapter(ctx context.Context, r *pb.ValidateAdapterRequest) (*pb.ValidateAdapterResponse, error) {
	resp, err := f.to.ValidateAdapter(with(ctx), r)
	return resp, explain(err)
}

// EnsureAdapters forwards.
func (f *Forwarder) EnsureAdapters(ctx context.Context, r *pb.EnsureAdaptersRequest) (*pb.EnsureAdaptersResponse, error) {
	resp, err := f.to.EnsureAdapters(with(ctx), r)
	return resp, explain(err)
}

// WatchAdapters forwards the stream until its end or Close.
func (f *Forwarder) WatchAdapters(r *pb.WatchAdaptersRequest, out grpc.ServerStreamingServer[pb.WatchAdaptersResponse]) error {
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	defer context.AfterFunc(f.quit, cancel)()
	in, err := f.to.WatchAdapters(with(ctx), r)
	if err != nil {
		return explain(err)
	}
	for {
		m, err := in.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && f.quit.Err() != nil:
			return router.ErrDraining
		case err != nil:
			return explain(err)
		}
		if err := out.Send(m); err != nil {
			return err
		}
	}
}
