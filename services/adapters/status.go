package adapters

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"chorale/adaptermgr"
)

// Domain is the ErrorInfo's domain of all errors.
const Domain = "chorale"

// errBadField matches every badField.
var errBadField = errors.New("bad field")

// row says what clients see of an error.
type row struct {
	err    error
	code   codes.Code
	reason string
	// field of the request that is at fault, empty for none.
	field string
}

// table is searched in order: the first error that matches counts.
var table = []row{
	{adaptermgr.ErrUnloaded, codes.Aborted, "ADAPTER_UNLOADED", ""},
	{adaptermgr.ErrClosed, codes.Unavailable, "SHUTTING_DOWN", ""},
	{adaptermgr.ErrDisabled, codes.FailedPrecondition, "LORA_DISABLED", ""},
	{adaptermgr.ErrDiskFull, codes.ResourceExhausted, "DISK_FULL", ""},
	{adaptermgr.ErrReadOnly, codes.FailedPrecondition, "STORAGE_READ_ONLY", ""},
	{adaptermgr.ErrVersionNotFound, codes.NotFound, "ADAPTER_VERSION_NOT_FOUND", ""},
	{adaptermgr.ErrVersionInUse, codes.FailedPrecondition, "ADAPTER_VERSION_IN_USE", ""},
	{adaptermgr.ErrNoEarlier, codes.FailedPrecondition, "NO_EARLIER_VERSION", ""},
	{adaptermgr.ErrStale, codes.Aborted, "ADAPTER_CHANGED", ""},
	{adaptermgr.ErrRequestID, codes.InvalidArgument, "REQUEST_ID_REUSED", "request_id"},
	{adaptermgr.ErrWeight, codes.InvalidArgument, "INVALID_REQUEST", "weight"},
	{adaptermgr.ErrCompacted, codes.OutOfRange, "REVISION_COMPACTED", "from_revision"},
	{adaptermgr.ErrNotFound, codes.NotFound, "ADAPTER_NOT_FOUND", ""},
	{adaptermgr.ErrExists, codes.AlreadyExists, "ADAPTER_ALREADY_LOADED", ""},
	{adaptermgr.ErrName, codes.InvalidArgument, "INVALID_REQUEST", "name"},
	{adaptermgr.ErrLabel, codes.InvalidArgument, "INVALID_REQUEST", "labels"},
	{errBadField, codes.InvalidArgument, "INVALID_REQUEST", ""},
	{adaptermgr.ErrStarvation, codes.FailedPrecondition, "PIN_STARVATION", "pinned"},
	{adaptermgr.ErrCapacity, codes.FailedPrecondition, "TOO_MANY_ADAPTERS", ""},
	{adaptermgr.ErrHostMemory, codes.FailedPrecondition, "TOO_MANY_ADAPTERS", ""},
	{adaptermgr.ErrSourceNotFound, codes.NotFound, "ADAPTER_SOURCE_NOT_FOUND", "source"},
	{adaptermgr.ErrSourceDenied, codes.FailedPrecondition, "ADAPTER_SOURCE_DENIED", "source"},
	{adaptermgr.ErrSourceUnavailable, codes.Unavailable, "ADAPTER_SOURCE_UNAVAILABLE", "source"},
	{adaptermgr.ErrRankTooLarge, codes.InvalidArgument, "ADAPTER_RANK_TOO_LARGE", "source"},
	{adaptermgr.ErrUnsupported, codes.InvalidArgument, "ADAPTER_UNSUPPORTED", "source"},
	{adaptermgr.ErrIncompatible, codes.InvalidArgument, "ADAPTER_INCOMPATIBLE", "source"},
	{adaptermgr.ErrDigest, codes.InvalidArgument, "ADAPTER_CHECKSUM", "source"},
	{adaptermgr.ErrTooLarge, codes.InvalidArgument, "ADAPTER_INVALID", "source"},
	{adaptermgr.ErrInvalid, codes.InvalidArgument, "ADAPTER_INVALID", "source"},
	{adaptermgr.ErrUnavailable, codes.Unavailable, "WORKER_UNAVAILABLE", ""},
	{context.Canceled, codes.Canceled, "CANCELED", ""},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE_EXCEEDED", ""},
}

// Status turns an error of the adapter manager into a gRPC status with
// google.rpc details: ErrorInfo always, BadRequest when a field is at fault.
// An error that it does not know is Internal, with its text: only
// administrators call. nil is OK, and a status stays what it is.
func Status(err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	r := row{code: codes.Internal, reason: "INTERNAL"}
	known := false
	for _, candidate := range table {
		if known = errors.Is(err, candidate.err); known {
			r = candidate
			break
		}
	}
	if s, ok := status.FromError(err); ok && !known {
		return s
	}
	// Foreign names may be any bytes, a proto string may not.
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	info := &errdetails.ErrorInfo{Reason: r.reason, Domain: Domain}
	var compacted *adaptermgr.CompactedError
	if errors.As(err, &compacted) {
		info.Metadata = map[string]string{"list_revision": strconv.FormatUint(compacted.List, 10)}
	}
	details := []protoadapt.MessageV1{info}
	var bad badField
	if errors.As(err, &bad) {
		r.field = bad.field
	}
	if r.field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: r.field, Description: text},
		}})
	}
	s := status.New(r.code, text)
	if with, err := s.WithDetails(details...); err == nil {
		return with
	}
	return s
}
