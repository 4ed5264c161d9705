package adapters_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/services/adapters"
)

// remote is a manager far away, whose every change is revision 7.
type remote struct{ pb.AdapterServiceClient }

func (remote) LoadAdapter(context.Context, *pb.LoadAdapterRequest, ...grpc.CallOption) (*pb.LoadAdapterResponse, error) {
	return &pb.LoadAdapterResponse{Revision: 7}, nil
}

func (remote) UnloadAdapter(context.Context, *pb.UnloadAdapterRequest, ...grpc.CallOption) (*pb.UnloadAdapterResponse, error) {
	return &pb.UnloadAdapterResponse{Revision: 7}, nil
}

func (remote) WatchAdapters(ctx context.Context, _ *pb.WatchAdaptersRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[pb.WatchAdaptersResponse], error) {
	return &endless{ctx: ctx}, nil
}

// endless is a watch on which nothing happens.
type endless struct {
	grpc.ServerStreamingClient[pb.WatchAdaptersResponse]
	ctx context.Context
}

func (e *endless) Recv() (*pb.WatchAdaptersResponse, error) {
	<-e.ctx.Done()
	return nil, e.ctx.Err()
}

// watcher is the server's side of a watch.
type watcher struct {
	grpc.ServerStreamingServer[pb.WatchAdaptersResponse]
	ctx context.Context
}

func (w *watcher) Context() context.Context { return w.ctx }

// heard tells when the router has heard of revision 7.
type heard chan struct{}

func (h heard) WaitRevision(ctx context.Context, rev uint64) error {
	if rev != 7 {
		return errors.New("another revision")
	}
	select {
	case <-h:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (heard) Model() router.ModelInfo { return router.ModelInfo{Name: "base", Path: "/models/base"} }

// TestForwarderBaseNames: no adapter takes a name that means the base model.
func TestForwarderBaseNames(t *testing.T) {
	h := make(heard)
	close(h)
	f := adapters.NewForwarder(remote{}, h)
	for _, name := range []string{"base", "/models/base", "default"} {
		_, err := f.LoadAdapter(t.Context(), &pb.LoadAdapterRequest{Name: name})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "it means the base model") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.LoadAdapter(t.Context(), &pb.LoadAdapterRequest{Name: "bass"}); err != nil {
		t.Error(err)
	}
}

// TestForwarderNoManager: a manager that is away is an error with a reason, and
// not gRPC's words about sockets.
func TestForwarderNoManager(t *testing.T) {
	conn, err := grpc.NewClient("127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f := adapters.NewForwarder(pb.NewAdapterServiceClient(conn), make(heard))
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"load":     func() error { _, err := f.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "a"}); return err },
		"unload":   func() error { _, err := f.UnloadAdapter(ctx, &pb.UnloadAdapterRequest{}); return err },
		"get":      func() error { _, err := f.GetAdapter(ctx, &pb.GetAdapterRequest{}); return err },
		"list":     func() error { _, err := f.ListAdapters(ctx, &pb.ListAdaptersRequest{}); return err },
		"update":   func() error { _, err := f.UpdateAdapter(ctx, &pb.UpdateAdapterRequest{}); return err },
		"validate": func() error { _, err := f.ValidateAdapter(ctx, &pb.ValidateAdapterRequest{}); return err },
		"ensure":   func() error { _, err := f.EnsureAdapters(ctx, &pb.EnsureAdaptersRequest{}); return err },
		"watch":    func() error { return f.WatchAdapters(&pb.WatchAdaptersRequest{}, &watcher{ctx: ctx}) },
	} {
		s := status.Convert(call())
		if s.Code() != codes.Unavailable || s.Message() != "the adapter manager cannot be reached" || len(s.Details()) == 0 {
			t.Errorf("%s: %v, details %v", name, s, s.Details())
		}
	}
}

// TestForwarderWaits: a change is answered when the router has heard of it, or
// with an error when it does not hear of it in time.
func TestForwarderWaits(t *testing.T) {
	calls := map[string]func(*adapters.Forwarder) error{
		"load": func(f *adapters.Forwarder) error {
			_, err := f.LoadAdapter(context.Background(), &pb.LoadAdapterRequest{})
			return err
		},
		"unload": func(f *adapters.Forwarder) error {
			_, err := f.UnloadAdapter(context.Background(), &pb.UnloadAdapterRequest{})
			return err
		},
	}
	for name, call := range calls {
		synctest.Test(t, func(t *testing.T) {
			h := make(heard)
			f := adapters.NewForwarder(remote{}, h)
			done := make(chan error, 1)
			go func() { done <- call(f) }()
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("%s: answered before the router heard of it: %v", name, err)
			default:
			}
			close(h)
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			err := call(adapters.NewForwarder(remote{}, make(heard)))
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "has not heard of it") {
				t.Errorf("%s that the router never hears of: %v", name, err)
			}
		})
	}
}

// TestForwarderClose: watches end, so that a server can drain.
func TestForwarderClose(t *testing.T) {
	f := adapters.NewForwarder(remote{}, make(heard))
	done := make(chan error, 1)
	go func() { done <- f.WatchAdapters(&pb.WatchAdaptersRequest{}, &watcher{ctx: t.Context()}) }()
	f.Close()
	if err := <-done; !errors.Is(err, router.ErrDraining) {
		t.Error(err)
	}
}
