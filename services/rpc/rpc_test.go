package rpc

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	grpcstatus "google.golang.org/grpc/status"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/services/auth"
	"chorale/services/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// faulty fails in the ways that interceptors must handle.
type faulty struct {
	choralev1.UnimplementedInferenceServiceServer
}

func (faulty) GetModel(context.Context, *choralev1.GetModelRequest) (*choralev1.GetModelResponse, error) {
	panic("boom")
}

func (faulty) GetServerInfo(context.Context, *choralev1.GetServerInfoRequest) (*choralev1.GetServerInfoResponse, error) {
	return nil, errors.New("password=1")
}

func (faulty) GenerateStream(*choralev1.GenerateStreamRequest, choralev1.InferenceService_GenerateStreamServer) error {
	panic("boom")
}

func (faulty) Detokenize(context.Context, *choralev1.DetokenizeRequest) (*choralev1.DetokenizeResponse, error) {
	return &choralev1.DetokenizeResponse{}, nil
}

func start(t *testing.T, o Options) (*Server, *grpc.ClientConn) {
	t.Helper()
	s, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	choralev1.RegisterInferenceServiceServer(s, faulty{})
	done := make(chan error, 1)
	go func() { done <- s.ServeLoop() }()
	conn, err := s.Loop()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		<-done
	})
	return s, conn
}

func TestFaults(t *testing.T) {
	core, logs := observer.New(zapcore.ErrorLevel)
	_, conn := start(t, Options{Log: zap.New(core)})
	c := choralev1.NewInferenceServiceClient(conn)
	_, err := c.GetModel(t.Context(), &choralev1.GetModelRequest{})
	if s := grpcstatus.Convert(err); s.Code() != codes.Internal || !strings.Contains(s.Message(), "internal error, id ") || strings.Contains(s.Message(), "boom") {
		t.Errorf("panic = %v", err)
	}
	stream, err := c.GenerateStream(t.Context(), &choralev1.GenerateStreamRequest{Request: &choralev1.GenerateRequest{
		Prompts: []*choralev1.Prompt{{Kind: &choralev1.Prompt_Text{Text: "x"}}},
	}})
	if err == nil {
		_, err = stream.Recv()
	}
	if grpcstatus.Code(err) != codes.Internal {
		t.Errorf("panic in a stream = %v", err)
	}
	_, err = c.GetServerInfo(t.Context(), &choralev1.GetServerInfoRequest{})
	if s := grpcstatus.Convert(err); s.Code() != codes.Internal || strings.Contains(s.Message(), "password") {
		t.Errorf("unknown error = %v", err)
	}
	if n := logs.FilterMessage("panic").Len(); n != 2 {
		t.Errorf("%d panics logged", n)
	}
	if logs.FilterMessage("call failed").Len() < 1 {
		t.Error("the hidden error is not in the log")
	}
}

func TestLimitsAndValidation(t *testing.T) {
	_, conn := start(t, Options{MaxMessage: 1000})
	big := &choralev1.DetokenizeRequest{Ids: make([]int32, 2000)}
	c := choralev1.NewInferenceServiceClient(conn)
	if _, err := c.Detokenize(t.Context(), big); grpcstatus.Code(err) != codes.ResourceExhausted {
		t.Errorf("big message = %v", err)
	}
	_, err := c.Detokenize(t.Context(), &choralev1.DetokenizeRequest{Ids: []int32{0, -1}})
	if p := status.Of(err); p.Code != codes.InvalidArgument || p.Field() != "ids[1]" || p.Reason != status.ReasonInvalid {
		t.Errorf("negative id = %+v", p)
	}
}

func TestKeys(t *testing.T) {
	_, conn := start(t, Options{Keys: auth.NewKeys("k", "")})
	c := choralev1.NewInferenceServiceClient(conn)
	if _, err := c.Detokenize(t.Context(), &choralev1.DetokenizeRequest{}); status.Of(err).Reason != status.ReasonUnauthenticated {
		t.Errorf("no key = %v", err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer k")
	if _, err := c.Detokenize(ctx, &choralev1.DetokenizeRequest{}); err != nil {
		t.Errorf("key = %v", err)
	}
	// Health needs none.
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("health = %v", err)
	}
}

func TestHealth(t *testing.T) {
	var bad atomic.Bool
	s, conn := start(t, Options{Ready: func() error {
		if bad.Load() {
			return errors.New("no worker")
		}
		return nil
	}})
	h := grpc_health_v1.NewHealthClient(conn)
	check := func(service string) grpc_health_v1.HealthCheckResponse_ServingStatus {
		t.Helper()
		r, err := h.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if got := check("chorale.v1.InferenceService"); got != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Error(got)
	}
	watch, err := h.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() grpc_health_v1.HealthCheckResponse_ServingStatus {
		t.Helper()
		r, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if got := next(); got != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Error(got)
	}
	bad.Store(true)
	if got := check(""); got != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Error(got)
	}
	if got := next(); got != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Error(got)
	}
	if _, err := h.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "x"}); grpcstatus.Code(err) != codes.NotFound {
		t.Error(err)
	}
	// Draining ends the watch instead of waiting for it.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Drain(ctx); err != nil {
		t.Errorf("Drain = %v", err)
	}
}

func TestReflection(t *testing.T) {
	_, conn := start(t, Options{})
	s, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.String(), "chorale.v1.InferenceService") {
		t.Error(r)
	}
	_ = s.CloseSend()
}
