package adapters

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	pb "chorale/proto/gen/chorale/v1"
)

// Forwarder passes AdapterService on to the adapter manager, so that clients
// of a router need one address only. The caller's key goes along: the manager
// decides for itself.
type Forwarder struct {
	pb.UnimplementedAdapterServiceServer
	to pb.AdapterServiceClient
}

// NewForwarder makes a forwarder to a manager.
func NewForwarder(to pb.AdapterServiceClient) *Forwarder { return &Forwarder{to: to} }

// with carries the caller's key over to the outgoing call.
func with(ctx context.Context) context.Context {
	if key := metadata.ValueFromIncomingContext(ctx, "authorization"); len(key) > 0 {
		return metadata.AppendToOutgoingContext(ctx, "authorization", key[0])
	}
	return ctx
}

// LoadAdapter forwards.
func (f *Forwarder) LoadAdapter(ctx context.Context, r *pb.LoadAdapterRequest) (*pb.LoadAdapterResponse, error) {
	return f.to.LoadAdapter(with(ctx), r)
}

// UnloadAdapter forwards.
func (f *Forwarder) UnloadAdapter(ctx context.Context, r *pb.UnloadAdapterRequest) (*pb.UnloadAdapterResponse, error) {
	return f.to.UnloadAdapter(with(ctx), r)
}

// GetAdapter forwards.
func (f *Forwarder) GetAdapter(ctx context.Context, r *pb.GetAdapterRequest) (*pb.GetAdapterResponse, error) {
	return f.to.GetAdapter(with(ctx), r)
}

// ListAdapters forwards.
func (f *Forwarder) ListAdapters(ctx context.Context, r *pb.ListAdaptersRequest) (*pb.ListAdaptersResponse, error) {
	return f.to.ListAdapters(with(ctx), r)
}

// UpdateAdapter forwards.
func (f *Forwarder) UpdateAdapter(ctx context.Context, r *pb.UpdateAdapterRequest) (*pb.UpdateAdapterResponse, error) {
	return f.to.UpdateAdapter(with(ctx), r)
}

// ValidateAdapter forwards.
func (f *Forwarder) ValidateAdapter(ctx context.Context, r *pb.ValidateAdapterRequest) (*pb.ValidateAdapterResponse, error) {
	return f.to.ValidateAdapter(with(ctx), r)
}

// EnsureAdapters forwards.
func (f *Forwarder) EnsureAdapters(ctx context.Context, r *pb.EnsureAdaptersRequest) (*pb.EnsureAdaptersResponse, error) {
	return f.to.EnsureAdapters(with(ctx), r)
}

// WatchAdapters forwards the stream.
func (f *Forwarder) WatchAdapters(r *pb.WatchAdaptersRequest, out grpc.ServerStreamingServer[pb.WatchAdaptersResponse]) error {
	in, err := f.to.WatchAdapters(with(out.Context()), r)
	if err != nil {
		return err
	}
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := out.Send(m); err != nil {
			return err
		}
	}
}
