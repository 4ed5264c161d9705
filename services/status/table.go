package status

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"chorale/router"
)

// Domain is the domain of every ErrorInfo.
const Domain = "chorale"

// Reasons of google.rpc.ErrorInfo.
const (
	ReasonInvalid            = "INVALID_REQUEST"
	ReasonUnsupported        = "UNSUPPORTED"
	ReasonTooLong            = "PROMPT_TOO_LONG"
	ReasonModelNotFound      = "MODEL_NOT_FOUND"
	ReasonAdapterNotFound    = "ADAPTER_NOT_FOUND"
	ReasonAdapterNotReady    = "ADAPTER_NOT_READY"
	ReasonAdapterLoaded      = "ADAPTER_ALREADY_LOADED"
	ReasonAdapterInvalid     = "ADAPTER_INVALID"
	ReasonAdapterMismatch    = "ADAPTER_INCOMPATIBLE"
	ReasonAdapterRank        = "ADAPTER_RANK_TOO_LARGE"
	ReasonAdapterUnsupported = "ADAPTER_UNSUPPORTED"
	ReasonSourceNotFound     = "ADAPTER_SOURCE_NOT_FOUND"
	ReasonSourceDenied       = "ADAPTER_SOURCE_DENIED"
	ReasonSourceUnavailable  = "ADAPTER_SOURCE_UNAVAILABLE"
	ReasonAdapterUnloaded    = "ADAPTER_UNLOADED"
	ReasonVersionNotFound    = "ADAPTER_VERSION_NOT_FOUND"
	ReasonVersionInUse       = "ADAPTER_VERSION_IN_USE"
	ReasonNoEarlierVersion   = "NO_EARLIER_VERSION"
	ReasonAdapterChanged     = "ADAPTER_CHANGED"
	ReasonRevisionCompacted  = "REVISION_COMPACTED"
	ReasonPinStarvation      = "PIN_STARVATION"
	ReasonLoRADisabled       = "LORA_DISABLED"
	ReasonTooManyAdapters    = "TOO_MANY_ADAPTERS"
	ReasonDiskFull           = "DISK_FULL"
	ReasonReadOnly           = "STORAGE_READ_ONLY"
	ReasonOverloaded         = "OVERLOADED"
	ReasonUnavailable        = "NO_WORKER"
	ReasonWorkerUnavailable  = "WORKER_UNAVAILABLE"
	ReasonServiceUnavailable = "SERVICE_UNAVAILABLE"
	ReasonDraining           = "SHUTTING_DOWN"
	ReasonWorkerLost         = "WORKER_LOST"
	ReasonGroupLost          = "GROUP_LOST"
	ReasonGroupRestarting    = "GROUP_RESTARTING"
	ReasonWorker             = "WORKER_FAILED"
	ReasonAborted            = "ABORTED"
	ReasonCanceled           = "CANCELED"
	ReasonDeadline           = "DEADLINE_EXCEEDED"
	ReasonBodyTooLarge       = "BODY_TOO_LARGE"
	ReasonUnauthenticated    = "UNAUTHENTICATED"
	ReasonPermission         = "ADMIN_KEY_REQUIRED"
	ReasonOrigin             = "ORIGIN_NOT_ALLOWED"
	ReasonElsewhere          = "SERVED_ELSEWHERE"
	ReasonRouteNotFound      = "ROUTE_NOT_FOUND"
	ReasonMethod             = "METHOD_NOT_ALLOWED"
	ReasonUnimplemented      = "UNIMPLEMENTED"
	ReasonInternal           = "INTERNAL"
)

// clientClosed is the status that logs show for a client that went away.
const clientClosed = 499

// retryAfter is what clients are told to wait when the server is overloaded.
const retryAfter = time.Second

type row struct {
	err    error
	code   codes.Code
	reason string
	http   int
	retry  time.Duration
}

// table holds the special errors before the general ones: the first match
// counts.
var table = []row{
	{ErrUnauthenticated, codes.Unauthenticated, ReasonUnauthenticated, http.StatusUnauthorized, 0},
	{ErrPermission, codes.PermissionDenied, ReasonPermission, http.StatusForbidden, 0},
	{ErrBodyTooLarge, codes.ResourceExhausted, ReasonBodyTooLarge, http.StatusRequestEntityTooLarge, 0},
	{ErrOrigin, codes.PermissionDenied, ReasonOrigin, http.StatusForbidden, 0},
	{ErrElsewhere, codes.Unimplemented, ReasonElsewhere, http.StatusNotFound, 0},
	{ErrRouteNotFound, codes.NotFound, ReasonRouteNotFound, http.StatusNotFound, 0},
	{ErrMethod, codes.Unimplemented, ReasonMethod, http.StatusMethodNotAllowed, 0},
	{ErrModelNotFound, codes.NotFound, ReasonModelNotFound, http.StatusNotFound, 0},
	{ErrUnsupported, codes.InvalidArgument, ReasonUnsupported, http.StatusBadRequest, 0},
	{router.ErrNoTokenizer, codes.InvalidArgument, ReasonUnsupported, http.StatusBadRequest, 0},
	{router.ErrUnknownAdapter, codes.NotFound, ReasonAdapterNotFound, http.StatusNotFound, 0},
	{router.ErrAdapterNotReady, codes.FailedPrecondition, ReasonAdapterNotReady, http.StatusConflict, 0},
	{router.ErrLoRADisabled, codes.FailedPrecondition, ReasonLoRADisabled, http.StatusBadRequest, 0},
	{router.ErrTooManyAdapters, codes.InvalidArgument, ReasonTooManyAdapters, http.StatusBadRequest, 0},
	{router.ErrTooLong, codes.InvalidArgument, ReasonTooLong, http.StatusBadRequest, 0},
	{router.ErrOverloaded, codes.ResourceExhausted, ReasonOverloaded, http.StatusTooManyRequests, retryAfter},
	{router.ErrUnavailable, codes.Unavailable, ReasonUnavailable, http.StatusServiceUnavailable, retryAfter},
	{router.ErrNoCatalogue, codes.Unavailable, ReasonServiceUnavailable, http.StatusServiceUnavailable, retryAfter},
	{router.ErrDraining, codes.Unavailable, ReasonDraining, http.StatusServiceUnavailable, retryAfter},
	{router.ErrWorkerLost, codes.Unavailable, ReasonWorkerLost, http.StatusServiceUnavailable, retryAfter},
	{router.ErrGroupLost, codes.Unavailable, ReasonGroupLost, http.StatusServiceUnavailable, retryAfter},
	{router.ErrGroupRestarting, codes.Unavailable, ReasonGroupRestarting, http.StatusServiceUnavailable, retryAfter},
	{router.ErrAborted, codes.Canceled, ReasonAborted, clientClosed, 0},
	{router.ErrWorker, codes.Internal, ReasonWorker, http.StatusInternalServerError, 0},
	{router.ErrInvalid, codes.InvalidArgument, ReasonInvalid, http.StatusBadRequest, 0},
	{context.Canceled, codes.Canceled, ReasonCanceled, clientClosed, 0},
	{context.DeadlineExceeded, codes.DeadlineExceeded, ReasonDeadline, http.StatusGatewayTimeout, 0},
	{ErrPanic, codes.Internal, ReasonInternal, http.StatusInternalServerError, 0},
}

// reasonHTTP gives the HTTP statuses of reasons that come over gRPC and whose
// code alone would say something else (or too little).
var reasonHTTP = map[string]int{
	ReasonAdapterLoaded:      http.StatusConflict,
	ReasonAdapterInvalid:     http.StatusBadRequest,
	ReasonAdapterMismatch:    http.StatusBadRequest,
	ReasonAdapterRank:        http.StatusBadRequest,
	ReasonAdapterUnsupported: http.StatusBadRequest,
	ReasonSourceNotFound:     http.StatusNotFound,
	ReasonSourceDenied:       http.StatusForbidden,
	ReasonSourceUnavailable:  http.StatusServiceUnavailable,
	ReasonAdapterUnloaded:    http.StatusConflict,
	ReasonVersionNotFound:    http.StatusNotFound,
	ReasonVersionInUse:       http.StatusConflict,
	ReasonNoEarlierVersion:   http.StatusConflict,
	ReasonAdapterChanged:     http.StatusConflict,
	ReasonRevisionCompacted:  http.StatusBadRequest,
	ReasonPinStarvation:      http.StatusBadRequest,
	ReasonDiskFull:           http.StatusInsufficientStorage,
	ReasonReadOnly:           http.StatusInsufficientStorage,
	ReasonWorkerUnavailable:  http.StatusServiceUnavailable,
}

// httpOfReason covers the table's own reasons too: they come back over gRPC
// when the faces of one process call another's services.
var httpOfReason = func() map[string]int {
	m := maps.Clone(reasonHTTP)
	for _, r := range table {
		m[r.reason] = r.http
	}
	return m
}()

// Problem is an error as clients see it.
type Problem struct {
	Code    codes.Code
	HTTP    int
	Reason  string
	Message string
	// Fields are the wrong fields, by path in the client's message.
	Fields []FieldProblem
	// Retry is how long to wait before trying again, 0 for not at all.
	Retry time.Duration
}

// FieldProblem is one wrong field.
type FieldProblem struct{ Field, Problem string }

// Field is the first wrong field's path, or "".
func (p Problem) Field() string {
	if len(p.Fields) == 0 {
		return ""
	}
	return p.Fields[0].Field
}

// Limits of what errors repeat of a request, in bytes: gRPC sends messages in
// headers, and an echo should not be as large as what it answers.
const (
	maxMessage = 2048
	maxField   = 256
)

// Of looks an error up. gRPC statuses (of another service) keep their code,
// reason and message. Overlong texts are cut.
func Of(err error) Problem {
	p := of(err)
	p.Message = clip(p.Message, maxMessage)
	for i, f := range p.Fields {
		p.Fields[i] = FieldProblem{clip(f.Field, maxField), clip(f.Problem, maxMessage)}
	}
	return p
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func of(err error) Problem {
	for _, r := range table {
		if errors.Is(err, r.err) {
			return Problem{
				Code: r.code, HTTP: r.http, Reason: r.reason, Retry: r.retry,
				Message: err.Error(), Fields: fields(err),
			}
		}
	}
	var s interface{ GRPCStatus() *grpcstatus.Status }
	if errors.As(err, &s) && s.GRPCStatus() != nil {
		return ofGRPC(s.GRPCStatus())
	}
	return Problem{
		Code: codes.Internal, HTTP: http.StatusInternalServerError, Reason: ReasonInternal,
		Message: "internal error",
	}
}

func fields(err error) []FieldProblem {
	var fe *router.FieldError
	if errors.As(err, &fe) {
		return []FieldProblem{{fe.Field, fe.Problem}}
	}
	var me *ModelNotFoundError
	if errors.As(err, &me) && me.Field != "" {
		return []FieldProblem{{me.Field, "does not exist"}}
	}
	return nil
}

func ofGRPC(s *grpcstatus.Status) Problem {
	p := Problem{Code: s.Code(), HTTP: httpOf(s.Code()), Message: s.Message()}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			p.Reason = d.Reason
		case *errdetails.BadRequest:
			for _, v := range d.FieldViolations {
				p.Fields = append(p.Fields, FieldProblem{v.Field, v.Description})
			}
		case *errdetails.RetryInfo:
			p.Retry = d.RetryDelay.AsDuration()
		case *validate.Violations: // what the protovalidate interceptor attaches
			for _, v := range d.Violations {
				p.Fields = append(p.Fields, FieldProblem{protovalidate.FieldPathString(v.Field), v.GetMessage()})
			}
			p.Message = fieldsMessage(p.Fields)
		}
	}
	if p.Reason == "" {
		p.Reason = reasonOf(p.Code)
	}
	if h, ok := httpOfReason[p.Reason]; ok {
		p.HTTP = h
	}
	return p
}

func fieldsMessage(fs []FieldProblem) string {
	parts := make([]string, len(fs))
	for i, f := range fs {
		parts[i] = f.Field + ": " + f.Problem
	}
	return strings.Join(parts, "; ")
}

// reasonOf names statuses that came without an ErrorInfo: of gRPC itself, or
// of interceptors.
func reasonOf(c codes.Code) string {
	switch c {
	case codes.InvalidArgument:
		return ReasonInvalid
	case codes.Canceled:
		return ReasonCanceled
	case codes.DeadlineExceeded:
		return ReasonDeadline
	case codes.Unauthenticated:
		return ReasonUnauthenticated
	case codes.Unavailable:
		return ReasonServiceUnavailable
	case codes.Unimplemented:
		return ReasonUnimplemented
	default:
		return ReasonInternal
	}
}

// httpOf follows google/rpc/code.proto.
func httpOf(c codes.Code) int {
	switch c {
	case codes.OK:
		return http.StatusOK
	case codes.Canceled:
		return clientClosed
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// Entry is a reason with what it becomes, for the reference documentation.
type Entry struct {
	Reason string
	// Code is the gRPC code, codes.OK where other services choose it.
	Code codes.Code
	HTTP int
}

// Reasons lists all reasons by name.
func Reasons() []Entry {
	var out []Entry
	for reason, h := range httpOfReason {
		e := Entry{Reason: reason, HTTP: h}
		for _, r := range table {
			if r.reason == reason {
				e.Code = r.code
			}
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Reason, b.Reason) })
	return out
}
