package adapters_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"chorale/adaptermgr"
	"chorale/adaptermgr/source"
	"chorale/adaptermgr/store"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	pb "chorale/proto/gen/chorale/v1"
	"chorale/services/adapters"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hidden = 8

// writeAdapter writes a PEFT adapter of that rank for q_proj, all bytes of its
// weights being fill.
func writeAdapter(t *testing.T, dir string, rank int, fill byte, config map[string]any) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fields := map[string]any{"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": []string{"q_proj"}}
	for k, v := range config {
		fields[k] = v
	}
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, source.ConfigFile), text, 0o644); err != nil {
		t.Fatal(err)
	}
	tensor := func(part string, rows, cols int) safetensors.Tensor {
		return safetensors.Tensor{
			Name:  "base_model.model.model.layers.0.self_attn.q_proj." + part + ".weight",
			DType: safetensors.F32, Shape: []int{rows, cols}, Data: bytes.Repeat([]byte{fill}, rows*cols*4),
		}
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, []safetensors.Tensor{tensor("lora_A", rank, hidden), tensor("lora_B", hidden, rank)}, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, source.WeightsFile), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// workerServer is WorkerService's adapter part.
type workerServer struct {
	pb.UnimplementedWorkerServiceServer
	mu     sync.Mutex
	held   map[string]bool
	refuse error
	early  bool // answers after the header
	chunks []int
	got    []byte
	config []byte
}

func (s *workerServer) DescribeWorker(context.Context, *pb.DescribeWorkerRequest) (*pb.DescribeWorkerResponse, error) {
	return &pb.DescribeWorkerResponse{
		Incarnation: "i1", ModelDigest: "m", VocabSize: 100, MaxLorasPerBatch: 2, MaxLoraRank: 300_000, LoraEnabled: true,
		Dtype: "bfloat16", MemoryBytesPerSecond: 64e6, AdapterChunkBytes: 2 << 20,
		Modules: []*pb.ModelModule{
			{Name: "model.embed_tokens", In: 100, Out: hidden, Kind: "embedding"},
			{Name: "model.layers.0.self_attn.q_proj", In: hidden, Out: hidden, Kind: "linear"},
			{Name: "lm_head", In: hidden, Out: 100, Kind: "head"},
		},
	}, nil
}

func (s *workerServer) PushAdapter(stream grpc.ClientStreamingServer[pb.PushAdapterRequest, pb.PushAdapterResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.GetHeader()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	s.config, s.got, s.chunks = h.GetConfig(), nil, nil
	for !s.early {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		s.got = append(s.got, m.GetChunk()...)
		s.chunks = append(s.chunks, len(m.GetChunk()))
	}
	if !s.early && int64(len(s.got)) != h.GetWeightsSize() {
		return status.Errorf(codes.DataLoss, "%d bytes of %d", len(s.got), h.GetWeightsSize())
	}
	s.held[h.GetDigest()] = h.GetPinned()
	return stream.SendAndClose(&pb.PushAdapterResponse{})
}

func (s *workerServer) DropAdapter(_ context.Context, r *pb.DropAdapterRequest) (*pb.DropAdapterResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.held[r.GetDigest()]; !ok {
		return nil, status.Error(codes.NotFound, "no such adapter")
	}
	delete(s.held, r.GetDigest())
	return &pb.DropAdapterResponse{}, nil
}

func (s *workerServer) ListWorkerAdapters(context.Context, *pb.ListWorkerAdaptersRequest) (*pb.ListWorkerAdaptersResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &pb.ListWorkerAdaptersResponse{Incarnation: "i1"}
	for d, pinned := range s.held {
		r.Adapters = append(r.Adapters, &pb.WorkerAdapter{Digest: d, Pinned: pinned})
	}
	return r, nil
}

// dial serves register in memory and returns a connection to it.
func dial(t *testing.T, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer()
	register(srv)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///mem", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}

type fixture struct {
	root   string
	spool  string
	server *adapters.Server
	worker *workerServer
	group  *adapters.WorkerClient
	c      pb.AdapterServiceClient
	m      *adaptermgr.Manager
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{root: t.TempDir(), worker: &workerServer{held: map[string]bool{}}}
	f.group = adapters.NewWorkerClient("group-0", dial(t, func(s *grpc.Server) { pb.RegisterWorkerServiceServer(s, f.worker) }))
	data := t.TempDir()
	reg, err := store.OpenBolt(filepath.Join(data, "registry.db"), store.BoltOptions{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := adaptermgr.OpenBlobs(filepath.Join(data, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	f.spool = filepath.Join(data, "incoming")
	src := spooled(t, f.root, f.spool)
	f.m, err = adaptermgr.New(adaptermgr.Options{
		Registry: reg, Blobs: blobs, Source: src, Workers: []adaptermgr.Worker{f.group},
		Limits: peft.Limits{MaxRank: 200_000}, MaxLoaded: 3, WorkerTimeout: 300 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.m.Run(ctx) }()
	f.c = pb.NewAdapterServiceClient(dial(t, func(s *grpc.Server) {
		f.server = adapters.NewServer(f.m)
		f.server.AcceptUploads(src)
		pb.RegisterAdapterServiceServer(s, f.server)
	}))
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, reg.Close()); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) load(t *testing.T, name, src string) *pb.LoadAdapterResponse {
	t.Helper()
	r, err := f.c.LoadAdapter(t.Context(), &pb.LoadAdapterRequest{Name: name, Source: src})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLifeOverTheWire(t *testing.T) {
	f := setup(t)
	const rank = 100_000 // 3.2 MB each of A and B: several chunks
	writeAdapter(t, filepath.Join(f.root, "big"), rank, 0x3c, nil)
	writeAdapter(t, filepath.Join(f.root, "small"), 2, 0x3d, nil)
	r := f.load(t, "team/voice", "big")
	a := r.GetAdapter()
	if a.GetState() != pb.AdapterState_ADAPTER_STATE_LOADED || a.GetSource() != "big" || a.GetMaxRank() != rank ||
		!slices.Equal(a.GetTargetModules(), []string{"q_proj"}) || a.GetVersion() == 0 || a.GetCreated() == nil ||
		len(a.GetPlacements()) != 1 || a.GetPlacements()[0].GetWorker() != "group-0" || !a.GetPlacements()[0].GetLoaded() {
		t.Errorf("%v", a)
	}
	want, err := os.ReadFile(filepath.Join(f.root, "big", source.WeightsFile))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, f.worker.got) || int64(len(want)) != a.GetSizeBytes() {
		t.Error("the weights arrived changed")
	}
	for i, n := range f.worker.chunks {
		if last := i == len(f.worker.chunks)-1; n > 1<<20 || !last && n != 1<<20 {
			t.Errorf("chunk %d of %d bytes", i, n)
		}
	}
	f.load(t, "b", "small")

	ctx := t.Context()
	page, err := f.c.ListAdapters(ctx, &pb.ListAdaptersRequest{PageSize: 1})
	if err != nil || len(page.GetAdapters()) != 1 || page.GetAdapters()[0].GetName() != "b" || page.GetNextPageToken() == "" {
		t.Fatalf("%v, %v", page, err)
	}
	page, err = f.c.ListAdapters(ctx, &pb.ListAdaptersRequest{PageSize: 1, PageToken: page.GetNextPageToken()})
	if err != nil || len(page.GetAdapters()) != 1 || page.GetAdapters()[0].GetName() != "team/voice" || page.GetNextPageToken() != "" {
		t.Fatalf("%v, %v", page, err)
	}
	yes := true
	u, err := f.c.UpdateAdapter(ctx, &pb.UpdateAdapterRequest{Name: "b", Pinned: &yes, Labels: map[string]string{"k": "v"}})
	if err != nil || !u.GetAdapter().GetPinned() || u.GetAdapter().GetLabels()["k"] != "v" {
		t.Errorf("%v, %v", u, err)
	}
	g, err := f.c.GetAdapter(ctx, &pb.GetAdapterRequest{Name: "b"})
	if err != nil || !g.GetAdapter().GetPinned() {
		t.Errorf("%v, %v", g, err)
	}
	e, err := f.c.EnsureAdapters(ctx, &pb.EnsureAdaptersRequest{Names: []string{"b", "team/voice"}})
	if err != nil || len(e.GetAdapters()) != 2 || e.GetAdapters()[1].GetName() != "team/voice" {
		t.Errorf("%v, %v", e, err)
	}
	if _, err := f.c.EnsureAdapters(ctx, &pb.EnsureAdaptersRequest{Names: []string{"zz"}, TouchOnly: true}); err != nil {
		t.Errorf("touch: %v", err)
	}
	x, err := f.c.UnloadAdapter(ctx, &pb.UnloadAdapterRequest{Name: "team/voice"})
	if err != nil || x.GetAdapter().GetState() != pb.AdapterState_ADAPTER_STATE_REMOVED || x.GetRevision() == 0 {
		t.Errorf("%v, %v", x, err)
	}
	if len(f.worker.held) != 1 {
		t.Errorf("the worker holds %v", f.worker.held)
	}
}

func TestWatchOverTheWire(t *testing.T) {
	f := setup(t)
	writeAdapter(t, filepath.Join(f.root, "a"), 2, 0x3c, nil)
	f.load(t, "a", "a")
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := f.c.WatchAdapters(ctx, &pb.WatchAdaptersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || !first.GetSnapshot() || len(first.GetAdapters()) != 1 {
		t.Fatalf("%v, %v", first, err)
	}
	if _, err := f.c.UnloadAdapter(t.Context(), &pb.UnloadAdapterRequest{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if slices.Equal(c.GetRemoved(), []string{"a"}) {
			break
		}
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("err = %v", err)
	}
}

func TestErrors(t *testing.T) {
	f := setup(t)
	writeAdapter(t, filepath.Join(f.root, "a"), 2, 0x3c, nil)
	writeAdapter(t, filepath.Join(f.root, "b"), 2, 0x3d, nil)
	writeAdapter(t, filepath.Join(f.root, "c"), 2, 0x3e, nil)
	writeAdapter(t, filepath.Join(f.root, "dora"), 2, 0x3c, map[string]any{"use_dora": true})
	writeAdapter(t, filepath.Join(f.root, "nan"), 2, 0xff, nil)
	writeAdapter(t, filepath.Join(f.root, "rank"), 200_001, 0x3c, nil)
	writeAdapter(t, filepath.Join(f.root, "module"), 2, 0x3c, map[string]any{"target_modules": []string{"gate_proj"}})
	f.load(t, "a", "a")
	load := func(name, src string, change func(*pb.LoadAdapterRequest)) error {
		r := &pb.LoadAdapterRequest{Name: name, Source: src}
		if change != nil {
			change(r)
		}
		_, err := f.c.LoadAdapter(t.Context(), r)
		return err
	}
	pin := func(r *pb.LoadAdapterRequest) { r.Pinned = true }
	if err := load("p", "b", pin); err != nil {
		t.Fatal(err)
	}
	_, noAdapter := f.c.GetAdapter(t.Context(), &pb.GetAdapterRequest{Name: "zz"})
	_, noUnload := f.c.UnloadAdapter(t.Context(), &pb.UnloadAdapterRequest{Name: "zz"})
	_, badToken := f.c.ListAdapters(t.Context(), &pb.ListAdaptersRequest{PageToken: "!"})
	for name, tc := range map[string]struct {
		err    error
		code   codes.Code
		reason string
		field  string
		says   string
	}{
		"unknown":    {noAdapter, codes.NotFound, "ADAPTER_NOT_FOUND", "", "never been loaded"},
		"unload":     {noUnload, codes.NotFound, "ADAPTER_NOT_FOUND", "", `"zz"`},
		"token":      {badToken, codes.InvalidArgument, "INVALID_REQUEST", "page_token", "page_token"},
		"taken":      {load("a", "b", nil), codes.AlreadyExists, "ADAPTER_ALREADY_LOADED", "", "already loaded"},
		"name":       {load(" x", "a", nil), codes.InvalidArgument, "INVALID_REQUEST", "name", "blank"},
		"source":     {load("x", "zz", nil), codes.NotFound, "ADAPTER_SOURCE_NOT_FOUND", "source", "zz"},
		"outside":    {load("x", "/etc", nil), codes.NotFound, "ADAPTER_SOURCE_NOT_FOUND", "source", "/etc"},
		"dora":       {load("x", "dora", nil), codes.InvalidArgument, "ADAPTER_UNSUPPORTED", "source", "DoRA"},
		"nan":        {load("x", "nan", nil), codes.InvalidArgument, "ADAPTER_INVALID", "source", "lora_A"},
		"rank":       {load("x", "rank", nil), codes.InvalidArgument, "ADAPTER_RANK_TOO_LARGE", "source", "incompatible"},
		"module":     {load("x", "module", nil), codes.InvalidArgument, "ADAPTER_INCOMPATIBLE", "source", "incompatible"},
		"starvation": {load("x", "c", pin), codes.FailedPrecondition, "PIN_STARVATION", "pinned", "starvation"},
	} {
		checkStatus(t, name, tc.err, tc.code, tc.reason, tc.field, tc.says)
	}
	r, err := f.c.ValidateAdapter(t.Context(), &pb.ValidateAdapterRequest{Source: "nan"})
	if err != nil || r.GetValid() || len(r.GetProblems()) != 1 {
		t.Errorf("%v, %v", r, err)
	}
	r, err = f.c.ValidateAdapter(t.Context(), &pb.ValidateAdapterRequest{Source: "c"})
	if err != nil || !r.GetValid() || len(r.GetModules()) != 1 || r.GetModules()[0].GetScale() != 4 {
		t.Errorf("%v, %v", r, err)
	}
	f.worker.mu.Lock()
	f.worker.refuse = status.Error(codes.InvalidArgument, "no kernel for it")
	f.worker.mu.Unlock()
	checkStatus(t, "refused", load("x", "c", nil), codes.InvalidArgument, "ADAPTER_INCOMPATIBLE", "source", "no kernel")
	f.worker.mu.Lock()
	f.worker.refuse = status.Error(codes.Internal, "out of memory")
	f.worker.mu.Unlock()
	checkStatus(t, "failing", load("x", "c", nil), codes.Unavailable, "WORKER_UNAVAILABLE", "", "out of memory")
}

func checkStatus(t *testing.T, name string, err error, code codes.Code, reason, field, says string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != code || !strings.Contains(s.Message(), says) {
		t.Errorf("%s: %v", name, err)
	}
	var gotReason, gotField string
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			gotReason = d.GetReason()
			if d.GetDomain() != "chorale" {
				t.Errorf("%s: domain %q", name, d.GetDomain())
			}
		case *errdetails.BadRequest:
			gotField = d.GetFieldViolations()[0].GetField()
		}
	}
	if gotReason != reason || gotField != field {
		t.Errorf("%s: reason %q, field %q", name, gotReason, gotField)
	}
}

func TestStatusTable(t *testing.T) {
	if s := adapters.Status(nil); s.Code() != codes.OK {
		t.Errorf("nil: %v", s)
	}
	checkStatus(t, "foreign", adapters.Status(errors.New("boom\xff")).Err(), codes.Internal, "INTERNAL", "", "boom")
	checkStatus(t, "full", adapters.Status(fmt.Errorf("x: %w", adaptermgr.ErrDiskFull)).Err(), codes.ResourceExhausted, "DISK_FULL", "", "disk full")
	checkStatus(t, "read-only", adapters.Status(adaptermgr.ErrReadOnly).Err(), codes.FailedPrecondition, "STORAGE_READ_ONLY", "", "read-only")
	checkStatus(t, "disabled", adapters.Status(adaptermgr.ErrDisabled).Err(), codes.FailedPrecondition, "LORA_DISABLED", "", "not enabled")
	kept := status.New(codes.Unauthenticated, "who")
	if s := adapters.Status(kept.Err()); s.Code() != codes.Unauthenticated {
		t.Errorf("a status changed: %v", s)
	}
}

func TestWorkerClient(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	info, err := f.group.Describe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := []peft.Module{
		{Name: "model.embed_tokens", In: 100, Out: hidden, Kind: peft.Embedding},
		{Name: "model.layers.0.self_attn.q_proj", In: hidden, Out: hidden},
		{Name: "lm_head", In: hidden, Out: 100, Kind: peft.Head},
	}
	if d := cmp.Diff(want, info.Modules); d != "" || info.MaxLoRAsPerBatch != 2 || !info.LoRAEnabled {
		t.Error(d, info)
	}
	if err := f.group.Drop(ctx, "sha256:none", true); err != nil {
		t.Errorf("dropping what is not there: %v", err)
	}
	boom := errors.New("boom")
	err = f.group.Push(ctx, adaptermgr.Push{Digest: "d", Size: 10, Weights: iotest.ErrReader(boom)})
	if !errors.Is(err, boom) {
		t.Errorf("unreadable weights: %v", err)
	}
	// A server that has the digest answers after the header.
	f.worker.mu.Lock()
	f.worker.early = true
	f.worker.mu.Unlock()
	size := int64(8 << 20)
	err = f.group.Push(ctx, adaptermgr.Push{Digest: "d", Size: size, Weights: io.LimitReader(zeros{}, size), Pinned: true})
	if err != nil {
		t.Errorf("early answer: %v", err)
	}
}

func TestWorkerClientLosesItsServer(t *testing.T) {
	conn := dial(t, func(*grpc.Server) {})
	conn.Close()
	w := adapters.NewWorkerClient("w", conn)
	_, err := w.Describe(t.Context())
	_, lerr := w.List(t.Context())
	perr := w.Push(t.Context(), adaptermgr.Push{Weights: strings.NewReader("")})
	for _, err := range []error{err, lerr, perr, w.Drop(t.Context(), "d", false)} {
		if !errors.Is(err, adaptermgr.ErrUnavailable) {
			t.Errorf("err = %v", err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
