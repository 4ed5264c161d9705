package adapters

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"chorale/adaptermgr"
	"chorale/adaptermgr/source"
	pb "chorale/proto/gen/chorale/v1"
)

// AcceptUploads lets clients send adapters, which u collects. Call it before
// the server serves.
func (s *Server) AcceptUploads(u source.Uploads) { s.uploads = u }

// uploadIdle ends an upload of which nothing comes.
const uploadIdle = time.Minute

type uploadStream = grpc.ClientStreamingServer[pb.UploadAdapterRequest, pb.UploadAdapterResponse]

// UploadAdapter implements AdapterService.
func (s *Server) UploadAdapter(stream uploadStream) error {
	resp, err := s.upload(stream)
	if err != nil {
		return Status(err).Err()
	}
	return stream.SendAndClose(resp)
}

func (s *Server) upload(stream uploadStream) (*pb.UploadAdapterResponse, error) {
	if s.uploads == nil {
		return nil, fmt.Errorf("%w: this server takes no uploads", adaptermgr.ErrUnsupported)
	}
	in := receivePieces(stream, cmp.Or(s.uploadIdle, uploadIdle))
	first, err := in.next()
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	case first.GetHeader() == nil:
		return nil, badField{"header", "must come first"}
	}
	up, err := s.uploads.NewUpload()
	if err != nil {
		return nil, adaptermgr.SourceError(first.GetHeader().GetName(), err)
	}
	defer up.Close()
	h := first.GetHeader()
	if err := collect(in, up); err != nil {
		return nil, adaptermgr.SourceError(h.GetName(), err)
	}
	load := adaptermgr.LoadRequest{
		Name: h.GetName(), Source: up.Source(), Pinned: h.GetPinned(), Labels: h.GetLabels(), Digest: h.GetDigest(),
		MustBeNew: h.GetMustBeNew(), Replace: h.GetReplace(), Owner: h.GetOwner(), Etag: h.GetEtag(),
	}
	if h.Weight != nil {
		w := int(h.GetWeight())
		load.Weight = &w
	}
	r, err := s.m.Load(stream.Context(), load)
	if err != nil {
		return nil, err
	}
	return &pb.UploadAdapterResponse{Adapter: adapterProto(r.Adapter), Revision: r.Revision, Evicted: r.Evicted}, nil
}

// collect keeps the files of a stream.
func collect(in *pieces, up *source.Upload) error {
	for {
		p, err := in.next()
		if errors.Is(err, io.EOF) {
			return up.Complete()
		}
		if err != nil {
			return err
		}
		switch part := p.GetPart().(type) {
		case *pb.UploadAdapterRequest_File:
			err = up.File(part.File)
		case *pb.UploadAdapterRequest_Data:
			_, err = up.Write(part.Data)
		default:
			err = badField{"header", "must come once"}
		}
		if err != nil {
			return err
		}
	}
}

// pieces are an upload's messages. A goroutine receives them, so that one that
// does not come can be given up; it ends with the stream's context, which ends
// when the handler returns.
type pieces struct {
	ch   chan piece
	idle time.Duration
}

type piece struct {
	r   *pb.UploadAdapterRequest
	err error
}

func receivePieces(stream uploadStream, idle time.Duration) *pieces {
	p := &pieces{ch: make(chan piece), idle: idle}
	go func() {
		for {
			r, err := stream.Recv()
			select {
			case p.ch <- piece{r, err}:
			case <-stream.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *pieces) next() (*pb.UploadAdapterRequest, error) {
	t := time.NewTimer(p.idle)
	defer t.Stop()
	select {
	case got := <-p.ch:
		return got.r, got.err
	case <-t.C:
		return nil, fmt.Errorf("%w: nothing came for %v", source.ErrStalled, p.idle)
	}
}

// UploadAdapter forwards the stream and waits until the router serves what was
// loaded.
func (f *Forwarder) UploadAdapter(in uploadStream) error {
	ctx := in.Context()
	first, err := in.Recv()
	if err != nil {
		return err
	}
	if name := first.GetHeader().GetName(); f.seen.Model().IsBase(name) {
		return Status(fmt.Errorf("adapter %q: %w: it means the base model", name, adaptermgr.ErrName)).Err()
	}
	out, err := f.to.UploadAdapter(with(ctx))
	if err != nil {
		return explain(err)
	}
	for p := first; ; {
		// A manager that has heard enough says why in its answer.
		if err := out.Send(p); err != nil {
			break
		}
		if p, err = in.Recv(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	resp, err := out.CloseAndRecv()
	if err != nil {
		return explain(err)
	}
	if err := f.wait(ctx, resp.GetRevision()); err != nil {
		return err
	}
	return in.SendAndClose(resp)
}
