package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"chorale/bench"
	"chorale/bench/client"
	"chorale/internal/hub"
	"chorale/internal/hub/hubtest"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// clientCLI are the client commands alone.
type clientCLI struct {
	Adapter  adapterCmd  `cmd:""`
	Chat     chatCmd     `cmd:""`
	Generate generateCmd `cmd:""`
	Bench    benchCmd    `cmd:""`
	Pull     pullCmd     `cmd:""`
}

func parseClient(t *testing.T, args ...string) (*clientCLI, error) {
	t.Helper()
	c := &clientCLI{}
	p, err := kong.New(c, kong.DefaultEnvars("CHORALE"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Parse(args)
	return c, err
}

func TestClientFlags(t *testing.T) {
	t.Setenv("CHORALE_SERVER", "http://h:1")
	c, err := parseClient(t, "generate", "-", "--voice", "a,b", "--stop", "x,y", "--seed", "7", "--top-p", "0.5")
	if err != nil {
		t.Fatal(err)
	}
	g := &c.Generate
	p := g.params()
	if g.Prompt != "-" || g.Server != "http://h:1" || g.Voice != "a,b" || !cmp.Equal(p.GetStop(), []string{"x,y"}) || p.GetSeed() != 7 || p.GetTopP() != .5 || p.TopK != nil || p.GetMaxTokens() != 256 {
		t.Errorf("%+v", g)
	}
	if c, err = parseClient(t, "chat", "--voice", "a,b", "--voice", "c", "hello"); err != nil || !cmp.Equal(c.Chat.Voice, []string{"a,b", "c"}) || c.Chat.Prompt != "hello" {
		t.Errorf("%+v, %v", c.Chat, err)
	}
}

func TestExplain(t *testing.T) {
	ctx := t.Context()
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&client.UnreachableError{Server: "http://h:1", Err: errors.New("refused")}, "start one: chorale serve"},
		{&client.StatusError{Status: 401, Message: "no key"}, "--api-key"},
		{&client.StatusError{Status: 404, Message: "no adapter"}, "no adapter"},
		{&client.StatusError{Status: 404, Message: "at another address (--admin-listen)"}, "say where: --server"},
		{io.EOF, "EOF"},
	} {
		if got := explain(ctx, tt.err); !errors.Is(got, tt.err) || !strings.Contains(got.Error(), tt.want) {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
	if explain(ctx, nil) != nil {
		t.Error("error out of nothing")
	}
	f := clientFlags{Server: "http://127.0.0.1:1", Timeout: time.Nanosecond}
	c, ctx, done, err := f.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	<-ctx.Done()
	_, err = c.Server(ctx)
	if got := explain(ctx, err); got == nil || !strings.Contains(got.Error(), "--timeout 1ns") {
		t.Errorf("error %v", got)
	}
	if _, _, _, err := (&clientFlags{Server: "ftp://x"}).open(context.Background()); !errors.Is(err, client.ErrServer) {
		t.Errorf("error %v", err)
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{"a\n\tb": "a\n\tb", "\x1b]0;x\x07": "␛]0;x␇", "\x7f\u0085": "␡�", "日本👩‍👧": "日本👩‍👧", "\x00": "␀"} {
		if got := printable(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestReadPrompt(t *testing.T) {
	if s, err := readPrompt("-", strings.NewReader("from a pipe\n")); err != nil || s != "from a pipe\n" {
		t.Errorf("%q, %v", s, err)
	}
	if s, err := readPrompt("text", nil); err != nil || s != "text" {
		t.Errorf("%q, %v", s, err)
	}
	for _, in := range []io.Reader{strings.NewReader(""), io.LimitReader(zeros{}, maxPrompt+1)} {
		if _, err := readPrompt("-", in); err == nil {
			t.Error("no error")
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestWriteAdapters(t *testing.T) {
	var b strings.Builder
	err := writeAdapters(&b, []*choralev1.Adapter{
		{
			Name: "json", State: choralev1.AdapterState_ADAPTER_STATE_LOADED, MaxRank: 16, TargetModules: []string{"q_proj", "v_proj"},
			SizeBytes: 2 << 20, Pinned: true, Source: "/adapters/json", Digest: "sha256:0123456789abcdef0123", Version: 3,
			Versions: []*choralev1.AdapterVersion{{Number: 2}, {Number: 3, Weight: 90}, {Number: 4, Weight: 10}},
		},
		{
			Name: "日本\x1b[1m", State: choralev1.AdapterState_ADAPTER_STATE_LOADING, MaxRank: 4, SizeBytes: 100,
			TargetModules: []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, Source: "ORG/NAME",
			Placements: []*choralev1.GroupPlacement{{Worker: "w0", Loaded: true}, {Worker: "w1", Error: "connection refused"}},
		},
		{Name: "broken", State: choralev1.AdapterState_ADAPTER_STATE_FAILED, Message: "shape of q_proj.lora_A", Source: "x"},
	})
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "adapters.txt", b.String())
	b.Reset()
	if err := writeAdapters(&b, nil); err != nil || !strings.HasPrefix(b.String(), "no adapters") {
		t.Errorf("%q, %v", b.String(), err)
	}
	b.Reset()
	err = writeVerdict(&b, "/a", &choralev1.ValidateAdapterResponse{
		Problems: []string{"q_proj.lora_A: shape [4 5], want [4 6]", "rank 900 is above 512"}, MaxRank: 900, TargetModules: []string{"q_proj"},
		Modules: []*choralev1.AdapterModule{{Name: "m", Rank: 900}}, SizeBytes: 3000, BaseModel: "org/base",
	})
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "verdict.txt", b.String())
}

func TestLoadNames(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("here", 0o755); err != nil {
		t.Fatal(err)
	}
	here := filepath.Join(dir, "here")
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		here = filepath.Join(real, "here")
	}
	for _, tt := range []struct{ adapter, path, name, source string }{
		{"a=here", "", "a", here},
		{"a=b=c", "here", "a=b=c", here},
		{"a", "ORG/NAME", "a", "ORG/NAME"},
		{"a=x=y", "", "a", "x=y"},
	} {
		name, source, err := (&adapterLoadCmd{Adapter: tt.adapter, Path: tt.path}).names()
		if err != nil || name != tt.name || source != tt.source {
			t.Errorf("%q %q: %q, %q, %v", tt.adapter, tt.path, name, source, err)
		}
	}
	for _, s := range []string{"a", "=x", "a="} {
		if _, _, err := (&adapterLoadCmd{Adapter: s}).names(); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 3 << 20: "3.0 MiB", 5 << 30: "5.0 GiB", 2 << 50: "2048.0 TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestPull(t *testing.T) {
	srv := hubtest.New()
	srv.Put("org/m", hubtest.Repo{Files: map[string][]byte{"config.json": []byte("{}"), "model.safetensors": make([]byte, 5000)}})
	t.Cleanup(srv.Close)
	c, err := hub.New(hub.Options{CacheDir: t.TempDir(), Endpoint: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	var out strings.Builder
	dir, err := snapshot(t.Context(), c, "org/m", "main", &out)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "model.safetensors")); err != nil || len(b) != 5000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if !strings.HasSuffix(out.String(), "org/m: 4.9 KiB of 4.9 KiB\n") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("progress %q", out.String())
	}
	if _, err := snapshot(t.Context(), c, "org/none", "main", nil); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if err := (&pullCmd{Repo: "org/m@a", Revision: "b"}).Run(t.Context()); err == nil {
		t.Error("two revisions and no error")
	}
	if err := (&pullCmd{Repo: "../x"}).Run(t.Context()); !errors.Is(err, hub.ErrName) {
		t.Errorf("error %v", err)
	}
}

func TestLineProgress(t *testing.T) {
	now := time.Unix(0, 0)
	var out strings.Builder
	report := lineProgress(&out, "r", func() time.Time { return now })
	for i := range 12 {
		now = now.Add(time.Second)
		report(hub.Progress{TotalDone: int64(i), TotalSize: 11})
	}
	if d := cmp.Diff("r: 4 B of 11 B\nr: 9 B of 11 B\nr: 11 B of 11 B\n", out.String()); d != "" {
		t.Error(d)
	}
}

func TestBenchConfig(t *testing.T) {
	dir := t.TempDir()
	lengths, prompts := filepath.Join(dir, "l"), filepath.Join(dir, "p")
	for path, text := range map[string]string{lengths: "1 2\n3 4\n", prompts: "one\n\ntwo\r\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, err := parseClient(t, "bench", "serve", "--compare", "--target", "peer=http://h:1,api=llama,pid=3", "--target", "http://h:2", "--lora", "none,power",
		"--adapter-pattern", "r16-%d", "--num-adapters", "2", "--rate", "2", "--cv", "4", "--prompt-len", "8:512", "--lengths", lengths, "--prompts", prompts,
		"--quiet", "--api-key", "secret", "--slo-ttft", "2s")
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Bench.Serve.config()
	want := bench.Config{
		Targets: []bench.TargetSpec{{Name: "peer", URL: "http://h:1", API: "llama", PID: 3, Key: "secret"}, {Name: "h:2", URL: "http://h:2", API: "chorale", Key: "secret"}},
		Modes:   []bench.Mode{"none", "power"}, Rate: 2, CV: 4, Duration: 30 * time.Second, Repeat: 1, Warmup: 1, Adapters: []string{"r16-0", "r16-1"}, Alpha: 1,
		Prompt: bench.Lengths{Lo: 8, Hi: 512}, Output: bench.Lengths{Lo: 64}, Pairs: []bench.Pair{{Prompt: 1, Output: 2}, {Prompt: 3, Output: 4}},
		Texts: []string{"one", "two"}, Seed: 1, MaxDuration: 10 * time.Minute, SLO: bench.SLO{TTFT: 2},
	}
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := commandLine([]string{"/x/chorale", "bench", "--api-key=secret"}, "secret", ""); !cmp.Equal(got, []string{"chorale", "bench", "--api-key=…"}) {
		t.Errorf("command %v", got)
	}
	for _, args := range [][]string{
		{"--compare"},
		{"--compare", "--target", "http://h"},
		{"--target", "a=http://h", "--target", "b=http://h", "--pid", "1"},
		{"--target", "a=http://h,api=x"},
		{"--num-adapters", "3"},
		{"--adapter-pattern", "x", "--num-adapters", "3"},
		{"--adapter-pattern", "%d%s", "--num-adapters", "3"},
		{"--adapter-pattern", "%d"},
		{"--prompt-len", "0"},
		{"--output-len", "9:8"},
		{"--plot", "x.pdf"},
		{"--lengths", prompts},
		{"--alpha", ".1,1"},
		{"--count", "3"},
	} {
		c, err := parseClient(t, append([]string{"bench", "serve"}, args...)...)
		if err == nil {
			_, err = c.Bench.Serve.config()
		}
		if err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

func TestBenchSweepConfig(t *testing.T) {
	c, err := parseClient(t, "bench", "serve", "--load", ".5,.9", "--alpha", ".1,1", "--cv", "1,8", "--clients", "64", "--quiet")
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Bench.Serve.sweepConfig()
	if err != nil {
		t.Fatal(err)
	}
	want := bench.Sweep{
		Config: bench.Config{
			Targets: []bench.TargetSpec{{Name: "chorale", URL: "http://127.0.0.1:30000", API: "chorale"}}, Clients: 64, Duration: time.Minute, Warmup: 1,
			Prompt: bench.Lengths{Lo: 8, Hi: 512}, Output: bench.Lengths{Lo: 8, Hi: 512}, Seed: 1, SLO: bench.SLO{TTFT: 6},
		},
		Counts: []int{0, bench.AllAdapters}, Alphas: []float64{.1, 1}, CVs: []float64{1, 8}, Loads: []float64{.5, .9},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, args := range [][]string{{"--rate", "3"}, {"--requests", "3"}, {"--repeat", "2"}, {"--plot", "x.pdf"}} {
		c, err := parseClient(t, append([]string{"bench", "serve", "--load", "1"}, args...)...)
		if err == nil {
			_, err = c.Bench.Serve.sweepConfig()
		}
		if err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

// TestBenchRun measures a fake server and writes all that can be written.
func TestBenchRun(t *testing.T) {
	_, cl := newFake(t)
	dir := t.TempDir()
	c, err := parseClient(t, "bench", "serve", "--server", cl.URL(), "--api", "openai", "--quiet")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Bench.Serve.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("error %v: the fake has no completions", err)
	}
	out := filepath.Join(dir, "new", "r.json")
	res := &bench.Result{Config: bench.Config{Targets: []bench.TargetSpec{{Name: "a", Key: "secret"}}}}
	if err := (&benchServeCmd{reportFlags: reportFlags{JSON: out, Plot: filepath.Join(dir, "p.svg")}}).write(res); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b) || strings.Contains(string(b), "secret") {
		t.Errorf("%s", b)
	}
}

// TestBarEnds: a bar ends whether all came, nothing had to come, or it failed.
func TestBarEnds(t *testing.T) {
	for _, done := range []int64{0, 50, 100} {
		for _, ok := range []bool{true, false} {
			f, err := os.Create(filepath.Join(t.TempDir(), "out"))
			if err != nil {
				t.Fatal(err)
			}
			report, end := barProgress(f, "org/m")
			if done > 0 {
				report(hub.Progress{TotalDone: done, TotalSize: 100})
			}
			end(ok)
			f.Close()
		}
	}
}
