package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "chorale/proto/gen/chorale/v1"
)

// testVersions: each answer is that of the version it says, whoever asks for it
// in which way, through canary, promotion and roll-back.
func testVersions(s *site) {
	ctx := context.Background()
	texts := map[uint64]string{1: s.say(prompt, "alto", 8), 2: s.say(prompt, "bass", 8)}
	load := func(source string, weight *int32) *pb.Adapter {
		r, err := s.admin.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "voice", Source: source, Weight: weight})
		if err != nil {
			s.t.Fatal(err)
		}
		return r.GetAdapter()
	}
	half := int32(50)
	load("alto", nil)
	a := load("bass", &half)
	if a.GetVersion() != 1 || len(a.GetVersions()) != 2 || a.GetVersions()[1].GetWeight() != 50 {
		s.t.Fatalf("the canary: %v", a)
	}
	for ref, want := range map[string]uint64{"voice@1": 1, "voice@2": 2, "voice@" + a.GetVersions()[1].GetDigest(): 2} {
		if got := s.say(prompt, ref, 8); got != texts[want] {
			s.t.Errorf("%s says %q, want %q", ref, got, texts[want])
		}
	}
	ask := func(user string) (version uint64) {
		code, body, header := s.do("POST", "/v1/completions", object{"model": "voice", "prompt": prompt, "max_tokens": 8, "temperature": 0, "user": user})
		who := header.Get("X-Chorale-Adapter")
		if _, err := fmt.Sscanf(who, "voice@%d;", &version); code != 200 || err != nil {
			s.t.Fatalf("%d %q %s", code, who, body)
		}
		var out struct{ Choices []struct{ Text string } }
		if err := json.Unmarshal(body, &out); err != nil || len(out.Choices) != 1 {
			s.t.Fatalf("%v in %s", err, body)
		}
		if out.Choices[0].Text != texts[version] || !strings.HasSuffix(who, a.GetVersions()[version-1].GetDigest()) {
			s.t.Errorf("%s says %q, want %q", who, out.Choices[0].Text, texts[version])
		}
		return version
	}
	const users = 12
	var first [users]uint64
	seen := map[uint64]bool{}
	for i := range first {
		first[i] = ask(fmt.Sprint("user-", i))
		seen[first[i]] = true
	}
	for i := range first {
		if v := ask(fmt.Sprint("user-", i)); v != first[i] {
			s.t.Errorf("user %d had version %d and gets %d", i, first[i], v)
		}
	}
	if len(seen) != 2 {
		s.t.Errorf("%d users, and only versions %v", users, seen)
	}
	only := func(what string, want uint64, err error) {
		if err != nil {
			s.t.Fatalf("%s: %v", what, err)
		}
		for i := range 4 {
			if v := ask(fmt.Sprint("user-", i)); v != want {
				s.t.Errorf("%s: version %d answers", what, v)
			}
		}
	}
	_, err := s.admin.CanaryAdapter(ctx, &pb.CanaryAdapterRequest{Name: "voice", Version: 2, Weight: 100})
	only("promoted", 2, err)
	_, err = s.admin.RollbackAdapter(ctx, &pb.RollbackAdapterRequest{Name: "voice"})
	only("rolled back", 1, err)
	if _, err := s.admin.RollbackAdapter(ctx, &pb.RollbackAdapterRequest{Name: "voice"}); status.Code(err) != codes.FailedPrecondition {
		s.t.Error(err)
	}
	s.refused("/v1/completions", object{"model": "voice@7", "prompt": prompt}, 404, "voice@7")
	s.unload("voice")
}
