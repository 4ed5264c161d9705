package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
)

// watchEvery is how often a health watch looks.
const watchEvery = time.Second

// health answers grpc.health.v1 from the state itself, asked on each call:
// there is no copy that could go stale.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
	ready func() error
	quit  chan struct{} // closed when the server drains: watches end
}

func newHealth(ready func() error) *health {
	if ready == nil {
		ready = func() error { return nil }
	}
	return &health{ready: ready, quit: make(chan struct{})}
}

// known are the service names that may be asked for: "" is the whole server.
var known = map[string]bool{
	"": true, "chorale.v1.InferenceService": true,
	"chorale.v1.AdapterService": true, "chorale.v1.WorkerService": true,
}

func (h *health) status() grpc_health_v1.HealthCheckResponse_ServingStatus {
	if h.ready() != nil {
		return grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	return grpc_health_v1.HealthCheckResponse_SERVING
}

// Check tells the state now.
func (h *health) Check(_ context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if !known[req.Service] {
		return nil, grpcstatus.Errorf(codes.NotFound, "unknown service %q", req.Service)
	}
	return &grpc_health_v1.HealthCheckResponse{Status: h.status()}, nil
}

// Watch tells the state now and each change of it.
func (h *health) Watch(req *grpc_health_v1.HealthCheckRequest, ss grpc_health_v1.Health_WatchServer) error {
	if !known[req.Service] {
		return ss.Send(&grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN})
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := grpc_health_v1.HealthCheckResponse_UNKNOWN
	for {
		if s := h.status(); s != last {
			last = s
			if err := ss.Send(&grpc_health_v1.HealthCheckResponse{Status: s}); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-h.quit:
			return ss.Send(&grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_NOT_SERVING})
		case <-ss.Context().Done():
			return ss.Context().Err()
		}
	}
}
