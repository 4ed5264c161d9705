package adapters

import (
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "chorale/proto/gen/chorale/v1"
)

// SetUploadIdle shortens the wait for an upload's next piece.
func SetUploadIdle(t *testing.T, d time.Duration) {
	t.Helper()
	old := uploadIdle
	uploadIdle = d
	t.Cleanup(func() { uploadIdle = old })
}

// RegisterBare registers a service that can do nothing.
func RegisterBare(s *grpc.Server) { pb.RegisterAdapterServiceServer(s, NewServer(nil)) }
