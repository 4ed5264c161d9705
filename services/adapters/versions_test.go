package adapters_test

import (
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "chorale/proto/gen/chorale/v1"
)

// reason is the code and reason of an error.
func reason(err error) (codes.Code, string, map[string]string) {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return status.Code(err), info.GetReason(), info.GetMetadata()
		}
	}
	return status.Code(err), "", nil
}

func wantReason(t *testing.T, what string, err error, code codes.Code, want string) {
	t.Helper()
	if c, r, _ := reason(err); c != code || r != want {
		t.Errorf("%s: %v %s, want %v %s (%v)", what, c, r, code, want, err)
	}
}

func TestVersionsOverTheWire(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	for i, n := range []string{"one", "two"} {
		writeAdapter(t, filepath.Join(f.root, n), 2, byte(0x3c+i), nil)
	}
	ten := int32(10)
	first, err := f.c.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "a", Source: "one", Owner: "team", Labels: map[string]string{"k": "v"}, RequestId: "r1"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.c.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "a", Source: "two", Weight: &ten})
	if err != nil {
		t.Fatal(err)
	}
	a := r.GetAdapter()
	vs := a.GetVersions()
	if len(vs) != 2 || a.GetVersion() != 1 || vs[0].GetWeight() != 90 || vs[1].GetWeight() != 10 || vs[1].GetSource() != "two" ||
		vs[1].GetState() != pb.AdapterState_ADAPTER_STATE_LOADED || len(vs[1].GetPlacements()) != 1 || vs[1].GetSumRanks() != 2 ||
		a.GetOwner() != "team" || len(a.GetHistory()) == 0 || a.GetEtag() == "" || a.GetEtag() == first.GetAdapter().GetEtag() {
		t.Errorf("%v", a)
	}
	c, err := f.c.CanaryAdapter(ctx, &pb.CanaryAdapterRequest{Name: "a", Version: 2, Weight: 100, RequestId: "r2"})
	if err != nil || c.GetAdapter().GetVersion() != 2 || c.GetAdapter().GetDigest() != vs[1].GetDigest() {
		t.Errorf("%v, %v", c, err)
	}
	b, err := f.c.RollbackAdapter(ctx, &pb.RollbackAdapterRequest{Name: "a", Etag: c.GetAdapter().GetEtag()})
	if err != nil || b.GetAdapter().GetVersion() != 1 {
		t.Errorf("%v, %v", b, err)
	}
	l, err := f.c.ListAdapters(ctx, &pb.ListAdaptersRequest{Owner: "team", Labels: map[string]string{"k": "v"}})
	if err != nil || len(l.GetAdapters()) != 1 || len(l.GetAdapters()[0].GetHistory()) != 0 {
		t.Errorf("%v, %v", l, err)
	}
	if l, err = f.c.ListAdapters(ctx, &pb.ListAdaptersRequest{Owner: "others"}); err != nil || len(l.GetAdapters()) != 0 {
		t.Errorf("%v, %v", l, err)
	}

	_, err = f.c.RollbackAdapter(ctx, &pb.RollbackAdapterRequest{Name: "a"})
	wantReason(t, "nothing before", err, codes.FailedPrecondition, "NO_EARLIER_VERSION")
	_, err = f.c.RollbackAdapter(ctx, &pb.RollbackAdapterRequest{Name: "a", Version: 9})
	wantReason(t, "no such version", err, codes.NotFound, "ADAPTER_VERSION_NOT_FOUND")
	_, err = f.c.UpdateAdapter(ctx, &pb.UpdateAdapterRequest{Name: "a", Etag: c.GetAdapter().GetEtag()})
	wantReason(t, "stale", err, codes.Aborted, "ADAPTER_CHANGED")
	_, err = f.c.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "a", Source: "two", RequestId: "r1"})
	wantReason(t, "request id", err, codes.InvalidArgument, "REQUEST_ID_REUSED")
	_, err = f.c.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "new", Source: "two", Weight: &ten})
	wantReason(t, "canary beside nothing", err, codes.InvalidArgument, "INVALID_REQUEST")
	_, err = f.c.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "new", Source: "two", Digest: "sha256:00"})
	wantReason(t, "another digest", err, codes.InvalidArgument, "ADAPTER_CHECKSUM")
	_, err = f.c.UnloadAdapter(ctx, &pb.UnloadAdapterRequest{Name: "a@1"})
	wantReason(t, "the version that answers", err, codes.FailedPrecondition, "ADAPTER_VERSION_IN_USE")
	if _, err = f.c.UnloadAdapter(ctx, &pb.UnloadAdapterRequest{Name: "a@2", DrainTimeout: durationpb.New(time.Second)}); err != nil {
		t.Error(err)
	}
	for range 2 {
		if _, err = f.c.UnloadAdapter(ctx, &pb.UnloadAdapterRequest{Name: "a", RequestId: "r3"}); err != nil {
			t.Error(err)
		}
	}
	if _, err = f.c.UnloadAdapter(ctx, &pb.UnloadAdapterRequest{Name: "a", AllowMissing: true}); err != nil {
		t.Error(err)
	}
}

func TestWatchGoesOnOverTheWire(t *testing.T) {
	f := setup(t)
	writeAdapter(t, filepath.Join(f.root, "a"), 2, 0x3c, nil)
	from := f.load(t, "a", "a").GetRevision()
	f.load(t, "b", "a")
	stream, err := f.c.WatchAdapters(t.Context(), &pb.WatchAdaptersRequest{FromRevision: from})
	if err != nil {
		t.Fatal(err)
	}
	c, err := stream.Recv()
	if n := len(c.GetAdapters()); err != nil || c.GetSnapshot() || n == 0 || c.GetAdapters()[n-1].GetName() != "b" {
		t.Errorf("%v, %v", c, err)
	}
	stream, err = f.c.WatchAdapters(t.Context(), &pb.WatchAdaptersRequest{FromRevision: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantReason(t, "too old", err, codes.OutOfRange, "REVISION_COMPACTED")
	_, _, meta := reason(err)
	if n, err := strconv.ParseUint(meta["list_revision"], 10, 64); err != nil || n <= from {
		t.Errorf("list from %q", meta["list_revision"])
	}
}

func TestValidateTellsCost(t *testing.T) {
	f := setup(t)
	writeAdapter(t, filepath.Join(f.root, "a"), 4, 0x3c, nil)
	v, err := f.c.ValidateAdapter(t.Context(), &pb.ValidateAdapterRequest{Source: "a"})
	if err != nil || !v.GetValid() {
		t.Fatalf("%v, %v", v, err)
	}
	const bytes = 4 * (hidden + hidden) * 2
	if c := v.GetCost(); v.GetSumRanks() != 4 || c.GetHostBytes() != bytes || c.GetDeviceBytes() != 2<<20 || c.GetStepBytes() != bytes || c.GetStepMicroseconds() != bytes/64. {
		t.Errorf("%v", v)
	}
}
