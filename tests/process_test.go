package tests

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	"chorale/internal/testkit"
	pb "chorale/proto/gen/chorale/v1"
)

// TestE2EDrain: the first signal lets running answers end and refuses new
// ones; idle connections and watches do not hold it up.
func TestE2EDrain(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			s := m.start(t, limits{})
			s.load("alto")
			want := s.say(prompt, "alto", 120)
			watch(s)
			ended := s.begin("alto", 120)
			began := time.Now()
			s.front.Signal(terminate)
			s.until("new requests are refused", callLimit, func() bool {
				code, _ := s.post("/generate", greedy(prompt, "", 1))
				return code == 503 || code == 0
			})
			if got := <-ended; got != want {
				t.Errorf("the running answer: %q, undisturbed %q", got, want)
			}
			answered := time.Now()
			if code := s.front.Wait(t, callLimit); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if took := time.Since(answered); took > 8*time.Second {
				t.Errorf("ended %v after its last answer (%v after the signal)", took, time.Since(began))
			}
			if !s.split {
				return
			}
			for _, p := range append([]*testkit.Process{s.manager}, s.workers...) {
				p.Signal(terminate)
				if code := p.Wait(t, 10*time.Second); code != 0 {
					t.Errorf("%s: exit status %d", p.Name, code)
				}
			}
		})
	}
}

// watch keeps what clients keep open: a catalogue and a health watch, an idle
// connection.
func watch(s *site) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	w, err := s.admin.WatchAdapters(ctx, &pb.WatchAdaptersRequest{})
	if err == nil {
		_, err = w.Recv()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	h, err := grpc_health_v1.NewHealthClient(s.conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		_, err = h.Recv()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.get("/health")
}

// TestE2EDrainWorker: a worker that is asked to end finishes what it has.
func TestE2EDrainWorker(t *testing.T) {
	s := startSplit(t, limits{})
	s.load("alto")
	want := s.say(prompt, "alto", 120)
	ended := s.begin("alto", 120)
	i := s.busy()
	s.workers[i].Signal(terminate)
	if got := <-ended; got != want {
		t.Errorf("the running answer: %q, undisturbed %q", got, want)
	}
	if code := s.workers[i].Wait(t, 20*time.Second); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if got := s.say(prompt, "alto", 120); got != want {
		t.Errorf("the other worker says %q, want %q", got, want)
	}
}

// busy is the index of the worker that computes.
func (s *site) busy() int {
	s.t.Helper()
	found := -1
	s.until("a worker computes", callLimit, func() bool {
		for i, g := range s.info().WorkerGroups {
			if g.Running > 0 && s.addrs[i] == g.Address {
				found = i
			}
		}
		return found >= 0
	})
	return found
}

// TestE2ESecondSignal: it ends at once.
func TestE2ESecondSignal(t *testing.T) {
	s := startServe(t, limits{})
	ended := s.begin("", 480)
	s.front.Signal(terminate)
	s.until("new requests are refused", callLimit, func() bool {
		code, _ := s.get("/health")
		return code != 200
	})
	s.front.Signal(os.Interrupt)
	if code := s.front.Wait(t, 3*time.Second); code == 0 {
		t.Error("exit status 0 for an end with answers cut")
	}
	if got := <-ended; !strings.HasPrefix(got, "ERROR") {
		t.Errorf("the running answer was not cut: %q", got)
	}
}

// fails runs the binary, which must fail with status 1 (80 for usage) and say
// in one line what is wrong.
func fails(t *testing.T, o testkit.Options, status int, words ...string) {
	t.Helper()
	o.Name = o.Args[0]
	p := testkit.Start(t, o)
	code := p.Wait(t, startLimit)
	lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
	last := lines[len(lines)-1]
	if code != status {
		t.Errorf("%v: exit status %d, want %d: %s", o.Args, code, status, last)
	}
	if !strings.HasPrefix(last, "chorale: ") {
		t.Errorf("%v: the last line is %q", o.Args, last)
	}
	for _, l := range lines[:len(lines)-1] {
		if status == 1 && !strings.HasPrefix(l, "{") { // the rest is the log
			t.Errorf("%v: a line that is no log: %q", o.Args, l)
		}
	}
	for _, w := range words {
		if !strings.Contains(last, w) {
			t.Errorf("%v: %q does not say %q", o.Args, last, w)
		}
	}
	// No file of these tests justifies more.
	if m := p.PeakMemory(); m > 400<<20 && slices.Contains(o.Args, "worker") {
		t.Errorf("%v: it took %d bytes of memory", o.Args, m)
	}
}

// TestE2EPortInUse: each role says which port.
func TestE2EPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	port := addr[strings.LastIndex(addr, ":")+1:]
	flags := modelFlags(t, limits{})
	for _, args := range [][]string{
		slices.Concat([]string{"serve"}, flags, []string{"--data-dir", t.TempDir(), "--port", port}),
		slices.Concat([]string{"serve"}, flags, []string{"--data-dir", t.TempDir(), "--port", "0", "--grpc-port", port}),
		slices.Concat([]string{"worker"}, flags, []string{"--listen", addr}),
		{"adaptermgr", "--listen", addr, "--worker", "127.0.0.1:1", "--data-dir", t.TempDir()},
		slices.Concat([]string{"router"}, flags, []string{"--port", port, "--worker", "127.0.0.1:1", "--adaptermgr", "127.0.0.1:1"}),
	} {
		fails(t, testkit.Options{Args: args}, 1, port, "in use")
	}
}

// TestE2EDataDir: one that cannot be written, and one that another holds.
func TestE2EDataDir(t *testing.T) {
	manager := func(dir string) []string {
		return []string{"adaptermgr", "--log-format", "json", "--listen", "127.0.0.1:0", "--worker", "127.0.0.1:1", "--data-dir", dir}
	}
	dir := filepath.Join(t.TempDir(), "data")
	first := testkit.Start(t, testkit.Options{Name: "first", Args: manager(dir)})
	first.Message(t, "adapter manager ready", startLimit)
	fails(t, testkit.Options{Args: manager(dir)}, 1, dir, "another process")
	fails(t, testkit.Options{Args: slices.Concat([]string{"serve"}, modelFlags(t, limits{}), []string{"--port", "0", "--data-dir", dir})}, 1, dir, "another process")
	first.Signal(terminate)
	first.Wait(t, callLimit)
	// Where nobody can make a folder, the superuser neither.
	fails(t, testkit.Options{Args: manager("/proc/chorale/data")}, 1, "/proc/chorale")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, testkit.Options{Args: manager(file)}, 1, file)
	if namespaces() {
		// The registry is there, the file system has become read-only.
		ro := []string{"unshare", "-rm", "sh", "-c", `mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"`, dir}
		fails(t, testkit.Options{Args: manager(dir), Wrap: ro}, 1, dir, "read-only")
		fails(t, testkit.Options{Args: manager(filepath.Join(dir, "new")), Wrap: ro}, 1, dir, "read-only")
	}
	// A registry that is none.
	if err := os.WriteFile(filepath.Join(dir, "registry.db"), bytes.Repeat([]byte("no"), 40000), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, testkit.Options{Args: manager(dir)}, 1, "registry.db")
}

// namespaces tells whether mounts of one's own are allowed here.
func namespaces() bool {
	return exec.Command("unshare", "-rm", "true").Run() == nil
}

// TestE2EBrokenModel: one line and status 1, whatever the file holds.
func TestE2EBrokenModel(t *testing.T) {
	f, err := os.Open(testkit.Model(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 4<<20) // the metadata and a few tensors
	if _, err := f.Read(head); err != nil {
		t.Fatal(err)
	}
	put := func(at int, v uint64) []byte {
		b := bytes.Clone(head)
		binary.LittleEndian.PutUint64(b[at:], v)
		return b
	}
	for name, content := range map[string][]byte{
		"truncated":         head,
		"truncated-header":  head[:1000],
		"magic-only":        head[:4],
		"empty":             {},
		"text":              []byte("this is no model"),
		"tensors":           put(8, 1<<60),
		"metadata":          put(16, 1<<60),
		"string":            put(24, 1<<62),
		"other-version":     append([]byte("GGUF\x63\x00\x00\x00"), head[8:1000]...),
		"absurd-tensor-dim": absurd(t, head),
	} {
		path := filepath.Join(t.TempDir(), name+".gguf")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		fails(t, testkit.Options{Args: []string{"worker", "--log-format", "json", "--listen", "127.0.0.1:0", "--model-path", path}}, 1, name+".gguf")
	}
	config := `{"model_type":"llama","architectures":["LlamaForCausalLM"],"hidden_size":64,"intermediate_size":128,"num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":256,"rms_norm_eps":1e-5,"max_position_embeddings":128}`
	for name, files := range map[string]map[string]string{
		"no-weights":         {"config.json": config},
		"config-json":        {"config.json": `{"model_type":`, "model.safetensors": "x"},
		"other-family":       {"config.json": `{"model_type":"mamba"}`, "model.safetensors": safetensorsFile(`{}`, 0)},
		"weights-truncated":  {"config.json": config, "model.safetensors": safetensorsFile(`{"model.embed_tokens.weight":{"dtype":"BF16","shape":[256,64],"data_offsets":[0,32768]}}`, 100)},
		"weights-lie":        {"config.json": config, "model.safetensors": "\xff\xff\xff\xff\xff\xff\xff\x7f{}"},
		"weights-absurd":     {"config.json": config, "model.safetensors": safetensorsFile(`{"model.embed_tokens.weight":{"dtype":"BF16","shape":[1099511627776,1099511627776],"data_offsets":[0,100]}}`, 100)},
		"weights-missing":    {"config.json": config, "model.safetensors": safetensorsFile(`{"lm_head.weight":{"dtype":"BF16","shape":[1,1],"data_offsets":[0,2]}}`, 2)},
		"shard-missing":      {"config.json": config, "model.safetensors.index.json": `{"weight_map":{"model.embed_tokens.weight":"model-1.safetensors"}}`},
		"shard-out-of-tree":  {"config.json": config, "model.safetensors.index.json": `{"weight_map":{"model.embed_tokens.weight":"../../etc/passwd"}}`},
		"config-absurd-size": {"config.json": strings.Replace(config, `"hidden_size":64`, `"hidden_size":9000000000000`, 1), "model.safetensors": safetensorsFile(`{}`, 0)},
	} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for n, b := range files {
			if err := os.WriteFile(filepath.Join(dir, n), []byte(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		fails(t, testkit.Options{Args: []string{"worker", "--log-format", "json", "--listen", "127.0.0.1:0", "--model-path", dir}}, 1)
	}
	fails(t, testkit.Options{Args: []string{"serve", "--model-path", "/nowhere/model.gguf"}}, 1, "/nowhere/model.gguf")
	fails(t, testkit.Options{Args: []string{"serve", "--log-format", "json", "--model-path", "org/never-there"}}, 1, "org/never-there")
}

// absurd makes the first tensor's first dimension enormous.
func absurd(t *testing.T, head []byte) []byte {
	t.Helper()
	b := bytes.Clone(head)
	at := bytes.Index(b, []byte("token_embd.weight"))
	if at < 0 {
		t.Fatal("no token_embd.weight in the model's header")
	}
	at += len("token_embd.weight") + 4 // n_dims
	binary.LittleEndian.PutUint64(b[at:], 1<<60)
	return b
}

// safetensorsFile is a header and n bytes.
func safetensorsFile(header string, n int) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + strings.Repeat("x", n)
}

// TestE2EHelp: every command explains itself.
func TestE2EHelp(t *testing.T) {
	for command, words := range map[string][]string{
		"":               {"serve", "router", "adaptermgr", "worker", "adapter", "chat", "generate", "bench", "pull", "version"},
		"serve":          {"--model-path", "--lora-paths", "--max-loras-per-batch", "--adapter-root", "--data-dir", "--port", "--cpu-kernel", "Model", "LoRA adapters"},
		"router":         {"--worker", "--adaptermgr", "--port"},
		"adaptermgr":     {"--worker", "--listen", "--data-dir"},
		"worker":         {"--listen", "--model-path", "--max-running-requests"},
		"adapter":        {"list", "load", "unload", "validate"},
		"adapter load":   {"NAME", "--replace", "--pinned", "--server"},
		"adapter unload": {"NAME", "--force"},
		"chat":           {"--voice", "--all", "--system", "--temperature"},
		"generate":       {"PROMPT", "--voice", "--max-tokens"},
		"bench":          {"serve", "engine", "kernels", "coldstart", "plot"},
		"bench serve":    {"--server", "--rate", "--lora", "--load"},
		"bench engine":   {"--shape", "--adapters", "--prefill"},
		"bench kernels":  {"--shape", "--rank", "--mix"},
		"pull":           {"ORG/NAME"},
	} {
		p := testkit.Start(t, testkit.Options{Name: "help", Args: append(strings.Fields(command), "--help")})
		if code := p.Wait(t, callLimit); code != 0 || p.Log() != "" {
			t.Errorf("%s --help: status %d, %s", command, code, p.Log())
		}
		out := p.Stdout()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("%s --help does not tell of %s:\n%s", command, w, out)
			}
		}
		for line := range strings.Lines(out) {
			if len([]rune(line)) > 110 {
				t.Errorf("%s --help: a line of %d characters: %s", command, len(line), line)
			}
		}
	}
	p := testkit.Start(t, testkit.Options{Name: "version", Args: []string{"version"}})
	if code := p.Wait(t, callLimit); code != 0 || !strings.HasPrefix(p.Stdout(), "chorale ") {
		t.Errorf("version: %d %s", code, p.Stdout())
	}
	fails(t, testkit.Options{Args: []string{"serve", "--no-such-flag"}}, 80, "no-such-flag")
	fails(t, testkit.Options{Args: []string{"serve"}}, 80, "--model-path")
	fails(t, testkit.Options{Args: []string{"sing"}}, 80, "sing")
}

// TestE2EConfig: flags beat the environment, which beats the file; SGLang's
// launch flags are taken; adapters are loaded at start.
func TestE2EConfig(t *testing.T) {
	root := voiceRoot(t)
	file := filepath.Join(t.TempDir(), "chorale.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("max-running-requests: 7\nchunked-prefill-size: 33\nserved-model-name: from-file\nadapter-root:\n- " + root + "\n")
	pinned := fmt.Sprintf(`{"lora_name":"duo","lora_path":%q,"pinned":true}`, filepath.Join(root, "duo"))
	p := testkit.Start(t, testkit.Options{Name: "serve", Env: []string{"CHORALE_CHUNKED_PREFILL_SIZE=34", "CHORALE_SERVED_MODEL_NAME=from-env"}, Args: slices.Concat(
		[]string{"serve", "--config", file, "--model", testkit.Model(t), "--port=0", "--data-dir", t.TempDir(), "--log-format=json", "--served-model-name", "from-flag", "--context-length", "512"},
		[]string{"--tp", "1", "--disable-radix-cache", "--random-seed", "3", "--attention-backend", "triton", "--cuda-graph-max-bs=8", "--dp-size", "1"},
		[]string{"--max-total-tokens", "4096", "--lora-paths", "alto=" + filepath.Join(root, "alto"), filepath.Join(root, "bass"), pinned, "--max-loras-per-batch", "3"}, kernelFlag())})
	ready := p.Message(t, "serving", startLimit)
	s := &site{t: t, http: ready["http"].(string), front: p, root: root}
	s.until("it is ready", startLimit, func() bool { code, _ := s.get("/health"); return code == 200 })
	if n := strings.Count(p.Log(), "ignored"); n != 1 || !strings.Contains(p.Log(), "--disable-radix-cache, --random-seed, --attention-backend, --cuda-graph-max-bs, --dp-size") {
		t.Errorf("%d warnings about ignored flags:\n%s", n, p.Log())
	}
	var info object
	if _, raw := s.get("/server_info"); json.Unmarshal(raw, &info) != nil || info["max_running_requests"] != 7.0 || info["chunked_prefill_size"] != 34.0 || info["served_model_name"] != "from-flag" || info["max_loras_per_batch"] != 3.0 {
		t.Errorf("server_info: %s", raw)
	}
	base := s.say(prompt, "", 12)
	for _, name := range []string{"alto", filepath.Join(root, "bass"), "duo"} {
		if got := s.say(prompt, name, 12); got == base {
			t.Errorf("%s says what the base says: %q", name, got)
		}
	}
	var list struct {
		Adapters []struct {
			Name   string
			Pinned bool
		}
	}
	if _, raw := s.get("/chorale/v1/adapters"); json.Unmarshal(raw, &list) != nil || len(list.Adapters) != 3 || list.Adapters[1].Name != "alto" || !list.Adapters[2].Pinned {
		t.Errorf("adapters: %s", raw)
	}
	s.load("echo") // below the root of the file

	serve := func(more ...string) []string {
		return slices.Concat([]string{"serve"}, modelFlags(t, limits{}), []string{"--port", "0", "--data-dir", t.TempDir()}, more)
	}
	write("no-such-key: 1\nport: 5\n")
	fails(t, testkit.Options{Args: serve("--config", file)}, 1, file, "no-such-key")
	write("port: [broken")
	fails(t, testkit.Options{Args: serve("--config", file)}, 1, file)
	fails(t, testkit.Options{Args: serve("--tp-size", "2")}, 1, "--tp-size 2")
	fails(t, testkit.Options{Args: serve("--dp-size", "2")}, 1, "--dp-size 2")
	fails(t, testkit.Options{Args: serve("--context-length", "99999999")}, 1, "--context-length")
	fails(t, testkit.Options{Args: serve("--max-resident-loras", "2")}, 1, "--max-resident-loras")
	fails(t, testkit.Options{Args: serve("--adapter-root", "/nowhere")}, 1, "/nowhere")
	fails(t, testkit.Options{Args: serve("--lora-paths", "a="+root+"/alto", "a="+root+"/bass")}, 1, `"a"`, "twice")
	fails(t, testkit.Options{Args: serve("--lora-paths", "a=/nowhere/a")}, 1, "/nowhere/a")
	for _, b := range testkit.BrokenAdapters()[:2] {
		b.Write(t, filepath.Join(root, b.Name))
		fails(t, testkit.Options{Args: serve("--lora-paths", "a="+filepath.Join(root, b.Name))}, 1, append(b.Says, "a=")...)
	}
}

// TestE2EKeys: who may infer, who may load.
func TestE2EKeys(t *testing.T) {
	s := newSite(t, false)
	p := testkit.Start(t, testkit.Options{Name: "serve", Args: slices.Concat([]string{"serve"}, modelFlags(t, limits{}), workerFlags(&limits{}), []string{
		"--port", "0", "--data-dir", s.data, "--adapter-root", s.root, "--api-key", "user-key", "--admin-api-key", "admin-key",
	})})
	s.http = p.Message(t, "serving", startLimit)["http"].(string)
	s.until("it is ready", startLimit, func() bool { code, _ := s.get("/health"); return code == 200 })
	call := func(key, path string, body any) int {
		return s.keyed(key, path, body)
	}
	gen, load := greedy("x", "", 1), object{"lora_name": "alto", "lora_path": "alto"}
	for _, c := range []struct {
		key, path string
		body      any
		want      int
	}{
		{"", "/generate", gen, 401},
		{"wrong", "/generate", gen, 401},
		{"", "/load_lora_adapter", load, 401},
		{"user-key", "/load_lora_adapter", load, 403},
		{"user-key", "/generate", gen, 200},
		{"user-key", "/chorale/v1/adapters", object{"name": "x", "source": "alto"}, 403},
		{"admin-key", "/load_lora_adapter", load, 200},
		{"user-key", "/generate", greedy("x", "alto", 1), 200},
	} {
		if got := call(c.key, c.path, c.body); got != c.want {
			t.Errorf("%q to %s: %d, want %d", c.key, c.path, got, c.want)
		}
	}
	if log := p.Log(); strings.Contains(log, "user-key") || strings.Contains(log, "admin-key") {
		t.Error("a key is in the log")
	}
}
