package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	choralev1 "chorale/proto/gen/chorale/v1"
)

func TestWriteAdapter(t *testing.T) {
	zone := time.Local
	time.Local = time.UTC
	defer func() { time.Local = zone }()
	at := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	loaded, ready := choralev1.AdapterState_ADAPTER_STATE_LOADED, choralev1.AdapterState_ADAPTER_STATE_READY
	a := &choralev1.Adapter{
		Name: "voice", State: loaded, Version: 2, Pinned: true, Owner: "team", Labels: map[string]string{"b": "2", "a": "1"}, Etag: "17",
		Created: at, Updated: at, LastUsed: at, BaseModel: "SmolLM2",
		Loading: &choralev1.AdapterProgress{State: choralev1.AdapterState_ADAPTER_STATE_FETCHING, Source: "ORG/NAME", BytesDone: 1 << 20, BytesTotal: 4 << 20},
		Versions: []*choralev1.AdapterVersion{
			{Number: 1, State: ready, MaxRank: 8, SizeBytes: 100, Created: at, Source: "one", Digest: "sha256:0123456789abcdef"},
			{
				Number: 2, State: loaded, Weight: 90, Ranks: []int32{8, 16}, SizeBytes: 2 << 20, Created: at, Source: "two", Digest: "sha256:1123456789abcdef",
				Placements: []*choralev1.GroupPlacement{{Worker: "w0", Loaded: true}, {Worker: "w1", Error: "out of memory"}},
			},
			{Number: 3, State: loaded, Weight: 10, Ranks: []int32{4}, SizeBytes: 1 << 10, Created: at, Source: "three", Digest: "sha256:2123456789abcdef"},
		},
		History: []*choralev1.AdapterTransition{
			{Time: at, State: choralev1.AdapterState_ADAPTER_STATE_FETCHING, Reason: "a client loads it"},
			{Time: at, State: loaded, Version: 2, Reason: "worker w0 has it\x1b[1m"},
		},
	}
	var b strings.Builder
	if err := writeAdapter(&b, a); err != nil {
		t.Fatal(err)
	}
	b.WriteString("\n")
	if err := writeChange(&b, &choralev1.WatchAdaptersResponse{Revision: 7, Adapters: []*choralev1.Adapter{a}, Removed: []string{"gone"}}); err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "adapter.txt", b.String())
}
