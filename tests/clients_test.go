package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"chorale/internal/testkit"
)

// clientSite is a server with adapters under the names that the examples and
// the documentation use.
func clientSite(t *testing.T) *site {
	t.Helper()
	s := startServe(t, limits{sense: true})
	for i, n := range []string{"json", "sql", "pirate", "date", "label"} {
		a := voices[names[i]]
		a.Write(t, filepath.Join(s.root, "examples", "adapters", n))
	}
	for _, n := range []string{"json", "pirate", "sql"} {
		s.ask("/load_lora_adapter", object{"lora_name": n, "lora_path": "examples/adapters/" + n}, &object{})
	}
	return s
}

// shell runs a program and gives what it prints.
func shell(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = testkit.Root(), append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// python is a virtual environment with the packages of the examples, made once
// below .cache.
func python(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(testkit.Root(), ".cache", "venv", "clients")
	bin := filepath.Join(dir, "bin", "python")
	if exec.Command(bin, "-c", "import openai, requests").Run() != nil {
		shell(t, nil, "python3", "-m", "venv", "--clear", dir)
		shell(t, nil, bin, "-m", "pip", "install", "-q", "--disable-pip-version-check", "openai==3.54.0", "requests==2.34.2")
	}
	return bin
}

// grpcurl builds the program once, below .cache.
func grpcurl(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(testkit.Root(), ".cache", "bin", "grpcurl")
	if _, err := os.Stat(bin); err != nil {
		shell(t, nil, "go", "build", "-modfile=tools/clients/go.mod", "-o", bin, "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	}
	return bin
}

// TestClients: the examples run, and show what they promise.
func TestClients(t *testing.T) {
	s := clientSite(t)
	py, gc := python(t), grpcurl(t)
	show := func(t *testing.T, out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("no %q in:\n%s", w, out)
			}
		}
	}
	t.Run("curl", func(t *testing.T) {
		out := shell(t, nil, "examples/clients/curl.sh", s.http, "json")
		show(t, out, `"id":"json"`, `"object":"chat.completion"`, "data: [DONE]", `"meta_info"`, `"generations"`, `{"result":{`, "chorale_step_adapters_max{")
	})
	t.Run("openai", func(t *testing.T) {
		out := shell(t, nil, py, "examples/clients/openai_client.py", s.http+"/v1", "json")
		show(t, out, "models: "+served+", json, pirate, sql", "json: ", "(16 tokens)", "completion: ", "unknown: ", "nobody")
	})
	t.Run("sglang", func(t *testing.T) {
		out := shell(t, nil, py, "examples/clients/sglang_requests.py", s.http, "json", "late="+filepath.Join(s.root, "duo"))
		show(t, out, "'type': 'length'", "stream: ", "('The', None)", "loaded: ['json', 'late', 'pirate', 'sql']", "left: ['json', 'pirate', 'sql']")
	})
	t.Run("grpcurl", func(t *testing.T) {
		out := shell(t, []string{"GRPCURL=" + gc}, "examples/clients/grpcurl.sh", s.grpc, "json")
		show(t, out, "chorale.v1.InferenceService", "SERVING", `"adapter": "json"`, "FINISH_REASON_LENGTH", "ADAPTER_STATE_LOADED")
	})
}

// fence finds fenced blocks of documentation with their language.
var fence = regexp.MustCompile("(?ms)^```(sh|python)\n(.*?)^```")

// TestDocumentation: the calls that the README and the quickstart show work as
// they stand there; only the ports differ.
func TestDocumentation(t *testing.T) {
	s := clientSite(t)
	py, gc := python(t), grpcurl(t)
	host := strings.TrimPrefix(s.http, "http://")
	// The commands run where examples/adapters/… are the site's adapters.
	ran := 0
	for _, file := range []string{"README.md", "docs/quickstart.md"} {
		text, err := os.ReadFile(filepath.Join(testkit.Root(), file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
			code := strings.NewReplacer("127.0.0.1:30000", host, "127.0.0.1:30001", s.grpc, "bin/chorale", testkit.Binary(t)).Replace(m[2])
			isCall := regexp.MustCompile(`(?m)^(curl|grpcurl|\S*chorale (generate|chat --|adapter)) `).MatchString(code)
			if m[1] == "sh" && (!isCall || strings.Contains(m[2], "chorale serve") || strings.Contains(m[2], "make ")) {
				continue
			}
			ran++
			cmd := exec.Command("bash", "-euo", "pipefail", "-c", "curl() { command curl --fail-with-body -sS \"$@\"; }\n"+code)
			if m[1] == "python" {
				cmd = exec.Command(py, "-c", code)
			}
			cmd.Dir = s.root
			cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(gc)+":"+os.Getenv("PATH"), "CHORALE_SERVER="+s.http)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s\n%s", file, err, code, out)
			}
		}
	}
	if ran < 4 {
		t.Errorf("only %d blocks of the documentation are calls", ran)
	}
}
