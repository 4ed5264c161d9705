package status

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// GRPC gives the problem as a gRPC status with google.rpc details: ErrorInfo
// always, BadRequest for wrong fields, RetryInfo where waiting helps.
func (p Problem) GRPC() *grpcstatus.Status {
	if p.Code == codes.OK {
		return grpcstatus.New(codes.OK, "")
	}
	s := grpcstatus.New(p.Code, valid(p.Message))
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: p.Reason, Domain: Domain}}
	if len(p.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range p.Fields {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: valid(f.Field), Description: valid(f.Problem)})
		}
		details = append(details, bad)
	}
	if p.Retry > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(p.Retry)})
	}
	with, err := s.WithDetails(details...)
	if err != nil { // a detail could not be marshalled: the bare status must do
		return s
	}
	return with
}

// GRPC turns any error into one that gRPC sends as it should; nil stays nil
// and errors that are statuses with an ErrorInfo of ours stay as they are.
func GRPC(err error) error {
	if err == nil {
		return nil
	}
	return Of(err).GRPC().Err()
}

// Reason gives the ErrorInfo reason of an error, of this process or another.
func Reason(err error) string { return Of(err).Reason }

// valid makes a text fit for a proto string: foreign names may be any bytes.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
