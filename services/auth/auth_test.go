package auth

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"chorale/services/status"
)

func TestCheck(t *testing.T) {
	unauth, perm := status.ErrUnauthenticated, status.ErrPermission
	for _, tt := range []struct {
		name       string
		api, admin string
		level      Level
		given      string
		want       error
	}{
		{"nothing configured", "", "", Admin, "", nil},
		{"open", "k", "a", Open, "", nil},
		{"api missing", "k", "", Inference, "", unauth},
		{"api wrong", "k", "", Inference, "Bearer x", unauth},
		{"api empty token", "k", "", Inference, "Bearer ", unauth},
		{"api right", "k", "", Inference, "Bearer k", nil},
		{"scheme's case", "k", "", Inference, "bearer   k ", nil},
		{"no scheme", "k", "", Inference, "k", unauth},
		{"basic", "k", "", Inference, "Basic k", unauth},
		{"prefix", "key", "", Inference, "Bearer ke", unauth},
		{"admin falls back to api", "k", "", Admin, "Bearer k", nil},
		{"admin fallback refuses", "k", "", Admin, "", unauth},
		{"admin only leaves inference open", "", "a", Inference, "", nil},
		{"admin only guards admin", "", "a", Admin, "", unauth},
		{"api is not admin", "k", "a", Admin, "Bearer k", perm},
		{"admin may all", "k", "a", Inference, "Bearer a", nil},
		{"admin", "k", "a", Admin, "Bearer a", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := NewKeys(tt.api, tt.admin).Check(tt.level, tt.given); !errors.Is(err, tt.want) {
				t.Errorf("Check = %v, want %v", err, tt.want)
			}
		})
	}
	if err := (*Keys)(nil).Check(Admin, ""); err != nil {
		t.Errorf("no keys: %v", err)
	}
}

func TestMethodLevel(t *testing.T) {
	for method, want := range map[string]Level{
		"/chorale.v1.InferenceService/Generate":                     Inference,
		"/chorale.v1.AdapterService/LoadAdapter":                    Admin,
		"/chorale.v1.WorkerService/PushAdapter":                     Admin,
		"/grpc.health.v1.Health/Check":                              Open,
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Describe,
		"/someone.else.Service/Method":                              Admin,
		"":                                                          Admin,
	} {
		if got := MethodLevel(method); got != want {
			t.Errorf("MethodLevel(%q) = %v, want %v", method, got, want)
		}
	}
}

// TestSurface: an address says of what it does not take that another does,
// whoever asks; what describes is taken at both.
func TestSurface(t *testing.T) {
	unauth, perm, elsewhere := status.ErrUnauthenticated, status.ErrPermission, status.ErrElsewhere
	keys := NewKeys("k", "a")
	for _, tt := range []struct {
		name  string
		keys  *Keys
		level Level
		given string
		want  error
	}{
		{"load at the inference address", keys.At(NoAdmin), Admin, "Bearer k", elsewhere},
		{"load there as the administrator", keys.At(NoAdmin), Admin, "Bearer a", elsewhere},
		{"load there without keys", (*Keys)(nil).At(NoAdmin), Admin, "", elsewhere},
		{"generate", keys.At(NoAdmin), Inference, "Bearer k", nil},
		{"generate without a key", keys.At(NoAdmin), Inference, "", unauth},
		{"generate at the admin address", keys.At(OnlyAdmin), Inference, "Bearer a", elsewhere},
		{"load", keys.At(OnlyAdmin), Admin, "Bearer a", nil},
		{"load with the wrong key", keys.At(OnlyAdmin), Admin, "Bearer k", perm},
		{"describe", keys.At(NoAdmin), Describe, "Bearer k", nil},
		{"describe at the admin address", keys.At(OnlyAdmin), Describe, "Bearer a", nil},
		{"describe without a key", keys.At(OnlyAdmin), Describe, "", unauth},
		{"describe without an API key", NewKeys("", "a"), Describe, "", nil},
		{"health", keys.At(OnlyAdmin), Open, "", nil},
	} {
		if err := tt.keys.Check(tt.level, tt.given); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

func TestInterceptors(t *testing.T) {
	k := NewKeys("k", "a")
	call := func(method, authorization string) (unary, stm error) {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", authorization))
		_, unary = k.Unary()(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method},
			func(context.Context, any) (any, error) { return nil, nil })
		stm = k.Stream()(nil, stream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: method},
			func(any, grpc.ServerStream) error { return nil })
		return unary, stm
	}
	for _, tt := range []struct {
		method, given string
		want          codes.Code
	}{
		{"/chorale.v1.InferenceService/Generate", "Bearer k", codes.OK},
		{"/chorale.v1.InferenceService/Generate", "Bearer x", codes.Unauthenticated},
		{"/chorale.v1.AdapterService/LoadAdapter", "Bearer k", codes.PermissionDenied},
		{"/chorale.v1.AdapterService/LoadAdapter", "Bearer a", codes.OK},
		{"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "Bearer k", codes.OK},
	} {
		u, s := call(tt.method, tt.given)
		if grpcstatus.Code(u) != tt.want || grpcstatus.Code(s) != tt.want {
			t.Errorf("%s with %q = %v, %v, want %v", tt.method, tt.given, u, s, tt.want)
		}
	}
	_, err := k.Unary()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/chorale.v1.InferenceService/Generate"}, nil)
	if grpcstatus.Code(err) != codes.Unauthenticated {
		t.Errorf("no metadata: %v", err)
	}
}
