package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"chorale/internal/testkit"
	pb "chorale/proto/gen/chorale/v1"
)

// ranksConfig is a shape that two and four ranks can share out, of noise. Its
// answers are long enough to be disturbed.
const ranksConfig = `{"model_type": "qwen3", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6,
	"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048, "rms_norm_eps": 1e-06,
	"hidden_act": "silu", "rope_theta": 10000, "tie_word_embeddings": false, "eos_token_id": 2}`

// rankVoices are the adapters of these tests.
var rankVoices = []string{"one", "two", "three"}

// rankSite is a split site whose worker groups have several ranks.
type rankSite struct {
	*site
	config string
}

// rankModel writes the model's shape and adapters for it.
func rankModel(t testing.TB) (config, root string) {
	t.Helper()
	dir := t.TempDir()
	config, root = filepath.Join(dir, "shape.json"), filepath.Join(dir, "voices")
	if err := os.WriteFile(config, []byte(ranksConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	p := testkit.Start(t, testkit.Options{Name: "make-dummy", Args: []string{"adapter", "make-dummy", root, "--base", config, "--count", "3", "--rank", "4,16"}})
	if code := p.Wait(t, callLimit); code != 0 {
		t.Fatalf("exit status %d: %s", code, p.Log())
	}
	for i, made := range strings.Fields(p.Stdout()) {
		if err := os.Rename(made, filepath.Join(root, rankVoices[i])); err != nil {
			t.Fatal(err)
		}
	}
	return config, root
}

// rankFlags are those of all roles that have the model.
func rankFlags(config string) []string {
	return []string{"--model-path", config, "--load-format", "dummy", "--log-format", "json"}
}

// rankWorkerFlags make answers of different groups the same, to the bit: sums over
// ranks round otherwise than one rank's, and bfloat16 would show it.
func rankWorkerFlags() []string {
	return []string{"--dtype", "float32", "--device", "cpu", "--threads", "1", "--max-total-tokens", "16384", "--max-lora-rank", "16"}
}

// startRanks runs a worker group per entry of sizes, a manager and a router, and
// loads the voices.
func startRanks(t testing.TB, sizes ...int) *rankSite {
	t.Helper()
	return startRanksWith(t, nil, sizes...)
}

// startRanksWith is startRanks with more flags for workers.
func startRanksWith(t testing.TB, flags []string, sizes ...int) *rankSite {
	t.Helper()
	return startRanksBeside(t, func(string) [][]string {
		var groups [][]string
		for _, size := range sizes {
			groups = append(groups, append([]string{"--tp-size", fmt.Sprint(size)}, flags...))
		}
		return groups
	})
}

// startRanksBeside runs a worker per list of flags that groups gives, a manager
// and a router, and loads the voices.
func startRanksBeside(t testing.TB, groups func(config string) [][]string) *rankSite {
	t.Helper()
	config, root := rankModel(t)
	s := &rankSite{&site{t: t, split: true, root: root, data: filepath.Join(t.TempDir(), "data")}, config}
	s.workerCmd = slices.Concat([]string{"worker"}, rankFlags(config), rankWorkerFlags())
	s.limits.each = groups(config)
	for i := range s.limits.each {
		s.workers = append(s.workers, testkit.Start(t, testkit.Options{Name: fmt.Sprintf("worker %d", i), Args: s.workerArgs(i, "127.0.0.1:0")}))
	}
	for _, w := range s.workers {
		s.addrs = append(s.addrs, w.Message(t, "worker ready", startLimit)["grpc"].(string))
	}
	s.managerArgs = slices.Concat([]string{"adaptermgr", "--log-format", "json", "--data-dir", s.data, "--adapter-root", s.root, "--worker"}, s.addrs)
	s.frontArgs = slices.Concat([]string{"router"}, rankFlags(config)[:2], []string{"--log-format", "json", "--skip-tokenizer-init", "--served-model-name", served, "--port", "0", "--worker"}, s.addrs)
	s.startManager("127.0.0.1:0")
	s.frontArgs = append(s.frontArgs, "--adaptermgr", s.managerAddr)
	s.startFront()
	for _, v := range rankVoices {
		s.load(v)
	}
	return s
}

// said is an answer in tokens.
type said struct {
	ids []int32
	err error
	why string
}

// speak reads an answer of n tokens; each gets the number so far.
func (s *site) speak(adapter string, n int32, each func(tokens int)) (a said) {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	st, err := s.infer.GenerateStream(ctx, &pb.GenerateStreamRequest{Request: &pb.GenerateRequest{
		Prompts: []*pb.Prompt{{Kind: &pb.Prompt_TokenIds{TokenIds: &pb.TokenIds{Ids: []int32{5, 6, 7, 8}}}}}, Adapters: []string{adapter},
		Sampling: &pb.SamplingParams{MaxTokens: &n, Temperature: proto.Float64(0.8), RepetitionPenalty: proto.Float64(1.1), Seed: proto.Uint64(7), IgnoreEos: true},
	}})
	if err != nil {
		return said{err: err}
	}
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return a
		}
		if err != nil {
			a.err = err
			return a
		}
		if a.ids = append(a.ids, m.TokenIds...); each != nil {
			each(len(a.ids))
		}
		if m.Finish != nil && m.Finish.Reason != pb.FinishReason_FINISH_REASON_LENGTH {
			a.why = m.Finish.Reason.String() + " " + m.Finish.Message
		}
	}
}

// voicesAndBase are all that can be asked.
func voicesAndBase() []string { return append(slices.Clone(rankVoices), "") }

// expected is what an undisturbed site says.
func (s *rankSite) expected(n int32) map[string][]int32 {
	s.t.Helper()
	want := map[string][]int32{}
	for _, v := range voicesAndBase() {
		a := s.speak(v, n, nil)
		if a.err != nil || a.why != "" || len(a.ids) != int(n) {
			s.t.Fatalf("%q: %d tokens, %v %s", v, len(a.ids), a.err, a.why)
		}
		want[v] = a.ids
	}
	return want
}

func (s *rankSite) check(when, voice string, a said, want []int32) {
	s.t.Helper()
	if a.err != nil || a.why != "" {
		s.t.Errorf("%s, %q: after %d tokens %v %s", when, voice, len(a.ids), a.err, a.why)
		return
	}
	for i := range want {
		if i >= len(a.ids) || a.ids[i] != want[i] {
			s.t.Errorf("%s, %q: %d tokens, %d wanted, the first other one is number %d", when, voice, len(a.ids), len(want), i)
			return
		}
	}
}

// pids are the processes of a worker's ranks, as it last told.
func pids(p *testkit.Process) []int {
	var out []int
	for line := range strings.Lines(p.Log()) {
		var m struct {
			Msg  string
			PIDs []int
		}
		if strings.Contains(line, "worker group ready") && json.Unmarshal([]byte(line), &m) == nil {
			out = m.PIDs
		}
	}
	return out
}

// gone tells whether a process has ended, and was buried.
func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// TestE2ERanks: groups of two and four ranks say what one rank says, however they
// share adapters out.
func TestE2ERanks(t *testing.T) {
	const n = 40
	want := startRanks(t, 1).expected(n)
	for _, tt := range []struct {
		size  int
		flags []string
	}{{size: 2}, {size: 4}, {2, []string{"--lora-sharding", "s-lora"}}} {
		size := tt.size
		s := startRanksWith(t, tt.flags, size)
		for i, a := range together(8, func(i int) said { return s.speak(voicesAndBase()[i%4], n, nil) }) {
			v := voicesAndBase()[i%4]
			s.check(fmt.Sprintf("%d ranks", size), v, a, want[v])
		}
		_, metrics := s.get("/metrics")
		for _, m := range []string{
			fmt.Sprintf(`chorale_worker_ranks{worker=%q} %d`, s.addrs[0], size),
			fmt.Sprintf(`chorale_worker_restarts_total{worker=%q} 0`, s.addrs[0]),
			fmt.Sprintf(`chorale_plan_seconds_count{worker=%q}`, s.addrs[0]),
		} {
			if !strings.Contains(string(metrics), m) {
				t.Errorf("%d ranks: no %s in the metrics", size, m)
			}
		}
		ranks := pids(s.workers[0])
		s.workers[0].Signal(terminate)
		if code := s.workers[0].Wait(t, callLimit); code != 0 {
			t.Errorf("%d ranks: exit status %d", size, code)
		}
		for _, pid := range ranks {
			if !gone(pid) {
				t.Errorf("%d ranks: process %d has outlived its supervisor", size, pid)
			}
		}
	}
}

// TestE2ERanksServe: a server that is everything can have ranks, too.
func TestE2ERanksServe(t *testing.T) {
	config, root := rankModel(t)
	s := &rankSite{&site{t: t, root: root, data: filepath.Join(t.TempDir(), "data")}, config}
	s.frontArgs = slices.Concat([]string{"serve"}, rankFlags(config), rankWorkerFlags(), []string{
		"--skip-tokenizer-init", "--served-model-name", served, "--port", "0", "--data-dir", s.data, "--tp-size", "2",
		"--lora-paths", "one=" + filepath.Join(root, "one"), "two=" + filepath.Join(root, "two"), "three=" + filepath.Join(root, "three"),
	})
	s.startFront()
	want := s.expected(20)
	ranks := pids(s.front)
	if len(ranks) != 2 {
		t.Fatalf("ranks are %v", ranks)
	}
	var once sync.Once
	for i, a := range together(4, func(i int) said {
		return s.speak(voicesAndBase()[i], 1500, func(tokens int) {
			if tokens >= 20 {
				once.Do(func() { _ = syscall.Kill(ranks[1], syscall.SIGKILL) })
			}
		})
	}) {
		v := voicesAndBase()[i]
		s.check("with a rank killed", v, said{ids: a.ids[:min(20, len(a.ids))], err: a.err, why: a.why}, want[v])
		if len(a.ids) != 1500 {
			t.Errorf("%q: %d tokens", v, len(a.ids))
		}
	}
	s.front.Signal(syscall.SIGKILL)
	for _, pid := range pids(s.front) {
		s.until(fmt.Sprintf("rank process %d is gone", pid), callLimit, func() bool { return gone(pid) })
	}
}

// TestFaultRanks: a rank that is killed or stands still takes its group out of
// service and nothing else. Running answers go on at another group, with the
// right tokens; the group comes back by itself, with its adapters; no process is
// left.
func TestFaultRanks(t *testing.T) {
	const n = 1200
	s := startRanks(t, 2, 1)
	want := s.expected(n)
	seen := pids(s.workers[0])
	for _, c := range []struct {
		what string
		sig  syscall.Signal
		rank int
	}{{"kill -9", syscall.SIGKILL, 0}, {"kill -9", syscall.SIGKILL, 1}, {"SIGSTOP", syscall.SIGSTOP, 0}, {"SIGSTOP", syscall.SIGSTOP, 1}} {
		when := fmt.Sprintf("%s of rank %d", c.what, c.rank)
		victim := pids(s.workers[0])[c.rank]
		out := make(chan time.Duration, 1)
		var once sync.Once
		strike := func() {
			began := time.Now()
			_ = syscall.Kill(victim, c.sig)
			go func() {
				s.until("the group is out of service", callLimit, func() bool { return !s.connected(0) })
				out <- time.Since(began)
			}()
		}
		for i, a := range together(8, func(i int) said {
			return s.speak(voicesAndBase()[i%4], n, func(tokens int) {
				if tokens >= n/10 {
					once.Do(strike)
				}
			})
		}) {
			v := voicesAndBase()[i%4]
			s.check(when, v, a, want[v])
		}
		struck := time.Now()
		took := <-out
		s.placed(0, len(rankVoices))
		t.Logf("%s: out of service after %v, back with its adapters %v after the last answer", when, took.Round(time.Millisecond), time.Since(struck).Round(time.Millisecond))
		if took > 8*time.Second {
			t.Errorf("%s: out of service after %v", when, took)
		}
		for i, a := range together(4, func(i int) said { return s.speak(voicesAndBase()[i], 40, nil) }) {
			v := voicesAndBase()[i]
			s.check("after "+when, v, a, want[v][:40])
		}
		s.buried(seen)
		seen = append(seen, pids(s.workers[0])...)
	}
	// The supervisor's own end takes its ranks along.
	last := pids(s.workers[0])
	s.workers[0].Signal(syscall.SIGKILL)
	for _, pid := range last {
		s.until(fmt.Sprintf("process %d has gone with its supervisor", pid), callLimit, func() bool { return gone(pid) })
	}
}

// freeAddress is one that nobody listens at.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// connected tells whether the router can use a worker group.
func (s *site) connected(worker int) bool {
	for _, g := range s.info().WorkerGroups {
		if g.Address == s.addrs[worker] {
			return g.Connected
		}
	}
	return false
}

// buried checks that processes of earlier starts have ended.
func (s *site) buried(earlier []int) {
	s.t.Helper()
	now := pids(s.workers[0])
	for _, pid := range earlier {
		if !slices.Contains(now, pid) && !gone(pid) {
			s.t.Errorf("process %d of an earlier start still runs", pid)
		}
	}
}

// TestFaultRanksAlone: with no other group, running answers wait until theirs is
// back, and go on there.
func TestFaultRanksAlone(t *testing.T) {
	const n = 1200
	s := startRanks(t, 2)
	want := s.expected(n)
	for rank := range 2 {
		victim := pids(s.workers[0])[rank]
		var once sync.Once
		for i, a := range together(4, func(i int) said {
			return s.speak(voicesAndBase()[i], n, func(tokens int) {
				if tokens >= n/4 {
					once.Do(func() { _ = syscall.Kill(victim, syscall.SIGKILL) })
				}
			})
		}) {
			v := voicesAndBase()[i]
			s.check(fmt.Sprintf("rank %d killed", rank), v, a, want[v])
		}
		s.placed(0, len(rankVoices))
	}
}

// TestE2ERanksByHand: ranks that something else starts meet over TCP; those with
// other options, or without the secret, are refused with both values.
func TestE2ERanksByHand(t *testing.T) {
	config, _ := rankModel(t)
	leader := freeAddress(t)
	rank := func(name string, r int, token string, more ...string) *testkit.Process {
		args := slices.Concat([]string{"worker"}, rankFlags(config), rankWorkerFlags(), []string{"--tp-size", "2", "--tp-rank", fmt.Sprint(r), "--tp-leader", leader}, more)
		return testkit.Start(t, testkit.Options{Name: name, Args: args, Env: []string{"CHORALE_TP_TOKEN=" + token}})
	}
	wrong := rank("with another dtype", 1, "s3cret", "--dtype", "bfloat16")
	first := rank("its leader", 0, "s3cret", "--listen", "127.0.0.1:0")
	for _, p := range []*testkit.Process{wrong, first} {
		if code := p.Wait(t, startLimit); code != 1 || !strings.Contains(p.Log(), "dtype is bfloat16 on rank 1 and float32 on the leader") {
			t.Errorf("%s: exit status %d: %s", p.Name, code, p.Log())
		}
	}
	stranger := rank("without the secret", 1, "guess")
	lead := rank("rank 0", 0, "s3cret", "--listen", "127.0.0.1:0")
	if code := stranger.Wait(t, startLimit); code != 1 || !strings.Contains(stranger.Log(), "another session") {
		t.Errorf("a stranger: exit status %d: %s", code, stranger.Log())
	}
	follow := rank("rank 1", 1, "s3cret")
	lead.Message(t, "worker ready", startLimit)
	// Each is started again when the other is lost.
	follow.Kill()
	lead.Message(t, "the worker group is lost; its ranks are started again", startLimit)
	again := rank("rank 1 again", 1, "s3cret")
	again.Message(t, "worker group ready", startLimit)
	for _, p := range []*testkit.Process{again, lead} {
		p.Signal(terminate)
		if code := p.Wait(t, startLimit); code != 0 {
			t.Errorf("%s: exit status %d", p.Name, code)
		}
	}
	for _, log := range []string{lead.Log(), again.Log(), stranger.Log()} {
		if strings.Contains(log, "s3cret") {
			t.Error("the secret is in the log")
		}
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--tp-size", "3", "--listen", "127.0.0.1:0"}, "4 query heads do not divide by 3 ranks"},
		{[]string{"--tp-size", "2", "--tp-rank", "2", "--listen", "127.0.0.1:0"}, "--tp-rank 2"},
		{[]string{"--tp-size", "2", "--tp-rank", "1"}, "--tp-leader"},
		{[]string{"--tp-size", "2", "--tp-leader", "x:1", "--listen", "127.0.0.1:0"}, "--tp-rank"},
		{[]string{"--tp-size", "2"}, "--listen"},
		{[]string{"--tp-size", "2", "--device", "cpu,cpu,cpu", "--listen", "127.0.0.1:0"}, "names 3 devices for 2 ranks"},
	} {
		fails(t, testkit.Options{Args: slices.Concat([]string{"worker"}, rankFlags(config), c.args)}, 1, c.says)
	}
}
