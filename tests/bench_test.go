package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chorale/internal/testkit"
)

// TestE2EBench: the benchmarks of a server run against one, and what they write
// can be drawn.
func TestE2EBench(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "shape.json")
	if err := os.WriteFile(config, []byte(strings.Replace(dummyConfig, `"max_position_embeddings": 256`, `"max_position_embeddings": 4096`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		p := testkit.Start(t, testkit.Options{Name: args[0] + " " + args[1], Dir: dir, Args: args})
		if code := p.Wait(t, callLimit); code != 0 {
			t.Fatalf("%v: exit status %d: %s%s", args, code, p.Stdout(), p.Log())
		}
		return p.Stdout()
	}
	made := strings.Fields(run("adapter", "make-dummy", filepath.Join(dir, "voices"), "--base", config, "--count", "4", "--rank", "4"))
	s := &site{t: t}
	s.front = testkit.Start(t, testkit.Options{Name: "serve", Args: []string{
		"serve", "--model-path", config, "--load-format", "dummy", "--skip-tokenizer-init", "--log-format", "json", "--port", "0", "--threads", "1",
		"--data-dir", filepath.Join(dir, "data"), "--adapter-root", filepath.Join(dir, "voices"), "--lora-paths", "a=" + made[0], "b=" + made[1],
	}})
	s.http = s.front.Message(t, "serving", startLimit)["http"].(string)

	run("bench", "--server", s.http, "--lora", "none,each", "--clients", "2", "--prompt-len", "9", "--output-len", "5", "--raw", "--json", "burst.json")
	run("bench", "serve", "--server", s.http, "--load", ".5", "--cv", "1,4", "--alpha", ".3", "--clients", "4", "--duration", "1s",
		"--prompt-len", "4:9", "--output-len", "4:9", "--json", "sweep.json")
	run("bench", "coldstart", "--target", s.http, "--adapter", made[2], "--adapter", made[3], "--trials", "2", "--warmup", "1", "--background", "2",
		"--settle", "50ms", "--prompt-len", "16", "--json", "cold.json")
	run("bench", "adapters", "--shape", "tiny", "--registered", "12", "--loads", "2", "--load-rank", "4", "--rounds", "2", "--first-tokens", "2",
		"--threads", "1", "--json", "adapters.json")
	for name, want := range map[string]struct {
		kind  string
		count func(r map[string]any) int
		n     int
	}{
		"burst": {"serve", func(r map[string]any) int { return len(r["cells"].([]any)) }, 2},
		"sweep": {"sweep", func(r map[string]any) int { return len(r["points"].([]any)) }, 4},
		"cold":  {"coldstart", func(r map[string]any) int { return len(r["states"].([]any)) }, 3},

		"adapters": {"adapters", func(r map[string]any) int { return len(r["rounds"].([]any)) }, 2},
	} {
		b, err := os.ReadFile(filepath.Join(dir, name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var r map[string]any
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		if r["kind"] != want.kind || want.count(r) != want.n || !strings.HasPrefix(r["command"].([]any)[0].(string), "chorale") {
			t.Errorf("%s: %s", name, b)
		}
	}
	if out := run("bench", "plot", "burst.json", "sweep.json", "cold.json"); strings.Count(out, ".svg") != 3 {
		t.Errorf("drawn: %s", out)
	}
	// The server is as it was found.
	var list struct{ Data []struct{ ID string } }
	code, body := s.get("/v1/models")
	if err := json.Unmarshal(body, &list); err != nil || code != 200 || len(list.Data) != 3 {
		t.Errorf("%d %s", code, body)
	}
	if out := run("bench", "--help"); !strings.Contains(out, "coldstart") {
		t.Errorf("help: %s", out)
	}
	fails(t, testkit.Options{Args: []string{"bench", "coldstart", "--target", s.http, "--adapter", made[2]}}, 1, "at least two")
}
