package adapters

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chorale/adaptermgr"
	"chorale/adaptermgr/source"
	pb "chorale/proto/gen/chorale/v1"
)

// Server is AdapterService over a manager.
type Server struct {
	pb.UnimplementedAdapterServiceServer
	m       *adaptermgr.Manager
	uploads source.Uploads // nil: none are taken
	// uploadIdle ends an upload of which nothing comes; 0: the constant.
	uploadIdle time.Duration
}

var _ pb.AdapterServiceServer = (*Server)(nil)

// NewServer returns the service. The manager must be running.
func NewServer(m *adaptermgr.Manager) *Server { return &Server{m: m} }

const defaultPage = 1000

// LoadAdapter implements AdapterService.
func (s *Server) LoadAdapter(ctx context.Context, req *pb.LoadAdapterRequest) (*pb.LoadAdapterResponse, error) {
	load := adaptermgr.LoadRequest{
		Name: req.GetName(), Source: req.GetSource(), Pinned: req.GetPinned(), Labels: req.GetLabels(), Owner: req.GetOwner(),
		MustBeNew: req.GetMustBeNew(), Replace: req.GetReplace(), Etag: req.GetEtag(), RequestID: req.GetRequestId(),
		Digest: req.GetDigest(),
	}
	if req.Weight != nil {
		w := int(req.GetWeight())
		load.Weight = &w
	}
	r, err := s.m.Load(ctx, load)
	if err != nil {
		return nil, Status(err).Err()
	}
	return &pb.LoadAdapterResponse{Adapter: adapterProto(r.Adapter), Revision: r.Revision, Evicted: r.Evicted}, nil
}

// UnloadAdapter implements AdapterService.
func (s *Server) UnloadAdapter(ctx context.Context, req *pb.UnloadAdapterRequest) (*pb.UnloadAdapterResponse, error) {
	r, err := s.m.Unload(ctx, adaptermgr.UnloadRequest{
		Name: req.GetName(), Force: req.GetForce(), DrainTimeout: req.GetDrainTimeout().AsDuration(),
		AllowMissing: req.GetAllowMissing(), Etag: req.GetEtag(), RequestID: req.GetRequestId(),
	})
	if err != nil {
		return nil, Status(err).Err()
	}
	return &pb.UnloadAdapterResponse{Adapter: adapterProto(r.Adapter), Revision: r.Revision}, nil
}

// CanaryAdapter implements AdapterService.
func (s *Server) CanaryAdapter(ctx context.Context, req *pb.CanaryAdapterRequest) (*pb.CanaryAdapterResponse, error) {
	r, err := s.m.Canary(ctx, adaptermgr.CanaryRequest{
		Name: req.GetName(), Version: req.GetVersion(), Weight: int(req.GetWeight()), Etag: req.GetEtag(), RequestID: req.GetRequestId(),
	})
	if err != nil {
		return nil, Status(err).Err()
	}
	return &pb.CanaryAdapterResponse{Adapter: adapterProto(r.Adapter), Revision: r.Revision, Evicted: r.Evicted}, nil
}

// RollbackAdapter implements AdapterService.
func (s *Server) RollbackAdapter(ctx context.Context, req *pb.RollbackAdapterRequest) (*pb.RollbackAdapterResponse, error) {
	r, err := s.m.Rollback(ctx, adaptermgr.RollbackRequest{
		Name: req.GetName(), Version: req.GetVersion(), Etag: req.GetEtag(), RequestID: req.GetRequestId(),
	})
	if err != nil {
		return nil, Status(err).Err()
	}
	return &pb.RollbackAdapterResponse{Adapter: adapterProto(r.Adapter), Revision: r.Revision, Evicted: r.Evicted}, nil
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
	adapters, more, revision := s.m.List(string(after), size, adaptermgr.Filter{Owner: req.GetOwner(), Labels: req.GetLabels()})
	resp := &pb.ListAdaptersResponse{Adapters: briefProtos(adapters), Revision: revision}
	if more {
		resp.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(adapters[len(adapters)-1].Name))
	}
	return resp, nil
}

// UpdateAdapter implements AdapterService.
func (s *Server) UpdateAdapter(ctx context.Context, req *pb.UpdateAdapterRequest) (*pb.UpdateAdapterResponse, error) {
	r, err := s.m.Update(ctx, adaptermgr.UpdateRequest{
		Name: req.GetName(), Pinned: req.Pinned, Owner: req.Owner, Labels: req.GetLabels(), Etag: req.GetEtag(), RequestID: req.GetRequestId(),
	})
	if err != nil {
		return nil, Status(err).Err()
	}
	return &pb.UpdateAdapterResponse{Adapter: adapterProto(r.Adapter), Revision: r.Revision}, nil
}

// WatchAdapters implements AdapterService.
func (s *Server) WatchAdapters(req *pb.WatchAdaptersRequest, stream grpc.ServerStreamingServer[pb.WatchAdaptersResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	changes, err := s.m.Watch(ctx, req.GetFromRevision())
	if err != nil {
		return Status(err).Err()
	}
	for c := range changes {
		if err := send(stream, c); err != nil {
			return err
		}
	}
	if err := stream.Context().Err(); err != nil {
		return Status(err).Err()
	}
	return Status(adaptermgr.ErrClosed).Err()
}

// partAdapters is how many adapters of a snapshot go into one message: gRPC
// clients take 4 MiB unless they ask for more.
const partAdapters = 500

// send sends a change, a large snapshot in parts.
func send(stream grpc.ServerStreamingServer[pb.WatchAdaptersResponse], c adaptermgr.Change) error {
	m := &pb.WatchAdaptersResponse{Revision: c.Revision, Snapshot: c.Snapshot, Removed: c.Removed}
	list := c.Adapters
	for c.Snapshot && len(list) > partAdapters {
		m.Adapters, m.Partial, list = briefProtos(list[:partAdapters]), true, list[partAdapters:]
		if err := stream.Send(m); err != nil {
			return err
		}
		m = &pb.WatchAdaptersResponse{Revision: c.Revision}
	}
	if m.Adapters = adapterProtos(list); c.Snapshot {
		m.Adapters = briefProtos(list)
	}
	return stream.Send(m)
}

// briefProtos leaves the history out.
func briefProtos(list []adaptermgr.Adapter) []*pb.Adapter {
	out := make([]*pb.Adapter, len(list))
	for i, a := range list {
		a.History = nil
		out[i] = adapterProto(a)
	}
	return out
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
		TargetModules: r.TargetModules, SizeBytes: r.SizeBytes, BaseModel: r.BaseModel, Ranks: int32s(r.Ranks), SumRanks: int64(r.SumRanks),
		Cost: &pb.AdapterCost{
			HostBytes: r.Cost.HostBytes, DeviceBytes: r.Cost.DeviceBytes, StepBytes: r.Cost.StepBytes,
			StepMicroseconds: float64(r.Cost.StepTime) / float64(time.Microsecond),
		},
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
		Name: a.Name, Owner: a.Owner, Digest: a.Digest, State: pb.AdapterState(a.State), Message: a.Message, Source: a.Source,
		Pinned: a.Pinned, Labels: a.Labels, MaxRank: int32(a.MaxRank), TargetModules: a.TargetModules,
		SizeBytes: a.SizeBytes, Version: a.Version, BaseModel: a.BaseModel, Etag: a.Etag,
		Created: timestamp(a.Created), Updated: timestamp(a.Updated), LastUsed: timestamp(a.LastUsed), Placements: placementProtos(a.Placements),
	}
	for i := range a.Versions {
		p.Versions = append(p.Versions, versionProto(&a.Versions[i]))
	}
	if l := a.Loading; l != nil {
		p.Loading = &pb.AdapterProgress{State: pb.AdapterState(l.State), Source: l.Source, BytesDone: l.Done, BytesTotal: l.Total}
	}
	for _, t := range a.History {
		p.History = append(p.History, &pb.AdapterTransition{
			Time: timestamp(t.At), State: pb.AdapterState(t.State), Version: t.Version, Reason: t.Reason,
		})
	}
	return p
}

func versionProto(v *adaptermgr.Version) *pb.AdapterVersion {
	return &pb.AdapterVersion{
		Number: v.Number, Digest: v.Digest, State: pb.AdapterState(v.State), Message: v.Message, Source: v.Source, Labels: v.Labels,
		Weight: int32(v.Weight), MaxRank: int32(v.MaxRank), Ranks: int32s(v.Ranks), SumRanks: int64(v.SumRanks),
		TargetModules: v.TargetModules, SizeBytes: v.SizeBytes, BaseModel: v.BaseModel,
		Created: timestamp(v.Created), LastUsed: timestamp(v.LastUsed), Placements: placementProtos(v.Placements),
	}
}

func placementProtos(list []adaptermgr.Placement) []*pb.GroupPlacement {
	out := make([]*pb.GroupPlacement, len(list))
	for i, g := range list {
		out[i] = &pb.GroupPlacement{Worker: g.Worker, Loaded: g.Loaded, Error: g.Error}
	}
	return out
}

// timestamp leaves out times that were never.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func int32s(list []int) []int32 {
	out := make([]int32, len(list))
	for i, v := range list {
		out[i] = int32(v)
	}
	return out
}
