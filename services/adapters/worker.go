package adapters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"chorale/adaptermgr"
	"chorale/internal/peft"
	pb "chorale/proto/gen/chorale/v1"
)

// chunkBytes is the size of a weights chunk, well below gRPC's 4 MiB limit.
const chunkBytes = 1 << 20

// WorkerClient is a worker group behind WorkerService.
type WorkerClient struct {
	address string
	c       pb.WorkerServiceClient
	shares  bool
}

var (
	_ adaptermgr.Worker    = (*WorkerClient)(nil)
	_ adaptermgr.Preloader = (*WorkerClient)(nil)
)

// NewWorkerClient returns the group that conn leads to, called address in
// placements. The connection stays the caller's.
func NewWorkerClient(address string, conn grpc.ClientConnInterface) *WorkerClient {
	return &WorkerClient{address: address, c: pb.NewWorkerServiceClient(conn)}
}

// ShareFiles lets the group read weights from the manager's own files instead of
// chunks: for a group in the same process, which must allow it (workers.Server's
// ShareFiles).
func (w *WorkerClient) ShareFiles() { w.shares = true }

// Address implements adaptermgr.Worker.
func (w *WorkerClient) Address() string { return w.address }

// Describe implements adaptermgr.Worker.
func (w *WorkerClient) Describe(ctx context.Context) (adaptermgr.WorkerInfo, error) {
	d, err := w.c.DescribeWorker(ctx, &pb.DescribeWorkerRequest{})
	if err != nil {
		return adaptermgr.WorkerInfo{}, workerError(err)
	}
	info := adaptermgr.WorkerInfo{
		Incarnation: d.GetIncarnation(), ModelDigest: d.GetModelDigest(), VocabSize: int(d.GetVocabSize()),
		MaxLoRAsPerBatch: int(d.GetMaxLorasPerBatch()), MaxLoRARank: int(d.GetMaxLoraRank()), LoRAEnabled: d.GetLoraEnabled(),
		MaxLoadedBytes: d.GetMaxLoadedLoraBytes(), ElementBytes: elementBytes(d.GetDtype()),
		Bandwidth: d.GetMemoryBytesPerSecond(), ChunkBytes: d.GetAdapterChunkBytes(),
		Modules: make([]peft.Module, len(d.GetModules())),
	}
	for i, m := range d.GetModules() {
		kind, err := moduleKind(m.GetKind())
		if err != nil {
			return adaptermgr.WorkerInfo{}, fmt.Errorf("worker %s: module %q: %w", w.address, m.GetName(), err)
		}
		info.Modules[i] = peft.Module{
			Name: m.GetName(), In: int(m.GetIn()), Out: int(m.GetOut()), Kind: kind, HasBias: m.GetHasBias(),
		}
	}
	return info, nil
}

// elementBytes is what a weight takes, 0 for a type that is not known.
func elementBytes(dtype string) int {
	switch dtype {
	case "bfloat16":
		return 2
	case "float32":
		return 4
	}
	return 0
}

func moduleKind(kind string) (peft.ModuleKind, error) {
	switch kind {
	case "linear":
		return peft.Linear, nil
	case "embedding":
		return peft.Embedding, nil
	case "head":
		return peft.Head, nil
	}
	return 0, fmt.Errorf("unknown kind %q", kind)
}

// Push implements adaptermgr.Worker: a header, then the weights in chunks.
func (w *WorkerClient) Push(ctx context.Context, p adaptermgr.Push) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream when reading fails
	defer cancel()
	stream, err := w.c.PushAdapter(ctx)
	if err != nil {
		return workerError(err)
	}
	header := &pb.PushAdapterHeader{Digest: p.Digest, Config: p.Config, WeightsSize: p.Size, Pinned: p.Pinned}
	file, ok := p.Weights.(*os.File)
	shared := ok && w.shares
	if shared {
		header.WeightsPath = file.Name()
	}
	err = stream.Send(&pb.PushAdapterRequest{Message: &pb.PushAdapterRequest_Header{Header: header}})
	if err == nil && !shared {
		err = sendChunks(stream, p)
	}
	var r readError
	if errors.As(err, &r) {
		return r.error
	}
	// A Send that fails says only io.EOF: the server has answered, and its
	// answer, good or bad, is what CloseAndRecv gives.
	_, err = stream.CloseAndRecv()
	return workerError(err)
}

// readError is an error of the weights, not of the stream.
type readError struct{ error }

func sendChunks(stream grpc.ClientStreamingClient[pb.PushAdapterRequest, pb.PushAdapterResponse], p adaptermgr.Push) error {
	left := p.Size
	buf := make([]byte, chunkSize(left))
	for {
		n, err := io.ReadFull(p.Weights, buf)
		if n > 0 {
			chunk := &pb.PushAdapterRequest_Chunk{Chunk: buf[:n]}
			if err := stream.Send(&pb.PushAdapterRequest{Message: chunk}); err != nil {
				return err
			}
			if p.Sent != nil {
				p.Sent()
			}
			// gRPC may still hold what it was given (retries, local transports).
			left -= int64(n)
			buf = make([]byte, chunkSize(left))
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return readError{err}
		}
	}
}

// chunkSize is the size of a chunk when so much is left, and of one that finds the end.
func chunkSize(left int64) int64 { return max(1, min(left, chunkBytes)) }

// Preload implements adaptermgr.Preloader.
func (w *WorkerClient) Preload(ctx context.Context, digests []string) error {
	_, err := w.c.PreloadAdapters(ctx, &pb.PreloadAdaptersRequest{Digests: digests})
	return workerError(err)
}

// Drop implements adaptermgr.Worker.
func (w *WorkerClient) Drop(ctx context.Context, digest string, force bool) error {
	_, err := w.c.DropAdapter(ctx, &pb.DropAdapterRequest{Digest: digest, Force: force})
	if status.Code(err) == codes.NotFound {
		return nil // it is gone already
	}
	return workerError(err)
}

// List implements adaptermgr.Worker.
func (w *WorkerClient) List(ctx context.Context) (adaptermgr.Inventory, error) {
	r, err := w.c.ListWorkerAdapters(ctx, &pb.ListWorkerAdaptersRequest{})
	if err != nil {
		return adaptermgr.Inventory{}, workerError(err)
	}
	inv := adaptermgr.Inventory{Incarnation: r.GetIncarnation()}
	for _, a := range r.GetAdapters() {
		if a.GetDraining() {
			continue // on its way out: who wants it must push it again
		}
		inv.Adapters = append(inv.Adapters, adaptermgr.Held{Digest: a.GetDigest(), Pinned: a.GetPinned()})
	}
	return inv, nil
}

// workerError tells a lost connection from a refusal.
func workerError(err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.OK:
		return nil
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return fmt.Errorf("%w: %s", adaptermgr.ErrUnavailable, s.Message())
	case codes.InvalidArgument, codes.FailedPrecondition, codes.Unimplemented:
		return fmt.Errorf("%w: %s", adaptermgr.ErrRejected, s.Message())
	}
	return fmt.Errorf("worker: %s: %s", s.Code(), s.Message())
}
