package adapters

import (
	"fmt"
	"testing"

	"google.golang.org/grpc"

	"chorale/adaptermgr"
	pb "chorale/proto/gen/chorale/v1"
)

// recorder keeps what is sent.
type recorder struct {
	grpc.ServerStreamingServer[pb.WatchAdaptersResponse]
	sent []*pb.WatchAdaptersResponse
}

func (r *recorder) Send(m *pb.WatchAdaptersResponse) error {
	r.sent = append(r.sent, m)
	return nil
}

// TestLargeSnapshot: a catalogue of many adapters comes in parts, a change does not.
func TestLargeSnapshot(t *testing.T) {
	for _, tc := range []struct{ adapters, parts int }{{0, 1}, {1, 1}, {partAdapters, 1}, {partAdapters + 1, 2}, {3 * partAdapters, 3}} {
		c := adaptermgr.Change{Revision: 7, Snapshot: true}
		for i := range tc.adapters {
			c.Adapters = append(c.Adapters, adaptermgr.Adapter{Name: fmt.Sprint(i), History: make([]adaptermgr.Transition, 1)})
		}
		var r recorder
		if err := send(&r, c); err != nil || len(r.sent) != tc.parts {
			t.Fatalf("%d adapters: %d parts, %v", tc.adapters, len(r.sent), err)
		}
		seen := 0
		for i, m := range r.sent {
			if m.GetSnapshot() != (i == 0) || m.GetPartial() != (i < tc.parts-1) || m.GetRevision() != 7 {
				t.Errorf("part %d of %d: snapshot %v, partial %v", i, tc.parts, m.GetSnapshot(), m.GetPartial())
			}
			for _, a := range m.GetAdapters() {
				if a.GetName() != fmt.Sprint(seen) || len(a.GetHistory()) != 0 {
					t.Errorf("%v in the place of %d", a, seen)
				}
				seen++
			}
		}
		c.Snapshot, r.sent = false, nil
		if err := send(&r, c); err != nil || len(r.sent) != 1 || seen != tc.adapters {
			t.Errorf("%d adapters: %d messages, %d seen, %v", tc.adapters, len(r.sent), seen, err)
		}
	}
}
