package workers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"chorale/internal/checkpoint"
	"chorale/internal/mapfile"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	pb "chorale/proto/gen/chorale/v1"
	"chorale/router"
	wire "chorale/services/status"
	"chorale/worker/device"
	"chorale/worker/engine"
	"chorale/worker/group"
	"chorale/worker/lora"
	"chorale/worker/memory"
	"chorale/worker/model"
	"chorale/worker/tensor"
)

// Description is what a worker tells of itself beyond its engine.
type Description struct {
	Incarnation, Version, Device string
	ModelType                    string
	Architectures                []string
	DType                        string
	Fingerprint                  string
	// MaxLoRARank bounds adapters' ranks; Targets their modules, nil for all.
	MaxLoRARank int
	Targets     []string
	LoRAEnabled bool
	// Ranks are how many processes the group has; Restarts counts how often they
	// were started again. Leader is this one's way to the others, nil when it is
	// alone.
	Ranks, Restarts int
	Leader          *group.Leader
	// Devices tells of the group's GPUs; nil where there are none.
	Devices func() []device.Report
	// MemoryBandwidth is that of the device's memory in bytes per second; 0: not
	// known.
	MemoryBandwidth float64
	// MaxAdapterBytes bounds what one push may bring.
	MaxAdapterBytes int64
}

// Server is WorkerService over an engine.
type Server struct {
	pb.UnimplementedWorkerServiceServer
	e    *engine.Engine
	ckpt *checkpoint.Checkpoint
	d    Description
	// shared is the folder of ShareFiles, or empty.
	shared string
}

// NewServer makes a server. The checkpoint stays open as long as it serves.
func NewServer(e *engine.Engine, c *checkpoint.Checkpoint, d Description) *Server {
	return &Server{e: e, ckpt: c, d: d}
}

// ShareFiles allows the adapter manager to name files below dir instead of
// sending their bytes: for a manager in the same process, whose files do not
// change. To be called before the server serves.
func (s *Server) ShareFiles(dir string) { s.shared = dir }

var kindNames = map[peft.ModuleKind]string{peft.Linear: "linear", peft.Embedding: "embedding", peft.Head: "head"}

// DescribeWorker tells model and limits.
func (s *Server) DescribeWorker(context.Context, *pb.DescribeWorkerRequest) (*pb.DescribeWorkerResponse, error) {
	o, spec := s.e.Options(), &s.e.Model().Spec
	if o.MaxResident == 0 { // bytes decide; this is for the router's patience only
		o.MaxResident = 4 * o.MaxAdapters
	}
	out := &pb.DescribeWorkerResponse{
		Incarnation: s.d.Incarnation, Version: s.d.Version, Device: s.d.Device, ModelDigest: s.d.Fingerprint,
		ModelType: s.d.ModelType, Architectures: s.d.Architectures, ContextLength: int32(s.e.Capacity()),
		VocabSize: int32(spec.Vocab), Parameters: spec.Parameters(), Dtype: s.d.DType, EosTokenIds: o.EOS,
		MaxLorasPerBatch: int32(o.MaxAdapters), MaxResidentLoras: int32(o.MaxResident), MaxLoraRank: int32(s.d.MaxLoRARank),
		MaxRunning: int32(o.MaxRunning), KvPages: int32(o.Pages), PageSize: pageSize, LoraEnabled: s.d.LoRAEnabled,
		MaxLoadedLoraBytes: o.MaxHostBytes, Ranks: int32(s.d.Ranks), Restarts: int32(s.d.Restarts),
		MemoryBytesPerSecond: s.d.MemoryBandwidth, AdapterChunkBytes: s.e.ImageUnit(),
	}
	for _, m := range model.Modules(spec) {
		out.Modules = append(out.Modules, &pb.ModelModule{
			Name: m.Name, In: int32(m.In), Out: int32(m.Out), Kind: kindNames[m.Kind], HasBias: m.HasBias,
		})
	}
	return out, nil
}

// Connect carries one router's sequences until it or the engine goes.
func (s *Server) Connect(stream grpc.BidiStreamingServer[pb.ConnectRequest, pb.ConnectResponse]) error {
	c := s.e.Connect()
	defer c.Close()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	gone := make(chan error, 1)
	go func() {
		gone <- down(stream, c)
		cancel()
	}()
	up := &sender{stream: stream}
	defer s.reportDevices(ctx, up)()
	defer reportCounts(ctx, s.e, up)()
	for {
		m, err := c.Recv(ctx)
		if errors.Is(err, engine.ErrClosed) {
			return s.closed()
		}
		if err != nil {
			if err := <-gone; err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		}
		out := &pb.ConnectResponse{Status: s.status(&m.Status), Outputs: make([]*pb.SequenceOutput, len(m.Outputs))}
		for i := range m.Outputs {
			out.Outputs[i] = outputProto(&m.Outputs[i])
		}
		if err := up.send(out); err != nil {
			return err
		}
	}
}

// closed tells why the engine takes nothing any more.
func (s *Server) closed() error {
	if s.d.Leader != nil {
		var f *group.Fault
		if errors.As(s.d.Leader.Err(), &f) && !f.InOrder() {
			return wire.GRPC(fmt.Errorf("%w: %w", router.ErrGroupLost, f))
		}
	}
	return status.Error(codes.Unavailable, "worker is stopping")
}

// status is the engine's, with what only this service knows.
func (s *Server) status(st *engine.Status) *pb.WorkerStatus {
	out := statusProto(st)
	if s.d.Leader != nil {
		counts, sum := s.d.Leader.Plans().Counts()
		out.Plans = &pb.PlanTimes{Bounds: group.PlanBounds[:], Counts: counts, Seconds: sum}
	}
	return out
}

// down passes the router's messages to the engine.
func down(stream grpc.BidiStreamingServer[pb.ConnectRequest, pb.ConnectResponse], c *engine.Conn) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *pb.ConnectRequest_Submit:
			reqs := make([]engine.Request, len(m.Submit.GetSequences()))
			for i, q := range m.Submit.GetSequences() {
				reqs[i] = engineRequest(q)
			}
			c.Submit(reqs)
		case *pb.ConnectRequest_Abort:
			c.Abort(m.Abort.GetIds())
		case *pb.ConnectRequest_Prefetch:
			c.Prefetch(m.Prefetch.GetDigests())
		}
	}
}

// maxPush bounds an adapter when no other bound is set.
const maxPush = 8 << 30

// PushAdapter receives an adapter, checks it once more and puts it into host
// memory.
func (s *Server) PushAdapter(stream grpc.ClientStreamingServer[pb.PushAdapterRequest, pb.PushAdapterResponse]) error {
	if !s.d.LoRAEnabled {
		return status.Error(codes.FailedPrecondition, "LoRA is not enabled")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.GetHeader()
	if h == nil || h.GetDigest() == "" {
		return status.Error(codes.InvalidArgument, "the first message must be a header with a digest")
	}
	if there, err := s.e.AdoptAdapter(stream.Context(), h.GetDigest(), h.GetPinned()); err != nil || there {
		if err != nil {
			return engineError(err)
		}
		return stream.SendAndClose(&pb.PushAdapterResponse{HostBytes: h.GetWeightsSize()})
	}
	weights, done, err := s.weights(stream, h)
	if err != nil {
		return err
	}
	defer done()
	bytes, err := s.put(stream.Context(), h, weights)
	if err != nil {
		return err
	}
	return stream.SendAndClose(&pb.PushAdapterResponse{HostBytes: bytes})
}

// weights gives the weights that a header announces, until done is called.
func (s *Server) weights(stream grpc.ClientStreamingServer[pb.PushAdapterRequest, pb.PushAdapterResponse], h *pb.PushAdapterHeader) (weights []byte, done func(), err error) {
	if h.GetWeightsPath() == "" {
		weights, err = s.receive(stream, h.GetWeightsSize())
		return weights, func() {}, err
	}
	rest, err := filepath.Rel(s.shared, h.GetWeightsPath())
	if s.shared == "" || err != nil || !filepath.IsLocal(rest) {
		return nil, nil, status.Error(codes.PermissionDenied, "this worker shares no such file")
	}
	f, err := mapfile.Open(h.GetWeightsPath(), false)
	if err != nil {
		return nil, nil, status.Error(codes.DataLoss, err.Error())
	}
	if int64(len(f.Data)) != h.GetWeightsSize() {
		f.Close()
		return nil, nil, status.Errorf(codes.DataLoss, "%d bytes of the %d announced", len(f.Data), h.GetWeightsSize())
	}
	return f.Data, func() { f.Close() }, nil
}

// put checks an adapter, lays it out and gives it to the engine. It returns the
// host memory that it takes.
func (s *Server) put(ctx context.Context, h *pb.PushAdapterHeader, weights []byte) (int64, error) {
	a, err := s.bind(h, weights)
	if err != nil {
		return 0, status.Error(codes.InvalidArgument, err.Error())
	}
	m := s.e.Model()
	reserved := model.ImageBytes(m, a)
	if err := s.e.ReserveAdapter(ctx, reserved); err != nil {
		return 0, engineError(err)
	}
	im, err := model.NewImage(m, a)
	if err != nil {
		s.e.UnreserveAdapter(reserved)
		return 0, engineError(err)
	}
	host, err := group.Host(s.d.Leader, h.GetDigest(), h.GetConfig(), weights, im)
	if err != nil {
		s.e.UnreserveAdapter(reserved)
		im.Free()
		return 0, engineError(err)
	}
	host.Reserved, host.Pinned = reserved, h.GetPinned()
	if err := s.e.PutAdapter(ctx, host); err != nil {
		s.e.UnreserveAdapter(reserved)
		host.Release()
		return 0, engineError(err)
	}
	return host.Bytes, nil
}

// receive collects the weights. Memory grows with the bytes that come, not
// with what the header claims.
func (s *Server) receive(stream grpc.ClientStreamingServer[pb.PushAdapterRequest, pb.PushAdapterResponse], size int64) ([]byte, error) {
	limit := s.d.MaxAdapterBytes
	if limit <= 0 {
		limit = maxPush
	}
	if size < 0 || size > limit {
		return nil, status.Errorf(codes.ResourceExhausted, "adapter weights of %d bytes, at most %d", size, limit)
	}
	var buf bytes.Buffer
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if int64(buf.Len()+len(m.GetChunk())) > size {
			return nil, status.Errorf(codes.InvalidArgument, "more than the %d bytes announced", size)
		}
		buf.Write(m.GetChunk())
	}
	if int64(buf.Len()) != size {
		return nil, status.Errorf(codes.DataLoss, "%d bytes of the %d announced", buf.Len(), size)
	}
	return buf.Bytes(), nil
}

// bind checks the digest and binds the adapter's tensors to this model.
func (s *Server) bind(h *pb.PushAdapterHeader, weights []byte) (*peft.Adapter, error) {
	if err := peft.Verify(h.GetDigest(), h.GetConfig(), weights); err != nil {
		return nil, err
	}
	cfg, err := peft.ParseConfig(h.GetConfig())
	if err != nil {
		return nil, err
	}
	f, err := safetensors.Parse(weights)
	if err != nil {
		return nil, err
	}
	a, err := peft.Bind(cfg, f, model.Modules(&s.e.Model().Spec), peft.Limits{MaxRank: s.d.MaxLoRARank, TargetModules: s.d.Targets})
	if err != nil {
		return nil, err
	}
	return a, model.CheckFullEmbeddings(s.ckpt, a)
}

// DropAdapter removes a digest once nobody uses it.
func (s *Server) DropAdapter(ctx context.Context, r *pb.DropAdapterRequest) (*pb.DropAdapterResponse, error) {
	if err := s.e.DropAdapter(ctx, r.GetDigest(), r.GetForce()); err != nil {
		return nil, engineError(err)
	}
	return &pb.DropAdapterResponse{}, nil
}

// DrainWorker takes the worker out of service in good order, or back into it.
func (s *Server) DrainWorker(ctx context.Context, r *pb.DrainWorkerRequest) (*pb.DrainWorkerResponse, error) {
	s.e.Drain(!r.GetResume())
	if r.GetResume() {
		return &pb.DrainWorkerResponse{}, nil
	}
	if err := s.e.Idle(ctx); err != nil {
		return nil, engineError(err)
	}
	return &pb.DrainWorkerResponse{}, nil
}

// FlushWorkerCache forgets all cached prefixes.
func (s *Server) FlushWorkerCache(ctx context.Context, _ *pb.FlushWorkerCacheRequest) (*pb.FlushWorkerCacheResponse, error) {
	if err := s.e.FlushCache(ctx); err != nil {
		return nil, engineError(err)
	}
	return &pb.FlushWorkerCacheResponse{}, nil
}

// ListWorkerAdapters lists both tiers.
func (s *Server) ListWorkerAdapters(ctx context.Context, _ *pb.ListWorkerAdaptersRequest) (*pb.ListWorkerAdaptersResponse, error) {
	list, err := s.e.Adapters(ctx)
	if err != nil {
		return nil, engineError(err)
	}
	out := &pb.ListWorkerAdaptersResponse{Incarnation: s.d.Incarnation}
	for _, a := range list {
		out.Adapters = append(out.Adapters, &pb.WorkerAdapter{
			Digest: a.Digest, Resident: a.Resident, Pinned: a.Pinned, Leases: int32(a.Leases),
			HostBytes: a.HostBytes, DeviceBytes: a.DeviceBytes, Draining: a.Draining,
		})
	}
	return out, nil
}

func engineError(err error) error {
	switch {
	case errors.Is(err, engine.ErrClosed), errors.Is(err, group.ErrOver):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, memory.ErrTooLarge): // for good: a manager does not try again
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, lora.ErrHostFull), errors.Is(err, tensor.ErrOutOfMemory):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, tensor.ErrUnsupported):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	default:
		return status.Error(codes.Internal, err.Error())
	}
}
