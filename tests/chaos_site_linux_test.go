package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"chorale/internal/testkit"
	pb "chorale/proto/gen/chorale/v1"
)

const (
	// chaosContents is how many adapters there are, of different content.
	chaosContents = 6
	// chaosTokens is the length of the longest answers, chaosChoices how many a
	// prompt may have.
	chaosTokens, chaosChoices = 200, 2
	// fixed is an adapter that nobody changes, content 0.
	fixed = "fixed"
)

// chaosPrompts are token ids.
var chaosPrompts = [][]int32{{5, 6, 7, 8}, {20, 21, 5, 22, 23, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 10}}

// chaosSite is a split site of a group of two ranks and a group of one, each role
// at its own place of a network if the system allows that.
type chaosSite struct {
	*site
	lan *lan // nil: all on this machine's own address

	contents []string            // folders of adapters below the root
	digests  []string            // of contents
	golden   map[string][][]said // by digest ("" for the base) and prompt: choices
}

// startChaos runs the site and lets each content answer alone.
func startChaos(s *chaosSite, roles ...string) {
	t := s.t
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.json")
	s.root, s.data = filepath.Join(dir, "voices"), filepath.Join(dir, "data")
	for path, text := range map[string]string{config: ranksConfig, filepath.Join(dir, "tokenizer.json"): spelling()} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := testkit.Start(t, testkit.Options{Name: "make-dummy", Args: []string{"adapter", "make-dummy", s.root, "--base", config, "--count", fmt.Sprint(chaosContents), "--rank", "4,16,8"}})
	if code := p.Wait(t, callLimit); code != 0 {
		t.Fatalf("exit status %d: %s", code, p.Log())
	}
	s.contents = strings.Fields(p.Stdout())

	s.workerCmd = slices.Concat([]string{"worker"}, rankFlags(config), rankWorkerFlags(), []string{"--max-resident-loras", "8"})
	s.limits.each = [][]string{{"--tp-size", "2"}, nil}
	s.workers, s.addrs = make([]*testkit.Process, 2), []string{s.at("worker 0") + ":0", s.at("worker 1") + ":0"}
	for i := range s.workers {
		s.launch(i)
	}
	for i, w := range s.workers {
		s.addrs[i] = w.Message(t, "worker ready", startLimit)["grpc"].(string)
	}
	s.managerArgs = slices.Concat([]string{"adaptermgr", "--log-format", "json", "--data-dir", s.data, "--adapter-root", s.root, "--max-adapter-versions", "200", "--worker"}, s.addrs)
	s.managerAddr = s.at("manager") + ":0"
	s.launchManager()
	s.frontArgs = slices.Concat([]string{"router"}, rankFlags(config)[:2], []string{
		"--log-format", "json", "--tokenizer-path", dir, "--served-model-name", served, "--host", s.at("router"), "--adaptermgr", s.managerAddr, "--worker",
	}, s.addrs)
	s.launchFront()
	s.ready()
	s.dial()
	s.learn()
}

// at is a role's address.
func (s *chaosSite) at(role string) string {
	if s.lan == nil {
		return "127.0.0.1"
	}
	return s.lan.hosts[role].addr
}

// run starts a process at a role's place.
func (s *chaosSite) run(role string, args ...string) *testkit.Process {
	s.t.Helper()
	o := testkit.Options{Name: role, Args: args}
	if s.lan != nil {
		o.Wrap = enter(s.lan.hosts[role].pid)
	}
	return testkit.Start(s.t, o)
}

func (s *chaosSite) launch(worker int) {
	s.t.Helper()
	s.workers[worker] = s.run(fmt.Sprint("worker ", worker), s.workerArgs(worker, s.addrs[worker])...)
}

func (s *chaosSite) launchManager() {
	s.t.Helper()
	s.manager = s.run("manager", append(slices.Clone(s.managerArgs), "--listen", s.managerAddr)...)
	s.managerAddr = s.manager.Message(s.t, "adapter manager ready", startLimit)["grpc"].(string)
}

func (s *chaosSite) launchFront() {
	s.t.Helper()
	port := func(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }
	args := append(slices.Clone(s.frontArgs), "--port", "0")
	if s.http != "" {
		args = append(args, "--port", port(s.http), "--grpc-port", port(s.grpc))
	}
	s.front = s.run("router", args...)
	ready := s.front.Message(s.t, "serving", startLimit)
	s.http, s.grpc = ready["http"].(string), ready["grpc"].(string)
}

// dial connects for good: a router that comes back is found soon, one that is
// behind a cut is given up.
func (s *chaosSite) dial() {
	retry := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 300 * time.Millisecond}
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 2 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	s.conn, s.infer, s.admin = conn, pb.NewInferenceServiceClient(conn), pb.NewAdapterServiceClient(conn)
}

// spelling is a tokenizer whose every token is a word of its own, so that a text
// tells its tokens.
func spelling() string {
	vocab := map[string]int{}
	for id := range 300 {
		vocab[strings.Replace(word(int32(id)), " ", "Ġ", 1)] = id
	}
	out, _ := json.Marshal(object{
		"model":         object{"type": "BPE", "vocab": vocab, "merges": []string{}},
		"pre_tokenizer": object{"type": "ByteLevel", "add_prefix_space": false}, "decoder": object{"type": "ByteLevel"},
	})
	return string(out)
}

// word is a token's text.
func word(id int32) string { return fmt.Sprintf(" w%d", id) }

// spell is the text of tokens.
func spell(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(word(id))
	}
	return b.String()
}

// learn lets every content and the base answer alone.
func (s *chaosSite) learn() {
	s.t.Helper()
	s.golden = map[string][][]said{}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	alone := func(name string) (out [][]said) {
		for p := range chaosPrompts {
			q := question{names: []string{name}, prompts: []int{p}, n: chaosChoices, tokens: chaosTokens}
			r, err := s.infer.Generate(ctx, q.native())
			if err != nil || len(r.Generations) != chaosChoices {
				s.t.Fatalf("%q alone: %v %v", name, err, r)
			}
			choices := make([]said, chaosChoices)
			for _, g := range r.Generations {
				choices[g.ChoiceIndex] = said{ids: g.TokenIds}
			}
			out = append(out, choices)
		}
		return out
	}
	s.golden[""] = alone("")
	for _, dir := range s.contents {
		r, err := s.admin.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "learn", Source: dir})
		if err != nil {
			s.t.Fatal(err)
		}
		s.digests = append(s.digests, r.Adapter.Digest)
		s.golden[r.Adapter.Digest] = alone("learn")
		if _, err := s.admin.UnloadAdapter(ctx, &pb.UnloadAdapterRequest{Name: "learn"}); err != nil {
			s.t.Fatal(err)
		}
	}
	if len(s.golden) != chaosContents+1 {
		s.t.Fatalf("%d contents are different", len(s.golden)-1)
	}
	if _, err := s.admin.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: fixed, Source: s.contents[0], Pinned: true}); err != nil {
		s.t.Fatal(err)
	}
}

// well tells whether both groups serve what nobody changes, rightly.
func (s *chaosSite) well() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for i := range s.workers {
		if !s.connected(i) || !s.holds(ctx, i) {
			return false
		}
	}
	for p := range chaosPrompts {
		q := question{names: []string{fixed, ""}, prompts: []int{p, p}, n: 1, tokens: 20}
		if r, err := s.infer.Generate(ctx, q.native()); err != nil || len(r.Generations) != 2 {
			return false
		}
	}
	return true
}

// holds tells whether a worker has the fixed adapter, as the manager sees it.
func (s *chaosSite) holds(ctx context.Context, worker int) bool {
	r, err := s.admin.GetAdapter(ctx, &pb.GetAdapterRequest{Name: fixed})
	if err != nil {
		return false
	}
	return slices.ContainsFunc(r.Adapter.Placements, func(p *pb.GroupPlacement) bool { return p.Worker == s.addrs[worker] && p.Loaded })
}

// native is a question's request over gRPC.
func (q *question) native() *pb.GenerateRequest {
	r := &pb.GenerateRequest{Adapters: q.names, RequestId: q.id, User: q.user, Sampling: &pb.SamplingParams{
		MaxTokens: proto.Int32(int32(q.tokens)), N: proto.Int32(int32(q.n)), Temperature: proto.Float64(0.8), Seed: proto.Uint64(7), IgnoreEos: true,
	}}
	for _, p := range q.prompts {
		r.Prompts = append(r.Prompts, &pb.Prompt{Kind: &pb.Prompt_TokenIds{TokenIds: &pb.TokenIds{Ids: chaosPrompts[p]}}})
	}
	return r
}
