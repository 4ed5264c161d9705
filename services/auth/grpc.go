package auth

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"chorale/services/status"
)

// services says what the methods of each gRPC service need. A service that is
// not here needs Admin.
var services = map[string]Level{
	"chorale.v1.InferenceService":              Inference,
	"chorale.v1.AdapterService":                Admin,
	"chorale.v1.WorkerService":                 Admin,
	"grpc.health.v1.Health":                    Open,
	"grpc.reflection.v1.ServerReflection":      Describe,
	"grpc.reflection.v1alpha.ServerReflection": Describe,
}

// MethodLevel tells what a gRPC method ("/package.Service/Method") needs.
func MethodLevel(fullMethod string) Level {
	service, _, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	return services[service]
}

// NotHere answers calls of services that a server does not have. Stream, which
// runs before it, tells of those that are at another address.
func NotHere(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(ss)
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return grpcstatus.Errorf(codes.Unimplemented, "unknown service %s", service)
}

// Unary checks the key of unary calls.
func (k *Keys) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := k.checkContext(ctx, info.FullMethod); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

// Stream checks the key of streams.
func (k *Keys) Stream() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if err := k.checkContext(ss.Context(), info.FullMethod); err != nil {
			return err
		}
		return next(srv, ss)
	}
}

func (k *Keys) checkContext(ctx context.Context, method string) error {
	var given string
	if v := metadata.ValueFromIncomingContext(ctx, "authorization"); len(v) > 0 {
		given = v[0]
	}
	return status.GRPC(k.Check(MethodLevel(method), given))
}
