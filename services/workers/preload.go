package workers

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "chorale/proto/gen/chorale/v1"
	"chorale/worker/lora"
)

// PreloadAdapters brings adapters onto the device.
func (s *Server) PreloadAdapters(ctx context.Context, r *pb.PreloadAdaptersRequest) (*pb.PreloadAdaptersResponse, error) {
	err := s.e.PreloadAdapters(ctx, r.GetDigests())
	switch {
	case errors.Is(err, lora.ErrNotLoaded): // dropped in this very moment
		return nil, status.Error(codes.NotFound, err.Error())
	case errors.Is(err, lora.ErrTogether): // for good: a manager does not try again
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil:
		return nil, engineError(err)
	}
	return &pb.PreloadAdaptersResponse{}, nil
}
