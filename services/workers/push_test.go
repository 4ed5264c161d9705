package workers

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"chorale/internal/checkpoint"
	"chorale/internal/peft"
	pb "chorale/proto/gen/chorale/v1"
	"chorale/worker/engine"
	"chorale/worker/model"
	"chorale/worker/tensor/cpu"
)

const tiny = "../../worker/model/testdata/llama-gqa"

// mouth is a stream of prepared messages.
type mouth struct {
	grpc.ClientStreamingServer[pb.PushAdapterRequest, pb.PushAdapterResponse]
	say    []*pb.PushAdapterRequest
	answer *pb.PushAdapterResponse
}

func (m *mouth) Context() context.Context { return context.Background() }

func (m *mouth) Recv() (*pb.PushAdapterRequest, error) {
	if len(m.say) == 0 {
		return nil, io.EOF
	}
	first := m.say[0]
	m.say = m.say[1:]
	return first, nil
}

func (m *mouth) SendAndClose(r *pb.PushAdapterResponse) error {
	m.answer = r
	return nil
}

// newServer serves the tiny model with room for so many bytes of adapters.
func newServer(t *testing.T, hostBytes int64) *Server {
	t.Helper()
	return newServerOn(t, cpu.Options{}, engine.Options{MaxResident: 2, Pages: 16, MaxHostBytes: hostBytes})
}

func newServerOn(t *testing.T, c cpu.Options, o engine.Options) *Server {
	t.Helper()
	o.MaxBatchTokens, o.MaxRunning, o.MaxAdapters = 16, 2, 2
	b, err := cpu.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ckpt, err := checkpoint.Open(tiny)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := model.Open(b, ckpt)
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(b, m, o, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		m.Free()
		ckpt.Close()
		b.Close()
	})
	return NewServer(e, ckpt, Description{LoRAEnabled: true})
}

// artifact is an adapter's files and its header.
func artifact(t *testing.T, name string) (h *pb.PushAdapterHeader, weights []byte, path string) {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(tiny, "adapters", name))
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, peft.WeightsFile)
	config, err := os.ReadFile(filepath.Join(dir, peft.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	if weights, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	digest, err := peft.Digest(config, bytes.NewReader(weights))
	if err != nil {
		t.Fatal(err)
	}
	return &pb.PushAdapterHeader{Digest: digest, Config: config, WeightsSize: int64(len(weights))}, weights, path
}

func header(h *pb.PushAdapterHeader) *pb.PushAdapterRequest {
	return &pb.PushAdapterRequest{Message: &pb.PushAdapterRequest_Header{Header: h}}
}

func chunk(b []byte) *pb.PushAdapterRequest {
	return &pb.PushAdapterRequest{Message: &pb.PushAdapterRequest_Chunk{Chunk: b}}
}

// TestPush: chunks and a shared file bring the same, and nothing but a file
// below the shared folder is read.
func TestPush(t *testing.T) {
	h, weights, path := artifact(t, "all-r8-bf16")
	named := func(path string) *pb.PushAdapterHeader {
		return &pb.PushAdapterHeader{Digest: h.Digest, Config: h.Config, WeightsSize: h.WeightsSize, WeightsPath: path}
	}
	shorter := named(path)
	shorter.WeightsSize--
	dir := filepath.Dir(path)
	for name, c := range map[string]struct {
		shared string
		say    []*pb.PushAdapterRequest
		want   codes.Code
	}{
		"chunks":         {"", []*pb.PushAdapterRequest{header(h), chunk(weights[:100]), chunk(weights[100:])}, codes.OK},
		"file":           {dir, []*pb.PushAdapterRequest{header(named(path))}, codes.OK},
		"file deeper":    {filepath.Dir(dir), []*pb.PushAdapterRequest{header(named(path))}, codes.OK},
		"nothing shared": {"", []*pb.PushAdapterRequest{header(named(path))}, codes.PermissionDenied},
		"elsewhere":      {t.TempDir(), []*pb.PushAdapterRequest{header(named(path))}, codes.PermissionDenied},
		"beside":         {dir, []*pb.PushAdapterRequest{header(named(dir + "/../attn-r4/" + peft.WeightsFile))}, codes.PermissionDenied},
		"relative":       {dir, []*pb.PushAdapterRequest{header(named(peft.WeightsFile))}, codes.PermissionDenied},
		"no such file":   {dir, []*pb.PushAdapterRequest{header(named(filepath.Join(dir, "x")))}, codes.DataLoss},
		"other length":   {dir, []*pb.PushAdapterRequest{header(shorter)}, codes.DataLoss},
		"other bytes":    {dir, []*pb.PushAdapterRequest{header(h), chunk(append([]byte{1}, weights[1:]...))}, codes.InvalidArgument},
		"too few":        {dir, []*pb.PushAdapterRequest{header(h), chunk(weights[1:])}, codes.DataLoss},
		"no header":      {dir, []*pb.PushAdapterRequest{chunk(weights)}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, 1<<20)
			if c.shared != "" {
				s.ShareFiles(c.shared)
			}
			m := &mouth{say: c.say}
			err := s.PushAdapter(m)
			if status.Code(err) != c.want {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			st, err := s.e.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			switch held := st.LoRA.HostBytes; {
			case c.want == codes.OK && (m.answer.GetHostBytes() != held || held <= 0):
				t.Errorf("%d bytes are held, answered %d", held, m.answer.GetHostBytes())
			case c.want != codes.OK && held != 0:
				t.Errorf("%d bytes stay taken", held)
			}
		})
	}
}

// TestPushBound: what does not fit into host memory is refused with the numbers,
// and leaves nothing behind.
func TestPushBound(t *testing.T) {
	h, weights, _ := artifact(t, "all-r8-bf16")
	other, more, _ := artifact(t, "attn-r4")
	s := newServer(t, int64(len(weights)))
	if err := s.PushAdapter(&mouth{say: []*pb.PushAdapterRequest{header(h), chunk(weights)}}); err != nil {
		t.Fatal(err)
	}
	before, err := s.e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = s.PushAdapter(&mouth{say: []*pb.PushAdapterRequest{header(other), chunk(more)}})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "MiB") {
		t.Errorf("got %v", err)
	}
	if _, err := s.DropAdapter(t.Context(), &pb.DropAdapterRequest{Digest: h.Digest}); err != nil {
		t.Fatal(err)
	}
	if err := s.PushAdapter(&mouth{say: []*pb.PushAdapterRequest{header(other), chunk(more)}}); err != nil {
		t.Errorf("after the other is gone: %v", err)
	}
	if m := routerOutputs(&pb.ConnectResponse{Status: statusProto(&before)}, nil).Status.Adapters; m.HostBytes != before.LoRA.HostBytes || m.HostLimit != int64(len(weights)) || len(m.LoadCounts) != len(m.LoadBounds)+1 {
		t.Errorf("the router hears of %+v", m)
	}
}

// TestPushTooLarge: an adapter that could never come onto the device is refused
// for good, with the numbers, and so is a pin that would keep another one out.
func TestPushTooLarge(t *testing.T) {
	h, weights, _ := artifact(t, "all-r8-bf16")
	small, few, _ := artifact(t, "qv-r1-regex")
	// The cache keeps 7 of its 10 groups of 3 chunks, so adapters can have 10
	// chunks: all-r8 takes them all.
	s := newServerOn(t, cpu.Options{ChunkBytes: 4096, CountImages: true}, engine.Options{MemoryBytes: 31 * 4096})
	push := func(h *pb.PushAdapterHeader, w []byte) error {
		return s.PushAdapter(&mouth{say: []*pb.PushAdapterRequest{header(h), chunk(w)}})
	}
	st, err := s.e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	small.Pinned = true
	if err := push(small, few); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error) {
		t.Helper()
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "MiB") {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("beside a pinned one", push(h, weights))
	if _, err := s.DropAdapter(t.Context(), &pb.DropAdapterRequest{Digest: small.Digest}); err != nil {
		t.Fatal(err)
	}
	if err := push(h, weights); err != nil {
		t.Fatal(err)
	}
	refused("pinned beside it", push(small, few))
	small.Pinned = false
	if err := push(small, few); err != nil {
		t.Fatal(err)
	}
	small.Pinned = true
	refused("pinned afterwards", push(small, few))
	if m := routerOutputs(&pb.ConnectResponse{Status: statusProto(&st)}, nil).Status.Memory; m.Total != 31*4096 || m.Cache+m.Adapters+m.Free != m.Total {
		t.Errorf("the router hears of %+v", m)
	}
}
