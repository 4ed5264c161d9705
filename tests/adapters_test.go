package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"chorale/internal/testkit"
	pb "chorale/proto/gen/chorale/v1"
)

// prompt is what most tests ask.
const prompt = "The captain looked at the sea and"

func testEmpty(s *site) {
	var list struct{ Adapters []object }
	code, raw := s.get("/chorale/v1/adapters")
	if code != 200 || json.Unmarshal(raw, &list) != nil || len(list.Adapters) != 0 {
		s.t.Errorf("adapters at the start: %d %s", code, raw)
	}
	if got := s.say(prompt, "", 8); got == "" {
		s.t.Error("the base says nothing")
	}
}

// testLoadFaces loads each voice over another face.
func testLoadFaces(s *site) {
	ctx := context.Background()
	var sg struct {
		Success bool
		Loaded  map[string]string `json:"loaded_adapters"`
		Error   *string           `json:"error_message"`
	}
	s.ask("/load_lora_adapter", object{"lora_name": "alto", "lora_path": "alto"}, &sg)
	if !sg.Success || sg.Error != nil || sg.Loaded["alto"] != "alto" {
		s.t.Errorf("SGLang's answer: %+v", sg)
	}
	if code, body := s.post("/v1/load_lora_adapter", object{"lora_name": "bass", "lora_path": filepath.Join(s.root, "bass")}); code != 200 || string(body) != "Success: LoRA adapter 'bass' added successfully." {
		s.t.Errorf("vLLM's answer: %d %s", code, body)
	}
	var native struct {
		Adapter struct {
			Name, Digest, State string
			MaxRank             int
			TargetModules       []string
		}
	}
	s.ask("/chorale/v1/adapters", object{"name": "canto", "source": "canto", "labels": object{"team": "x"}}, &native)
	a := native.Adapter
	if a.Name != "canto" || a.State != "ADAPTER_STATE_LOADED" || a.MaxRank != 8 || strings.Join(a.TargetModules, " ") != "k_proj o_proj" || !strings.HasPrefix(a.Digest, "sha256:") {
		s.t.Errorf("the native answer: %+v", a)
	}
	for _, n := range []string{"duo", "echo"} {
		r, err := s.admin.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: n, Source: filepath.Join(s.root, n)})
		if err != nil {
			s.t.Fatal(err)
		}
		if len(r.Adapter.Placements) != max(1, len(s.workers)) {
			s.t.Errorf("%s is placed on %v", n, r.Adapter.Placements)
		}
	}
	// The same again, in each face's way.
	if _, err := s.admin.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "duo", Source: "duo"}); err != nil {
		s.t.Errorf("the same content again: %v", err)
	}
	s.refused("/load_lora_adapter", object{"lora_name": "alto", "lora_path": "alto"}, 400, "alto", "already loaded")
	s.refused("/v1/load_lora_adapter", object{"lora_name": "alto", "lora_path": "alto"}, 400, "alto", "has already been loaded")
	// Other content under the name.
	s.refused("/chorale/v1/adapters", object{"name": "alto", "source": "bass"}, 409, "alto", "other content")
	s.refused("/load_lora_adapter", object{"lora_name": "alto", "lora_path": "bass"}, 400, "alto", "already loaded")
	_, err := s.admin.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "alto", Source: "bass"})
	if status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), "alto") {
		s.t.Errorf("gRPC: %v", err)
	}
}

// testOwnAnswers: each adapter says its own, alone and in a mixed batch.
func testOwnAnswers(s *site) {
	const n = 10
	prompts := []string{prompt, "def add(a, b):", "Dear Sir or Madam,"}
	type ask struct{ prompt, adapter string }
	var asks []ask
	alone := map[ask]string{}
	seen := map[string]string{}
	for _, p := range prompts {
		for _, a := range append([]string{""}, names...) {
			k := ask{p, a}
			asks = append(asks, k)
			alone[k] = s.say(p, a, n)
			s.same("own "+p+"|"+a, alone[k])
			if other, ok := seen[p+alone[k]]; ok {
				s.t.Errorf("%q and %q both answer %q with %q", a, other, p, alone[k])
			}
			seen[p+alone[k]] = a
		}
	}
	// All at once, each in a request of its own.
	for i, got := range together(len(asks), func(i int) string { return s.say(asks[i].prompt, asks[i].adapter, n) }) {
		if got != alone[asks[i]] {
			s.t.Errorf("%q to %q together: %q, alone %q", asks[i].adapter, asks[i].prompt, got, alone[asks[i]])
		}
	}
	// And in one request with a list.
	var outs []sglang
	body := greedy("", "", n)
	var ps, as []any
	for _, k := range asks {
		ps, as = append(ps, k.prompt), append(as, k.adapter)
		if k.adapter == "" {
			as[len(as)-1] = nil
		}
	}
	body["text"], body["lora_path"] = ps, as
	s.ask("/generate", body, &outs)
	for i, k := range asks {
		if outs[i].Text != alone[k] {
			s.t.Errorf("%q to %q in a list: %q, alone %q", k.adapter, k.prompt, outs[i].Text, alone[k])
		}
	}
}

// testOneStep: adapters of different rank and modules, and the base, are
// computed in one step. Each adapter has one row, so a step with more rows than
// adapters holds the base as well.
func testOneStep(s *site) {
	per := 4
	ps := make([]any, 0, 2*per)
	as := make([]any, 0, 2*per)
	for _, a := range names[:per] {
		ps, as = append(ps, prompt, prompt), append(as, a, nil)
	}
	body := greedy("", "", 24)
	body["text"], body["lora_path"] = ps, as
	done := make(chan []sglang, 1)
	go func() {
		var outs []sglang
		code, raw := s.post("/generate", body)
		if code == 200 {
			_ = json.Unmarshal(raw, &outs)
		}
		done <- outs
	}()
	found := false
	var outs []sglang
	for outs == nil {
		select {
		case outs = <-done:
			if len(outs) != 2*per {
				s.t.Fatalf("%d answers, want %d", len(outs), 2*per)
			}
		case <-time.After(5 * time.Millisecond):
		}
		for _, g := range s.info().WorkerGroups {
			found = found || g.LastStepAdapters >= 2 && g.LastStepRows > g.LastStepAdapters
		}
	}
	if !found {
		s.t.Error("no step had two adapters and the base")
	}
	most := 0
	for _, g := range s.info().WorkerGroups {
		most = max(most, g.MaxStepAdapters)
	}
	if _, raw := s.get("/metrics"); most < 2 || s.metric("chorale_step_adapters_max") < 2 {
		s.t.Errorf("most adapters in a step: %d by /chorale/v1/server, by /metrics:\n%s", most, raw)
	}
	for i := range outs {
		if i%2 == 1 && outs[i].Text != outs[1].Text {
			s.t.Errorf("two bases differ: %q, %q", outs[i].Text, outs[1].Text)
		}
	}
}

// metric is the largest value of a metric, -1 when there is none.
func (s *site) metric(name string) float64 {
	s.t.Helper()
	_, raw := s.get("/metrics")
	most := -1.0
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == '{' || rest[0] == ' ') {
			var v float64
			if _, err := fmt.Sscan(rest[strings.LastIndex(rest, " ")+1:], &v); err == nil {
				most = max(most, v)
			}
		}
	}
	return most
}

func testSeeds(s *site) {
	for _, a := range []string{"", "alto", "bass"} {
		ask := func(seed int) string {
			var out sglang
			body := greedy(prompt, a, 10)
			body["sampling_params"] = object{"temperature": 1, "max_new_tokens": 10, "ignore_eos": true, "sampling_seed": seed}
			s.ask("/generate", body, &out)
			return out.Text
		}
		first := ask(7)
		for _, again := range together(3, func(int) string { return ask(7) }) {
			if again != first {
				s.t.Errorf("%q with seed 7: %q, then %q", a, first, again)
			}
		}
		if ask(8) == first && ask(9) == first {
			s.t.Errorf("%q: three seeds, one answer", a)
		}
		s.same("seed "+a, first)
	}
}

// begin starts a long stream and returns when its first text is there; the
// channel gives its whole text, or the error.
func (s *site) begin(adapter string, n int) <-chan string {
	s.t.Helper()
	began, ended := make(chan struct{}), make(chan string, 1)
	body := greedy(prompt, adapter, n)
	body["stream"] = true
	go func() {
		once := sync.OnceFunc(func() { close(began) })
		defer once()
		last := ""
		code, err := s.stream(context.Background(), "/generate", body, func(line string) bool {
			last += line + "\n"
			once()
			return true
		})
		ended <- finalText(last, code, err)
	}()
	select {
	case <-began:
	case <-time.After(callLimit):
		s.t.Fatal("a stream does not begin")
	}
	return ended
}

// finalText is the text of the last event of a /generate stream, or what went
// wrong after "ERROR".
func finalText(lines string, code int, err error) string {
	events := strings.Split(strings.TrimSpace(lines), "\n")
	if err != nil || code != 200 || events[len(events)-1] != "data: [DONE]" || len(events) < 2 {
		return fmt.Sprintf("ERROR status %d, error %v: %s", code, err, lines[max(0, len(lines)-300):])
	}
	var out struct {
		sglang
		Error *object
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(events[len(events)-2], "data: ")), &out); err != nil || out.Error != nil {
		return fmt.Sprintf("ERROR %v: %s", err, events[len(events)-2])
	}
	if out.Meta.FinishReason["type"] == "abort" {
		return fmt.Sprintf("ERROR aborted: %v", out.Meta.FinishReason)
	}
	return out.Text
}

func testUnloadRunning(s *site) {
	want := s.say(prompt, "echo", 40)
	ended := s.begin("echo", 40)
	gone := make(chan int, 1)
	go func() {
		code, _ := s.post("/unload_lora_adapter", object{"lora_name": "echo"})
		gone <- code
	}()
	// New ones are refused soon, while the running one goes on.
	s.until("new requests for echo are refused", callLimit, func() bool {
		code, _ := s.post("/generate", greedy(prompt, "echo", 1))
		return code != 200
	})
	if got := <-ended; got != want {
		s.t.Errorf("the running answer: %q, undisturbed %q", got, want)
	}
	if code := <-gone; code != 200 {
		s.t.Errorf("unload = %d", code)
	}
	s.refused("/generate", greedy(prompt, "echo", 1), 400, "never been loaded", "echo")
	s.load("echo")
	if got := s.say(prompt, "echo", 40); got != want {
		s.t.Errorf("after loading again: %q, before %q", got, want)
	}
}

// testReplaceRunning: new requests get the new content at once, running ones
// keep the old.
func testReplaceRunning(s *site) {
	before, other := s.say(prompt, "echo", 30), s.say(prompt, "alto", 30)
	ended := s.begin("echo", 30)
	var out object
	s.ask("/chorale/v1/adapters", object{"name": "echo", "source": "alto", "replace": true}, &out)
	if got := s.say(prompt, "echo", 30); got != other {
		s.t.Errorf("after the replacement: %q, want %q", got, other)
	}
	if got := <-ended; got != before {
		s.t.Errorf("the running answer: %q, want the old content's %q", got, before)
	}
	s.ask("/chorale/v1/adapters", object{"name": "echo", "source": "echo", "replace": true}, &out)
	if got := s.say(prompt, "echo", 30); got != before {
		s.t.Errorf("after the way back: %q, want %q", got, before)
	}
}

func testUnloadFaces(s *site) {
	if !s.split { // the same messages, and half the time
		unloadAfterEnds(s)
	}
	var sg struct {
		Success bool
		Loaded  map[string]string `json:"loaded_adapters"`
	}
	s.ask("/unload_lora_adapter", object{"lora_name": "alto"}, &sg)
	if _, there := sg.Loaded["alto"]; !sg.Success || there || len(sg.Loaded) != len(names)-1 {
		s.t.Errorf("SGLang's answer: %+v", sg)
	}
	if code, body := s.post("/v1/unload_lora_adapter", object{"lora_name": "bass"}); code != 200 || string(body) != "Success: LoRA adapter 'bass' removed successfully." {
		s.t.Errorf("vLLM's answer: %d %s", code, body)
	}
	if code, body, _ := s.do("DELETE", "/chorale/v1/adapters/canto", nil); code != 200 {
		s.t.Errorf("the native answer: %d %s", code, body)
	}
	if _, err := s.admin.UnloadAdapter(context.Background(), &pb.UnloadAdapterRequest{Name: "duo"}); err != nil {
		s.t.Error(err)
	}
	s.refused("/unload_lora_adapter", object{"lora_name": "alto"}, 400, "alto")
	s.refused("/v1/unload_lora_adapter", object{"lora_name": "alto"}, 404, "alto")
	_, err := s.admin.UnloadAdapter(context.Background(), &pb.UnloadAdapterRequest{Name: "duo"})
	if status.Code(err) != codes.NotFound {
		s.t.Error(err)
	}
	for _, n := range names[:4] {
		s.refused("/generate", greedy(prompt, n, 1), 400, n, "never been loaded")
		if code, body := s.get("/v1/models/" + n); code != 404 {
			s.t.Errorf("model card of %s: %d %s", n, code, body)
		}
	}
	s.unload("echo")
}

func testBrokenAdapters(s *site) {
	defer s.traffic()()
	for _, b := range testkit.BrokenAdapters() {
		b.Write(s.t, filepath.Join(s.root, "broken", b.Name))
		source := "broken/" + b.Name
		s.refused("/load_lora_adapter", object{"lora_name": b.Name, "lora_path": source}, 400, b.Says...)
		s.refused("/chorale/v1/adapters", object{"name": b.Name, "source": source}, 400, b.Says...)
		_, err := s.admin.LoadAdapter(context.Background(), &pb.LoadAdapterRequest{Name: b.Name, Source: source})
		if c := status.Code(err); c != codes.InvalidArgument {
			s.t.Errorf("%s over gRPC: %v", b.Name, err)
		}
		s.until("requests for "+b.Name+" are told that it was never loaded", callLimit, func() bool {
			code, raw := s.post("/generate", greedy(prompt, b.Name, 1))
			return code == 400 && strings.Contains(string(raw), "never been loaded: "+b.Name)
		})
		var v struct {
			Valid    bool
			Problems []string
		}
		s.ask("/chorale/v1/adapters:validate", object{"source": source}, &v)
		if v.Valid || len(v.Problems) == 0 {
			s.t.Errorf("validate %s: %+v", b.Name, v)
		}
	}
	var list struct{ Adapters []object }
	if _, raw := s.get("/chorale/v1/adapters"); json.Unmarshal(raw, &list) != nil || len(list.Adapters) != len(names) {
		s.t.Errorf("after the refusals: %s", raw)
	}
}

func testSources(s *site) {
	defer s.traffic()()
	outside := filepath.Join(s.t.TempDir(), "outside")
	voices["alto"].Write(s.t, outside)
	for _, path := range []string{outside, "../outside", s.root + "/../outside", "/etc", "nowhere", "org/not-there"} {
		s.refused("/load_lora_adapter", object{"lora_name": "x", "lora_path": path}, 400, "x")
		s.refused("/v1/load_lora_adapter", object{"lora_name": "x", "lora_path": path}, 404, "x")
		s.refused("/chorale/v1/adapters", object{"name": "x", "source": path}, 404)
	}
	s.refused("/chorale/v1/adapters", object{"name": "x"}, 400, "source")
	s.refused("/load_lora_adapter", object{"lora_name": "x"}, 400, "lora_path")
	s.refused("/v1/load_lora_adapter", object{"lora_path": "alto"}, 400, "lora_name")
	s.refused("/chorale/v1/adapters", object{"name": " x", "source": "alto"}, 400, "name")
	s.refused("/chorale/v1/adapters", object{"name": "x\ny", "source": "alto"}, 400, "name")
	for _, name := range []string{"", strings.Repeat("x", 300), "x\u202ey", "alto@2"} {
		s.refused("/chorale/v1/adapters", object{"name": name, "source": "alto"}, 400, "name")
		s.refused("/load_lora_adapter", object{"lora_name": name, "lora_path": "alto"}, 400, "name")
		s.refused("/v1/load_lora_adapter", object{"lora_name": name, "lora_path": "alto"}, 400, "name")
	}
	var v struct {
		Cost struct{ StepMicroseconds float64 }
	}
	s.ask("/chorale/v1/adapters:validate", object{"source": "alto"}, &v)
	if v.Cost.StepMicroseconds <= 0 && strings.HasPrefix(s.device, "cpu/avx") {
		s.t.Errorf("validate tells no time of a step: %+v", v)
	}
}

// testNames: names may hold what clients put into them.
func testNames(s *site) {
	for _, name := range []string{"org/alto.v1", "höher:ü", "/abs/path", "a b?c#d%20"} {
		var out object
		s.ask("/load_lora_adapter", object{"lora_name": name, "lora_path": "alto"}, &out)
		if got, want := s.say(prompt, name, 6), s.say(prompt, "alto", 6); got != want {
			s.t.Errorf("%q says %q, want %q", name, got, want)
		}
		var completion object
		s.ask("/v1/completions", object{"model": name, "prompt": prompt, "max_tokens": 2, "temperature": 0}, &completion)
		s.ask("/v1/completions", object{"model": served + ":" + name, "prompt": prompt, "max_tokens": 2, "temperature": 0}, &completion)
		if code, body := s.get("/v1/models/" + url.PathEscape(name)); code != 200 {
			s.t.Errorf("model card of %q: %d %s", name, code, body)
		}
		if code, body, _ := s.do("DELETE", "/chorale/v1/adapters/"+url.PathEscape(name), nil); code != 200 {
			s.t.Errorf("unload %q: %d %s", name, code, body)
		}
	}
	// A name that is used again means what was loaded last.
	for _, voice := range []string{"alto", "bass", "alto"} {
		var out object
		s.ask("/load_lora_adapter", object{"lora_name": "again", "lora_path": voice}, &out)
		if got, want := s.say(prompt, "again", 6), s.say(prompt, voice, 6); got != want {
			s.t.Errorf("loaded from %s, it says %q, want %q", voice, got, want)
		}
		s.ask("/unload_lora_adapter", object{"lora_name": "again"}, &out)
	}
}

// TestDisabled: with LoRA off, loads and requests say so.
func TestE2ELoRADisabled(t *testing.T) {
	s := startServe(t, limits{all: []string{"--enable-lora=false"}})
	s.refused("/load_lora_adapter", object{"lora_name": "alto", "lora_path": "alto"}, 400, "LoRA is not enabled")
	s.refused("/generate", greedy(prompt, "alto", 1), 400, "not enabled")
	s.refused("/chorale/v1/adapters", object{"name": "alto", "source": "alto"}, 400, "not enabled")
	s.refused("/v1/completions", object{"model": "alto", "prompt": "x"}, 404, "alto")
	s.say(prompt, "", 2)
}
