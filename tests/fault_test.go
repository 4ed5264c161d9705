package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"chorale/internal/testkit"
	pb "chorale/proto/gen/chorale/v1"
)

// answer is a gRPC stream that was read to its end.
type answer struct {
	text   string
	finish pb.FinishReason
	why    string
	err    error
}

// seeded is a request whose answer is the same each time.
func seeded(adapter string, n int32) *pb.GenerateRequest {
	return &pb.GenerateRequest{Prompts: []*pb.Prompt{textPrompt(prompt)}, Adapters: []string{adapter}, Sampling: &pb.SamplingParams{
		MaxTokens: &n, Temperature: proto.Float64(0.9), RepetitionPenalty: proto.Float64(1.1), Seed: proto.Uint64(11), IgnoreEos: true,
	}}
}

// read reads a stream; each gets the tokens so far.
func (s *site) read(req *pb.GenerateRequest, each func(tokens int)) (a answer) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	st, err := s.infer.GenerateStream(ctx, &pb.GenerateStreamRequest{Request: req})
	if err != nil {
		return answer{err: err}
	}
	tokens := 0
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return a
		}
		if err != nil {
			a.err = err
			return a
		}
		a.text += m.Text
		if tokens += len(m.TokenIds); each != nil {
			each(tokens)
		}
		if m.Finish != nil {
			a.finish, a.why = m.Finish.Reason, m.Finish.Message
		}
	}
}

// TestFaultWorker: a worker is killed while both compute. Its answers go on at
// the other, with the right text; the other's are undisturbed. It comes back,
// gets its adapters and serves again.
func TestFaultWorker(t *testing.T) {
	s := startSplit(t, limits{})
	all := []string{"alto", "bass", "canto", ""}
	want := map[string]string{}
	for _, n := range all {
		if n != "" {
			s.load(n)
		}
		want[n] = s.read(seeded(n, 40), nil).text
	}
	// Rounds, so that each worker dies, and early and late in an answer.
	for round, after := range []int{1, 12, 28} {
		victim := round % 2
		var kill sync.Once
		got := together(2*len(all), func(i int) answer {
			return s.read(seeded(all[i%len(all)], 40), func(tokens int) {
				if tokens >= after {
					kill.Do(func() { s.workers[victim].Signal(sigkill) })
				}
			})
		})
		for i, a := range got {
			n := all[i%len(all)]
			if a.err != nil || a.finish != pb.FinishReason_FINISH_REASON_LENGTH || a.text != want[n] {
				t.Errorf("round %d, answer %d of %q: %v %v %s, %q, undisturbed %q", round, i, n, a.err, a.finish, a.why, a.text, want[n])
			}
		}
		// One worker alone serves all.
		for i, a := range together(len(all), func(i int) answer { return s.read(seeded(all[i], 40), nil) }) {
			if n := all[i]; a.text != want[n] || a.err != nil {
				t.Errorf("round %d, %q with one worker: %v %q, want %q", round, n, a.err, a.text, want[n])
			}
		}
		s.startWorker(victim)
		s.placed(victim, 3)
		for i, a := range together(2*len(all), func(i int) answer { return s.read(seeded(all[i%len(all)], 40), nil) }) {
			if n := all[i%len(all)]; a.text != want[n] || a.err != nil {
				t.Errorf("round %d, %q with both again: %v %q, want %q", round, n, a.err, a.text, want[n])
			}
		}
	}
	s.idle(callLimit)
}

// TestFaultWorkerStopped: a worker stands still in mid-answer, as behind a cut
// network: nobody closes its connection. Its answers go on at the other all the
// same, and when it wakes it serves again.
func TestFaultWorkerStopped(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := startSplit(t, limits{})
	all := []string{"alto", ""}
	s.load("alto")
	want := map[string]string{}
	for _, n := range all {
		want[n] = s.read(seeded(n, 40), nil).text
	}
	var stop sync.Once
	began := time.Now()
	got := together(4*len(all), func(i int) answer {
		return s.read(seeded(all[i%len(all)], 40), func(tokens int) {
			if tokens >= 12 {
				stop.Do(func() { s.workers[0].Signal(syscall.SIGSTOP) })
			}
		})
	})
	t.Logf("all answers after %v", time.Since(began).Round(100*time.Millisecond))
	s.workers[0].Signal(syscall.SIGCONT)
	for i, a := range got {
		if n := all[i%len(all)]; a.err != nil || a.finish != pb.FinishReason_FINISH_REASON_LENGTH || a.text != want[n] {
			t.Errorf("answer %d of %q: %v %v %s, %q, undisturbed %q", i, n, a.err, a.finish, a.why, a.text, want[n])
		}
	}
	s.placed(0, 1)
	s.idle(callLimit)
}

const sigkill = syscall.SIGKILL

// placed waits until a worker has n adapters and the router is connected to it.
func (s *site) placed(worker, n int) {
	s.t.Helper()
	s.until(fmt.Sprintf("worker %d has %d adapters again", worker, n), startLimit, func() bool {
		list, err := s.admin.ListAdapters(context.Background(), &pb.ListAdaptersRequest{})
		if err != nil {
			return false
		}
		have := 0
		for _, a := range list.Adapters {
			for _, p := range a.Placements {
				if p.Worker == s.addrs[worker] && p.Loaded {
					have++
				}
			}
		}
		for _, g := range s.info().WorkerGroups {
			if g.Address == s.addrs[worker] && !g.Connected {
				return false
			}
		}
		return have == n
	})
}

// TestFaultAllWorkers: with no worker left, answers end with a typed error, or
// go on when a worker is back; new requests are told to come again.
func TestFaultAllWorkers(t *testing.T) {
	s := startSplit(t, limits{})
	s.load("alto")
	want := s.read(seeded("alto", 60), nil).text
	var kill sync.Once
	done := make(chan answer, 1)
	began := make(chan struct{})
	go func() {
		done <- s.read(seeded("alto", 60), func(int) { kill.Do(func() { close(began) }) })
	}()
	<-began
	for _, w := range s.workers {
		w.Kill()
	}
	s.until("the loss is noticed", callLimit, func() bool { code, _ := s.get("/health"); return code == 503 })
	s.refused("/v1/completions", object{"model": served, "prompt": "x", "max_tokens": 1}, 503, "no worker group is available")
	s.refused("/generate", greedy(prompt, "ghost", 1), 400, "ghost")
	_, err := s.infer.Generate(context.Background(), seeded("alto", 1))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("gRPC without workers: %v", err)
	}
	for i := range s.workers {
		s.startWorker(i)
	}
	a := <-done
	if a.err != nil && status.Code(a.err) != codes.Unavailable || a.err == nil && a.text != want {
		t.Errorf("the running answer: %v %v %s %q, want %q", a.err, a.finish, a.why, a.text, want)
	}
	t.Logf("the running answer: error %v, right: %v", a.err, a.text == want)
	for i := range s.workers {
		s.placed(i, 1)
	}
	if a := s.read(seeded("alto", 60), nil); a.text != want {
		t.Errorf("afterwards: %+v, want %q", a, want)
	}
}

// TestFaultRouter: the router is killed; when it is back everything is served
// as before, and the workers have thrown away what it had asked for.
func TestFaultRouter(t *testing.T) {
	s := startSplit(t, limits{})
	s.load("alto")
	want := s.read(seeded("alto", 30), nil).text
	ended := s.begin("alto", 400)
	s.front.Kill()
	if got := <-ended; !strings.HasPrefix(got, "ERROR") {
		t.Errorf("a stream of a killed router: %q", got)
	}
	s.startFront()
	s.idle(10 * time.Second)
	if got := s.say(prompt, "alto", 4); got == "" {
		t.Error("nothing said")
	}
	s.until("a gRPC client is connected again", callLimit, func() bool {
		a := s.read(seeded("alto", 30), nil)
		return a.err == nil && a.text == want
	})
}

// TestFaultManager: inference goes on without the adapter manager; when it is
// back its registry is whole and adapters can be loaded and unloaded.
func TestFaultManager(t *testing.T) {
	s := startSplit(t, limits{})
	for _, n := range names[:3] {
		s.load(n)
	}
	want := map[string]string{}
	for _, n := range names[:3] {
		want[n] = s.say(prompt, n, 8)
	}
	ended := s.begin("alto", 60)
	long := s.say(prompt, "alto", 60)
	s.manager.Kill()
	for _, n := range names[:3] {
		if got := s.say(prompt, n, 8); got != want[n] {
			t.Errorf("%s without a manager: %q, want %q", n, got, want[n])
		}
	}
	if got := <-ended; got != long {
		t.Errorf("the running answer: %q, want %q", got, long)
	}
	if code, raw := s.post("/chorale/v1/adapters", object{"name": "duo", "source": "duo"}); code != 503 {
		t.Errorf("a load without a manager: %d %s", code, raw)
	}
	s.startManager(s.managerAddr)
	s.until("adapters can be loaded", callLimit, func() bool {
		code, _ := s.post("/chorale/v1/adapters", object{"name": "duo", "source": "duo"})
		return code == 200
	})
	s.until("duo is served", callLimit, func() bool { code, _ := s.post("/generate", greedy(prompt, "duo", 1)); return code == 200 })
	for _, n := range names[:3] {
		if got := s.say(prompt, n, 8); got != want[n] {
			t.Errorf("%s with the manager back: %q, want %q", n, got, want[n])
		}
	}
	s.unload("bass")
	s.refused("/generate", greedy(prompt, "bass", 1), 400, "never been loaded")
}

// TestFaultAll: everything is killed at once and started again.
func TestFaultAll(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			s := m.start(t, limits{})
			want := map[string]string{"": s.say(prompt, "", 8)}
			for _, n := range names[:2] {
				s.load(n)
				want[n] = s.say(prompt, n, 8)
			}
			ended := s.begin("alto", 300)
			all := append([]*testkit.Process{s.front}, s.workers...)
			if s.manager != nil {
				all = append(all, s.manager)
			}
			for _, p := range all {
				p.Signal(sigkill)
			}
			for _, p := range all {
				p.Kill()
			}
			<-ended
			if s.split {
				s.startManager(s.managerAddr)
				for i := range s.workers {
					s.startWorker(i)
				}
			}
			s.startFront()
			for _, n := range names[:2] {
				s.until(n+" is served again", startLimit, func() bool { code, _ := s.post("/generate", greedy(prompt, n, 1)); return code == 200 })
			}
			for n, w := range want {
				if got := s.say(prompt, n, 8); got != w {
					t.Errorf("%q after the restart: %q, want %q", n, got, w)
				}
			}
			var list struct {
				Adapters []struct{ Name, State string }
			}
			code, raw := s.get("/chorale/v1/adapters")
			if err := json.Unmarshal(raw, &list); code != 200 || err != nil || len(list.Adapters) != 2 {
				t.Fatalf("adapters after the restart: %d %v %s", code, err, raw)
			}
			for _, a := range list.Adapters {
				if a.State != "ADAPTER_STATE_LOADED" {
					t.Errorf("after the restart %s is %s", a.Name, a.State)
				}
			}
		})
	}
}

// TestFaultManagerRandom: the manager is killed at random moments of loads and
// unloads. Each time what was acknowledged holds, and each adapter is there
// whole or not at all.
func TestFaultManagerRandom(t *testing.T) {
	s := startSplit(t, limits{workers: 1})
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[string]string{}
	for _, n := range names {
		s.load(n)
		want[n] = s.say(prompt, n, 4)
	}
	for round := range 20 {
		acked := s.churn(rng, time.Duration(rng.IntN(120))*time.Millisecond)
		s.startManager(s.managerAddr)
		s.settled(round, acked, want)
		if t.Failed() {
			return
		}
	}
}

// churn loads and unloads adapters until it kills the manager, after a while.
// It tells what was acknowledged last of each name, and not begun otherwise
// since.
func (s *site) churn(rng *rand.Rand, while time.Duration) map[string]bool {
	s.t.Helper()
	var mu sync.Mutex
	acked := map[string]bool{}
	dead := make(chan struct{})
	var wg sync.WaitGroup
	seed := rng.Uint64()
	for i, n := range names {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for {
				select {
				case <-dead:
					return
				default:
				}
				load := r.IntN(2) == 0
				mu.Lock()
				before, had := acked[n]
				delete(acked, n) // begun: either way is right now
				mu.Unlock()
				err := s.change(n, load)
				mu.Lock()
				switch c := status.Code(err); {
				case err == nil || !load && c == codes.NotFound:
					acked[n] = load
				case had && (c == codes.AlreadyExists || c == codes.InvalidArgument):
					acked[n] = before
				}
				mu.Unlock()
			}
		})
	}
	time.Sleep(while)
	s.manager.Kill()
	close(dead)
	wg.Wait()
	return acked
}

func (s *site) change(name string, load bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if load {
		_, err := s.admin.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: name, Source: name})
		return err
	}
	_, err := s.admin.UnloadAdapter(ctx, &pb.UnloadAdapterRequest{Name: name})
	return err
}

// settled waits until every name is there whole or not at all, and compares
// with what was acknowledged.
func (s *site) settled(round int, acked map[string]bool, want map[string]string) {
	s.t.Helper()
	var list struct {
		Adapters []struct{ Name, State, Message string }
	}
	s.until("each adapter is loaded or gone", callLimit, func() bool {
		list.Adapters = nil
		code, raw := s.get("/chorale/v1/adapters")
		if code != 200 || json.Unmarshal(raw, &list) != nil {
			return false
		}
		for _, a := range list.Adapters {
			if a.State != "ADAPTER_STATE_LOADED" && a.State != "ADAPTER_STATE_FAILED" {
				return false
			}
		}
		return true
	})
	there := map[string]bool{}
	for _, a := range list.Adapters {
		if a.State == "ADAPTER_STATE_FAILED" {
			// A load that was cut short may be told of, but not acknowledged.
			if acked[a.Name] {
				s.t.Errorf("round %d: %s was acknowledged and has failed: %s", round, a.Name, a.Message)
			}
			continue
		}
		there[a.Name] = true
	}
	for n, loaded := range acked {
		if there[n] != loaded {
			s.t.Errorf("round %d: %s is there: %v, acknowledged: %v; the list is %v", round, n, there[n], loaded, list.Adapters)
		}
	}
	for _, n := range names {
		s.until(fmt.Sprintf("the router knows of %s what the manager says (%v)", n, there[n]), callLimit, func() bool {
			code, raw := s.post("/generate", greedy(prompt, n, 4))
			var out sglang
			if !there[n] {
				return code == 400
			}
			return code == 200 && json.Unmarshal(raw, &out) == nil && out.Text == want[n]
		})
	}
	s.blobs(round, len(there))
}

// blobs: no more files than the adapters need, none half written.
func (s *site) blobs(round, adapters int) {
	s.t.Helper()
	s.until("no file is left over", callLimit, func() bool {
		files := 0
		err := filepath.WalkDir(filepath.Join(s.data, "blobs"), func(_ string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
				return nil
			}
			if err == nil && !e.IsDir() {
				files++
			}
			return err
		})
		if err != nil {
			s.t.Fatalf("round %d: %v", round, err)
		}
		return files <= 2*adapters
	})
}

// TestFaultDiskFull: a load that finds the disk full says so and leaves
// nothing; smaller ones work before and after.
func TestFaultDiskFull(t *testing.T) {
	if !namespaces() {
		t.Skip("this system does not allow small file systems of one's own")
	}
	s := newSite(t, true)
	testkit.Adapter{Rank: 64, Modules: []string{"q_proj", "v_proj"}, Seed: 9}.Write(t, filepath.Join(s.root, "big"))
	s.workerCmd = slices.Concat([]string{"worker"}, modelFlags(t, limits{}), workerFlags(&limits{}))
	w := testkit.Start(t, testkit.Options{Name: "worker", Args: append(slices.Clone(s.workerCmd), "--listen", "127.0.0.1:0")})
	s.addrs = []string{w.Message(t, "worker ready", startLimit)["grpc"].(string)}
	s.workers = []*testkit.Process{w}
	small := []string{"unshare", "-rm", "sh", "-c", `mkdir -p "$0" && mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@"`, s.data}
	s.manager = testkit.Start(t, testkit.Options{Name: "adaptermgr", Wrap: small, Args: []string{
		"adaptermgr", "--log-format", "json", "--data-dir", s.data, "--adapter-root", s.root, "--worker", s.addrs[0], "--listen", "127.0.0.1:0",
	}})
	s.managerAddr = s.manager.Message(t, "adapter manager ready", startLimit)["grpc"].(string)
	s.frontArgs = slices.Concat([]string{"router"}, modelFlags(t, limits{}), []string{"--served-model-name", served, "--port", "0", "--worker", s.addrs[0], "--adaptermgr", s.managerAddr})
	s.startFront()
	s.load("alto")
	want := s.say(prompt, "alto", 8)
	for range 3 { // each leaves nothing, or the third would fail otherwise
		s.refused("/chorale/v1/adapters", object{"name": "big", "source": "big"}, 507, "disk full", "DISK_FULL")
	}
	s.refused("/load_lora_adapter", object{"lora_name": "big", "lora_path": "big"}, 507, "disk full", "big")
	s.refused("/v1/load_lora_adapter", object{"lora_name": "big", "lora_path": "big"}, 507, "disk full")
	_, err := s.admin.LoadAdapter(context.Background(), &pb.LoadAdapterRequest{Name: "big", Source: "big"})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("gRPC: %v", err)
	}
	s.load("echo")
	if got := s.say(prompt, "alto", 8); got != want {
		t.Errorf("alto afterwards: %q, want %q", got, want)
	}
	if got := s.say(prompt, "echo", 8); got == want {
		t.Errorf("echo says %q", got)
	}
	if code, raw := s.get("/chorale/v1/adapters"); code != 200 || strings.Contains(string(raw), `"big"`) {
		t.Errorf("adapters: %s", raw)
	}
	s.unload("alto")
	s.unload("echo")
}
