package adapters_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"chorale/adaptermgr/source"
	"chorale/adaptermgr/source/spool"
	pb "chorale/proto/gen/chorale/v1"
	"chorale/services/adapters"
)

// sendUpload sends a header and then name, content pairs in pieces.
func sendUpload(t *testing.T, c pb.AdapterServiceClient, h *pb.UploadAdapterHeader, files ...string) (*pb.UploadAdapterResponse, error) {
	t.Helper()
	s, err := c.UploadAdapter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var parts []*pb.UploadAdapterRequest
	if h != nil {
		parts = append(parts, &pb.UploadAdapterRequest{Part: &pb.UploadAdapterRequest_Header{Header: h}})
	}
	for i := 0; i < len(files); i += 2 {
		parts = append(parts, &pb.UploadAdapterRequest{Part: &pb.UploadAdapterRequest_File{File: files[i]}})
		for b := []byte(files[i+1]); len(b) > 0; {
			n := min(len(b), 1<<20)
			parts = append(parts, &pb.UploadAdapterRequest{Part: &pb.UploadAdapterRequest_Data{Data: b[:n]}})
			b = b[n:]
		}
	}
	for _, p := range parts {
		if s.Send(p) != nil {
			break // the answer says why
		}
	}
	return s.CloseAndRecv()
}

func fileText(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUpload(t *testing.T) {
	f := setup(t)
	writeAdapter(t, filepath.Join(f.root, "big"), 100_000, 0x3c, nil)
	config, weights := fileText(t, f.root, "big", source.ConfigFile), fileText(t, f.root, "big", source.WeightsFile)
	h := &pb.UploadAdapterHeader{Name: "sent", Labels: map[string]string{"team": "a"}}
	r, err := sendUpload(t, f.c, h, source.ConfigFile, config, source.WeightsFile, weights)
	if err != nil {
		t.Fatal(err)
	}
	a := r.GetAdapter()
	if a.GetState() != pb.AdapterState_ADAPTER_STATE_LOADED || a.GetLabels()["team"] != "a" || a.GetSizeBytes() != int64(len(weights)) || r.GetRevision() == 0 {
		t.Errorf("%v", a)
	}
	if string(f.worker.got) != weights {
		t.Error("the weights arrived changed")
	}
	h = &pb.UploadAdapterHeader{Name: "sent", Digest: a.GetDigest()} // the same again is no error
	if _, err := sendUpload(t, f.c, h, source.WeightsFile, weights, source.ConfigFile, config); err != nil {
		t.Error(err)
	}
	bad := &pb.UploadAdapterHeader{Name: "x"}
	other := &pb.UploadAdapterHeader{Name: "x", Digest: "sha256:" + strings.Repeat("0", 64)}
	for name, tc := range map[string]struct {
		h      *pb.UploadAdapterHeader
		files  []string
		code   codes.Code
		reason string
		field  string
		says   string
	}{
		"no header": {nil, []string{source.ConfigFile, config}, codes.InvalidArgument, "INVALID_REQUEST", "header", "first"},
		"nothing":   {bad, nil, codes.InvalidArgument, "ADAPTER_INVALID", "source", "no file"},
		"stranger":  {bad, []string{"run.sh", "x"}, codes.InvalidArgument, "ADAPTER_INVALID", "source", "run.sh"},
		"pickle":    {bad, []string{"adapter_model.bin", "x"}, codes.InvalidArgument, "ADAPTER_UNSUPPORTED", "source", "pickle"},
		"half":      {bad, []string{source.ConfigFile, config}, codes.InvalidArgument, "ADAPTER_INVALID", "source", source.WeightsFile},
		"cut short": {bad, []string{source.ConfigFile, config, source.WeightsFile, weights[:1000]}, codes.InvalidArgument, "ADAPTER_INVALID", "source", "truncated"},
		"archive":   {bad, []string{"a.zip", "no zip"}, codes.InvalidArgument, "ADAPTER_INVALID", "source", "archive"},
		"digest":    {other, []string{source.ConfigFile, config, source.WeightsFile, weights}, codes.InvalidArgument, "ADAPTER_CHECKSUM", "source", "checksum"},
		"taken":     {&pb.UploadAdapterHeader{Name: "sent", MustBeNew: true}, []string{source.ConfigFile, config, source.WeightsFile, weights}, codes.AlreadyExists, "ADAPTER_ALREADY_LOADED", "", "already loaded"},
	} {
		_, err := sendUpload(t, f.c, tc.h, tc.files...)
		checkStatus(t, name, err, tc.code, tc.reason, tc.field, tc.says)
	}
	if left, _ := filepath.Glob(filepath.Join(f.spool, "*", "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestUploadsThatDoNotEnd: one that stalls and one whose client goes leave
// nothing.
func TestUploadsThatDoNotEnd(t *testing.T) {
	f := setup(t)
	f.server.SetUploadIdle(100 * time.Millisecond)
	begin := func(ctx context.Context) pb.AdapterService_UploadAdapterClient {
		s, err := f.c.UploadAdapter(ctx)
		if err == nil {
			err = s.Send(&pb.UploadAdapterRequest{Part: &pb.UploadAdapterRequest_Header{Header: &pb.UploadAdapterHeader{Name: "x"}}})
		}
		if err == nil {
			err = s.Send(&pb.UploadAdapterRequest{Part: &pb.UploadAdapterRequest_File{File: source.ConfigFile}})
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	err := begin(t.Context()).RecvMsg(&pb.UploadAdapterResponse{})
	checkStatus(t, "stalls", err, codes.Unavailable, "ADAPTER_SOURCE_UNAVAILABLE", "source", "stalls")
	ctx, cancel := context.WithCancel(t.Context())
	begin(ctx)
	cancel()
	for range 100 {
		if left, _ := filepath.Glob(filepath.Join(f.spool, "*", "*")); len(left) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("an upload is left behind")
}

func TestUploadsAreRefusedWithoutASpool(t *testing.T) {
	c := pb.NewAdapterServiceClient(dial(t, adapters.RegisterBare))
	_, err := sendUpload(t, c, &pb.UploadAdapterHeader{Name: "x"})
	checkStatus(t, "no spool", err, codes.InvalidArgument, "ADAPTER_UNSUPPORTED", "source", "no uploads")
}

// spooled is a resolver for the fixture.
func spooled(t *testing.T, root, dir string) *source.Resolver {
	t.Helper()
	sp, err := spool.Open(spool.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	src, err := source.New(source.Options{Roots: []string{root}, Spool: sp})
	if err != nil {
		t.Fatal(err)
	}
	return src
}
