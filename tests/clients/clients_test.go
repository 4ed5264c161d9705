//go:build clients

package clients

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chorale/internal/testkit"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// All clients at once, whatever the machine's cores: most of them wait.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	code := m.Run()
	testkit.Cleanup()
	os.Exit(code)
}

// clientLimit bounds a client on a busy machine.
const clientLimit = 10 * time.Minute

// client is one program and what it must have seen.
type client struct {
	name   string
	argv   []string // relative to the repository
	aborts int      // answers that it gives up
	seen   []string
}

// clients are all. What stands in seen is what the scripts say "ok" to.
func clients(s *site) []client {
	at := func(path ...string) string { return filepath.Join(append([]string{".cache", "clients"}, path...)...) }
	python := func(script string) []string {
		return []string{at("python", "bin", "python"), filepath.Join("tests", "clients", "python", script)}
	}
	grpc := []string{
		"lists of prompts and adapters", "chat", "stream", "n and seed", "logprobs and stop", "together", "unknown adapter", "invalid fields", "keys",
		"load, watch, list, unload", "deadline", "cancel",
	}
	return []client{
		{"openai for Python", python("openai_client.py"), 1, []string{
			"chat", "stream", "stream helper", "models", "completions", "logprobs", "n and seed", "stop, length, bias", "unknown model", "bad requests", "keys",
			"headers", "abort", "together",
		}},
		{"litellm", python("litellm_client.py"), 1, []string{
			"chat", "stream", "hosted_vllm", "text completion", "n, seed, logprobs", "together", "unknown model", "bad requests", "keys", "abort",
		}},
		{"langchain", python("langchain_client.py"), 0, []string{"invoke", "stream", "together", "batch", "logprobs, stop, n, seed", "completions", "errors"}},
		{"gRPC in Python", python("grpc_client.py"), 2, grpc},
		{"openai for Node", []string{"node", "tests/clients/node/openai_client.mjs"}, 1, []string{
			"chat", "stream", "models", "completions", "logprobs", "n and seed", "stop and length", "unknown model", "bad requests", "keys", "abort", "together",
		}},
		{"gRPC in Node", []string{"node", at("node", "grpc_client.mjs")}, 2, grpc},
		{"gRPC in Java", []string{
			"java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp",
			strings.Join([]string{at("java", "classes"), at("java", "proto"), at("java", "lib") + "/*"}, string(os.PathListSeparator)), "GrpcClient",
		}, 2, grpc},
		{"SGLang's bench_serving", []string{at("bench", "bin", "python"), "tests/clients/bench/bench_serving.py", tokenizer(s.t)}, 0, []string{
			"sglang", "sglang-oai", "sglang-oai-chat", "vllm",
		}},
		{"grpcurl and ghz", []string{"tests/clients/bench/grpc.sh"}, 0, []string{"reflection", "health", "grpcurl", "grpcurl errors", "ghz", "ghz streams"}},
	}
}

// TestClients runs all clients at once on one server.
func TestClients(t *testing.T) {
	ready := make(chan string, 1)
	go func() {
		cmd := exec.Command("tests/clients/setup.sh")
		cmd.Dir = testkit.Root()
		out, err := cmd.CombinedOutput()
		if err != nil {
			ready <- string(out) + err.Error()
		}
		close(ready)
	}()
	s := start(t)
	if bad := <-ready; bad != "" {
		t.Fatalf("setup.sh: %s", bad)
	}
	aborts := 0
	t.Run("together", func(t *testing.T) {
		for _, c := range clients(s) {
			aborts += c.aborts
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				run(t, s, c)
			})
		}
	})
	if t.Failed() {
		return
	}
	s.idle(5 * time.Second)
	if n := s.aborted(); n < aborts {
		t.Errorf("%d answers were aborted, the clients gave up %d", n, aborts)
	}
}

// run runs a client and compares what it has seen with what it must see.
func run(t *testing.T, s *site, c client) {
	ctx, cancel := context.WithTimeout(context.Background(), clientLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.Env = testkit.Root(), s.env
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	busy := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	t.Logf("%s took %v, %v of a core", c.name, time.Since(begun).Round(100*time.Millisecond), busy.Round(100*time.Millisecond))
	var seen []string
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(line, "ok "); ok {
			seen = append(seen, strings.TrimSpace(name))
		}
	}
	want := slices.Clone(c.seen)
	slices.Sort(want)
	slices.Sort(seen)
	if !slices.Equal(seen, want) {
		t.Errorf("it has seen %q, want %q:\n%s", seen, want, out)
	}
}
