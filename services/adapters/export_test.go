package adapters

import (
	"time"

	"google.golang.org/grpc"

	pb "chorale/proto/gen/chorale/v1"
)

// SetUploadIdle shortens the wait for an upload's next piece, before the first.
func (s *Server) SetUploadIdle(d time.Duration) { s.uploadIdle = d }

// RegisterBare registers a service that can do nothing.
func RegisterBare(s *grpc.Server) { pb.RegisterAdapterServiceServer(s, NewServer(nil)) }
