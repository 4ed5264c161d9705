package adapters

import (
	"context"
	"encoding/base64"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chorale/adaptermgr"
	pb "chorale/proto/gen/chorale/v1"
)

// Server is AdapterService over a manager.
type Server struct {
	pb.UnimplementedAdapterServiceServer
	m *adaptermgr.Manager
}

var _ pb.AdapterServiceServer = (*Server)(nil)

// NewServer returns the service. The manager must be running.
func NewServer(m *adaptermgr.Manager) *Server { return &Server{m: m} }

const defaultPage = 1000

// LoadAdapter implements AdapterService.
func (s *Server) LoadAdapter(ctx context.Context, req *pb.LoadAdapterRequest) (*pb.LoadAdapterResponse, error) {
	r, err := s.m.Load(ctx, adaptermgr.LoadRequest{
		Name: req.GetName(), Source: req.GetSource(), Pinned: req.GetPinned(), Labels: req.GetLabels(),
		MustBeNew: req.GetMustBeNew(), Replace: req.GetReplace(),
	})
	if err != nil {
		return nil, Status(err).Err()
	}
	return &pb.LoadAdapterResponse{Adapter: adapterProto(r.Adapter), Revision: r.Revision, Evicted: r.Evicted}, nil
}

// UnloadAdapter implements AdapterService.
func (s *Server) UnloadAdapter(ctx context.Context, req *pb.UnloadAdapterRequest) (*pb.UnloadAdapterResponse, error) {
	r, err := s.m.Unload(ctx, req.GetName(), req.GetForce())
	if err != nil {
		return nil, Status(err).Err()
	}
	return &pb.UnloadAdapterResponse{Adapter: adapterProto(r.Adapter), Revision: r.Revision}, nil
}

// GetAdapter implements AdapterService.
func (s *Server) GetAdapter(_ context.Context, req *pb.GetAdapterRequest) (*pb.GetAdapterResponse, error) {
	a, err := s.m.Get(req.GetName())
	if err != nil {
		return nil, Status(err).Err()
	}
	return &pb.GetAdapterResponse{Adapter: adapterProto(a)}, nil
}

// ListAdapters implements AdapterService. The page token is the last name of
// the page before, so that adapters that come and go in between shift nothing.
func (s *Server) ListAdapters(_ context.Context, req *pb.ListAdaptersRequest) (*pb.ListAdaptersResponse, error) {
	after, err := base64.RawURLEncoding.DecodeString(req.GetPageToken())
	if err != nil {
		return nil, fieldError("page_token", "is not a token of an earlier answer")
	}
	size := int(req.GetPageSize())
	if size <= 0 {
		size = defaultPage
	}
	adapters, more, revision := s.m.List(string(after), size)
	resp := &pb.ListAdaptersResponse{Adapters: adapterProtos(adapters), Revision: revision}
	if more {
		resp.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(adapters[len(adapters)-1].Name))
	}
	return resp, nil
}

// UpdateAdapter implements AdapterService.
func (s *Server) UpdateAdapter(ctx context.Context, req *pb.UpdateAdapterRequest) (*pb.UpdateAdapterResponse, error) {
	r, err := s.m.Update(ctx, req.GetName(), req.Pinned, req.GetLabels())
	if err != nil {
		return nil, Status(err).Err()
	}
	return &pb.UpdateAdapterResponse{Adapter: adapterProto(r.Adapter), Revision: r.Revision}, nil
}

// WatchAdapters implements AdapterService.
func (s *Server) WatchAdapters(_ *pb.WatchAdaptersRequest, stream grpc.ServerStreamingServer[pb.WatchAdaptersResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	for c := range s.m.Watch(ctx) {
		err := stream.Send(&pb.WatchAdaptersResponse{
			Revision: c.Revision, Snapshot: c.Snapshot, Adapters: adapterProtos(c.Adapters), Removed: c.Removed,
		})
		if err != nil {
			return err
		}
	}
	if err := stream.Context().Err(); err != nil {
		return Status(err).Err()
	}
	return Status(adaptermgr.ErrClosed).Err()
}

// EnsureAdapters implements AdapterService.
func (s *Server) EnsureAdapters(ctx context.Context, req *pb.EnsureAdaptersRequest) (*pb.EnsureAdaptersResponse, error) {
	if req.GetTouchOnly() {
		s.m.Touch(req.GetNames())
		return &pb.EnsureAdaptersResponse{Revision: s.m.Revision()}, nil
	}
	r, err := s.m.Ensure(ctx, req.GetNames())
	if err != nil {
		return nil, Status(err).Err()
	}
	return &pb.EnsureAdaptersResponse{Adapters: adapterProtos(r.Adapters), Revision: r.Revision, Evicted: r.Evicted}, nil
}

// ValidateAdapter implements AdapterService.
func (s *Server) ValidateAdapter(ctx context.Context, req *pb.ValidateAdapterRequest) (*pb.ValidateAdapterResponse, error) {
	r, err := s.m.Validate(ctx, req.GetSource())
	if err != nil {
		return nil, Status(err).Err()
	}
	resp := &pb.ValidateAdapterResponse{
		Valid: len(r.Problems) == 0, Problems: r.Problems, Digest: r.Digest, MaxRank: int32(r.MaxRank),
		TargetModules: r.TargetModules, SizeBytes: r.SizeBytes, BaseModel: r.BaseModel,
	}
	for _, m := range r.Modules {
		resp.Modules = append(resp.Modules, &pb.AdapterModule{Name: m.Name, Rank: int32(m.Rank), Scale: m.Scale})
	}
	return resp, nil
}

func fieldError(field, problem string) error {
	return Status(badField{field, problem}).Err()
}

// badField is a field that only the wire form has.
type badField struct{ field, problem string }

func (b badField) Error() string { return fmt.Sprintf("%s %s", b.field, b.problem) }

// Is makes the table find it.
func (b badField) Is(target error) bool { return target == errBadField }

func adapterProtos(list []adaptermgr.Adapter) []*pb.Adapter {
	out := make([]*pb.Adapter, len(list))
	for i, a := range list {
		out[i] = adapterProto(a)
	}
	return out
}

func adapterProto(a adaptermgr.Adapter) *pb.Adapter {
	p := &pb.Adapter{
		Name: a.Name, Digest: a.Digest, State: pb.AdapterState(a.State), Message: a.Message, Source: a.Source,
		Pinned: a.Pinned, Labels: a.Labels, MaxRank: int32(a.MaxRank), TargetModules: a.TargetModules,
		SizeBytes: a.SizeBytes, Version: a.Version, BaseModel: a.BaseModel,
	}
	if !a.Created.IsZero() {
		p.Created, p.Updated = timestamppb.New(a.Created), timestamppb.New(a.Updated)
	}
	for _, g := range a.Placements {
		p.Placements = append(p.Placements, &pb.GroupPlacement{Worker: g.Worker, Loaded: g.Loaded, Error: g.Error})
	}
	return p
}
