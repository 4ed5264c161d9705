package auth

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"chorale/services/status"
)

// services says what the methods of each gRPC service need. A service that is
// not here needs Admin.
var services = map[string]Level{
	"chorale.v1.InferenceService":              Inference,
	"chorale.v1.AdapterService":                Admin,
	"chorale.v1.WorkerService":                 Admin,
	"grpc.health.v1.Health":                    Open,
	"grpc.reflection.v1.ServerReflection":      Inference,
	"grpc.reflection.v1alpha.ServerReflection": Inference,
}

// MethodLevel tells what a gRPC method ("/package.Service/Method") needs.
func MethodLevel(fullMethod string) Level {
	service, _, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	return services[service]
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
