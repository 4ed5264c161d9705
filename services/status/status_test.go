package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"github.com/google/go-cmp/cmp"
	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/router"
)

func TestTable(t *testing.T) {
	field := &router.FieldError{Field: "prompts[1].sampling.top_p", Problem: "must be in (0, 1], got 3"}
	for _, tt := range []struct {
		err    error
		code   codes.Code
		reason string
		http   int
		sglang int
		field  string
	}{
		{field, codes.InvalidArgument, ReasonInvalid, 400, 400, "prompts[1].sampling.top_p"},
		{&router.FieldError{Field: "prompts[0]", Problem: "x", Err: router.ErrTooLong}, codes.InvalidArgument, ReasonTooLong, 400, 400, "prompts[0]"},
		{&router.UnknownAdapterError{Name: "a"}, codes.NotFound, ReasonAdapterNotFound, 404, 400, ""},
		{&router.FieldError{Field: "adapters[0]", Problem: "x", Err: &router.UnknownAdapterError{Name: "a"}}, codes.NotFound, ReasonAdapterNotFound, 404, 400, "adapters[0]"},
		{fmt.Errorf("x: %w", router.ErrAdapterNotReady), codes.FailedPrecondition, ReasonAdapterNotReady, 409, 400, ""},
		{router.ErrLoRADisabled, codes.FailedPrecondition, ReasonLoRADisabled, 400, 400, ""},
		{router.ErrTooManyAdapters, codes.InvalidArgument, ReasonTooManyAdapters, 400, 400, ""},
		{router.ErrOverloaded, codes.ResourceExhausted, ReasonOverloaded, 429, 503, ""},
		{router.ErrUnavailable, codes.Unavailable, ReasonUnavailable, 503, 503, ""},
		{router.ErrDraining, codes.Unavailable, ReasonDraining, 503, 503, ""},
		{router.ErrWorkerLost, codes.Unavailable, ReasonWorkerLost, 503, 503, ""},
		{router.ErrAborted, codes.Canceled, ReasonAborted, 499, 499, ""},
		{router.ErrWorker, codes.Internal, ReasonWorker, 500, 500, ""},
		{&ModelNotFoundError{Model: "m", Field: "model", Err: router.ErrUnknownAdapter}, codes.NotFound, ReasonModelNotFound, 404, 400, "model"},
		{Unsupported("tools"), codes.InvalidArgument, ReasonUnsupported, 400, 400, "tools"},
		{ErrUnauthenticated, codes.Unauthenticated, ReasonUnauthenticated, 401, 401, ""},
		{ErrPermission, codes.PermissionDenied, ReasonPermission, 403, 403, ""},
		{ErrBodyTooLarge, codes.ResourceExhausted, ReasonBodyTooLarge, 413, 413, ""},
		{ErrRouteNotFound, codes.NotFound, ReasonRouteNotFound, 404, 404, ""},
		{ErrMethod, codes.Unimplemented, ReasonMethod, 405, 405, ""},
		{context.Canceled, codes.Canceled, ReasonCanceled, 499, 499, ""},
		{context.DeadlineExceeded, codes.DeadlineExceeded, ReasonDeadline, 504, 504, ""},
		{errors.New("secret"), codes.Internal, ReasonInternal, 500, 500, ""},
	} {
		t.Run(tt.err.Error(), func(t *testing.T) {
			p := Of(tt.err)
			if p.Code != tt.code || p.Reason != tt.reason || p.HTTP != tt.http || p.Field() != tt.field {
				t.Errorf("Of = %+v", p)
			}
			if got := SGLangStatus(p); got != tt.sglang {
				t.Errorf("SGLang status = %d, want %d", got, tt.sglang)
			}
			// The same over gRPC and back.
			q := Of(GRPC(tt.err))
			if diff := cmp.Diff(p, q); diff != "" {
				t.Errorf("not the same after gRPC:\n%s", diff)
			}
		})
	}
}

func TestUnknownErrorsHideTheirText(t *testing.T) {
	if p := Of(errors.New("password=1")); strings.Contains(p.Message, "password") {
		t.Errorf("message = %q", p.Message)
	}
}

func TestForeignStatuses(t *testing.T) {
	s, _ := grpcstatus.New(codes.AlreadyExists, "adapter a is already loaded").
		WithDetails(&errdetails.ErrorInfo{Reason: ReasonAdapterLoaded, Domain: Domain})
	p := Of(fmt.Errorf("load: %w", s.Err()))
	if p.Reason != ReasonAdapterLoaded || p.HTTP != 409 {
		t.Errorf("Of = %+v", p)
	}
	if p := Of(grpcstatus.Error(codes.Unavailable, "connection refused")); p.Reason != ReasonServiceUnavailable || p.HTTP != 503 {
		t.Errorf("Of = %+v", p)
	}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		if httpOf(c) == 0 || reasonOf(c) == "" {
			t.Errorf("%v has no HTTP status", c)
		}
	}
}

func TestProtovalidate(t *testing.T) {
	v, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	top := 3.0
	_, err = middleware.UnaryServerInterceptor(v)(t.Context(),
		&choralev1.GenerateRequest{
			Prompts:  []*choralev1.Prompt{{Kind: &choralev1.Prompt_Text{Text: "x"}}, {}},
			Sampling: &choralev1.SamplingParams{TopP: &top},
		}, &grpc.UnaryServerInfo{}, nil)
	p := Of(GRPC(err))
	var fields []string
	for _, f := range p.Fields {
		fields = append(fields, f.Field)
	}
	if diff := cmp.Diff([]string{"prompts[1].kind", "sampling.top_p"}, fields); diff != "" {
		t.Error(diff, p.Message)
	}
	if p.Code != codes.InvalidArgument || p.Reason != ReasonInvalid || p.HTTP != 400 {
		t.Errorf("Of = %+v", p)
	}
}

func TestShapes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		shape Shape
		err   error
		code  int
		want  string
	}{
		{
			"OpenAI field", OpenAI, Invalid("top_p", "must be a number, got %s", "string"), 400,
			`{"error":{"message":"top_p: must be a number, got string","type":"invalid_request_error","param":"top_p","code":"invalid_value"}}`,
		},
		{
			"OpenAI model", OpenAI, &ModelNotFoundError{Model: "m", Field: "model"}, 404,
			"{\"error\":{\"message\":\"The model `m` does not exist.\",\"type\":\"invalid_request_error\",\"param\":\"model\",\"code\":\"model_not_found\"}}",
		},
		{
			"OpenAI key", OpenAI, ErrUnauthenticated, 401,
			`{"error":{"message":"missing or invalid API key","type":"authentication_error","param":null,"code":"invalid_api_key"}}`,
		},
		{
			"OpenAI full", OpenAI, router.ErrOverloaded, 429,
			`{"error":{"message":"queue is full","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}`,
		},
		{
			"SGLang", SGLang, &router.UnknownAdapterError{Name: "a<b>", Loaded: []string{"c"}}, 400,
			`{"error":{"message":"Got LoRA adapter that has never been loaded: a<b>. All loaded adapters: [c]."}}`,
		},
		{
			"vLLM", VLLM, &router.UnknownAdapterError{Name: "a"}, 404,
			`{"error":{"message":"Got LoRA adapter that has never been loaded: a. All loaded adapters: [].","type":"NotFoundError","param":null,"code":404}}`,
		},
		{
			"native", Native, ErrUnauthenticated, 401,
			`{"code":16,"message":"missing or invalid API key","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"UNAUTHENTICATED","domain":"chorale"}]}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			Write(w, tt.shape, tt.err)
			if w.Code != tt.code {
				t.Errorf("status = %d, want %d", w.Code, tt.code)
			}
			// protojson varies its blanks on purpose; compare values.
			if diff := cmp.Diff(parse(t, tt.want), parse(t, w.Body.String())); diff != "" {
				t.Error(diff)
			}
		})
	}
	w := httptest.NewRecorder()
	Write(w, OpenAI, router.ErrOverloaded)
	if got := w.Header().Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After = %q", got)
	}
}

func parse(t *testing.T, s string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	return v
}

func TestLongTextsAreCut(t *testing.T) {
	long := strings.Repeat("ä", 1<<20)
	err := GRPC(&router.FieldError{Field: long, Problem: long, Err: &router.UnknownAdapterError{Name: long}})
	p := Of(err)
	if len(p.Message) > 3000 || len(p.Field()) > 300 || len(p.Fields[0].Problem) > 3000 || !strings.HasSuffix(p.Field(), "ä…") {
		t.Errorf("%d %d %.20s", len(p.Message), len(p.Field()), p.Field())
	}
}

func TestInvalidUTF8(t *testing.T) {
	err := GRPC(&router.UnknownAdapterError{Name: "a\xff"})
	if s := grpcstatus.Convert(err); s.Code() != codes.NotFound || !strings.Contains(s.Message(), "a\uFFFD") {
		t.Errorf("status = %v", s)
	}
}

func TestReasons(t *testing.T) {
	seen := map[string]Entry{}
	for _, e := range Reasons() {
		if e.HTTP < 400 || seen[e.Reason].Reason != "" {
			t.Errorf("%+v", e)
		}
		seen[e.Reason] = e
	}
	if e := seen[ReasonOverloaded]; e.Code != codes.ResourceExhausted || e.HTTP != 429 {
		t.Errorf("%+v", e)
	}
	if e := seen[ReasonDiskFull]; e.Code != codes.OK || e.HTTP != 507 {
		t.Errorf("%+v", e)
	}
}
