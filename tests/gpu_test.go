package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"chorale/internal/testkit"
)

// gpuSite is serve on a GPU without kernels.
type gpuSite struct {
	*site
	gpu    *testkit.GPU
	config string
}

func newGPUSite(t *testing.T) *gpuSite {
	g := &gpuSite{site: &site{t: t}, gpu: testkit.FakeGPU(t), config: filepath.Join(t.TempDir(), "config.json")}
	if err := os.WriteFile(g.config, []byte(dummyConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	return g
}

// options are those of the process, with more flags.
func (g *gpuSite) options(more ...string) testkit.Options {
	return testkit.Options{Name: "serve", Faulty: true, Env: g.gpu.Env, Args: slices.Concat([]string{
		"serve", "--model-path", g.config, "--load-format", "dummy", "--skip-tokenizer-init", "--log-format", "json", "--port", "0",
		"--data-dir", filepath.Join(filepath.Dir(g.config), "data"), "--max-running-requests", "12",
	}, more)}
}

func (g *gpuSite) start(more ...string) {
	g.t.Helper()
	g.front = testkit.Start(g.t, g.options(more...))
	g.http = g.front.Message(g.t, "serving", startLimit)["http"].(string)
	g.until("it is ready", startLimit, func() bool { code, _ := g.get("/health"); return code == 200 })
}

// long begins an answer of some seconds and waits until it is computed; its HTTP
// status comes.
func (g *gpuSite) long() <-chan int {
	g.t.Helper()
	ended := make(chan int, 1)
	go func() {
		code, _, _ := g.do("POST", "/generate", tokens(240))
		ended <- code
	}()
	g.until("it computes", callLimit, func() bool {
		var info struct {
			Running int `json:"num_running_reqs"`
		}
		_, raw := g.get("/server_info")
		return json.Unmarshal(raw, &info) == nil && info.Running == 1
	})
	return ended
}

// tokens asks for n tokens.
func tokens(n int) object {
	return object{"input_ids": []int{5, 6}, "sampling_params": object{"temperature": 0, "max_new_tokens": n, "ignore_eos": true}}
}

func (g *gpuSite) metric(line string) bool {
	_, raw := g.get("/metrics")
	return strings.Contains(string(raw), line+"\n")
}

// TestE2EGPU: everything around the kernels. The worker is warm before it serves,
// and what its driver tells is in the metrics.
func TestE2EGPU(t *testing.T) {
	g := newGPUSite(t)
	g.start("--device", "cuda")
	if sizes := g.front.Message(t, "warm", startLimit)["sizes"].(float64); sizes < 10 {
		t.Errorf("warm after %v sizes", sizes)
	}
	var out struct {
		IDs []int32 `json:"output_ids"`
	}
	if g.ask("/generate", tokens(3), &out); !slices.Equal(out.IDs, []int32{7, 7, 7}) {
		t.Errorf("said %v", out.IDs)
	}
	for _, line := range []string{
		`chorale_device_healthy{device="0",worker="local"} 1`, `chorale_device_temperature_celsius{device="0",worker="local"} 41`,
		`chorale_device_info{device="0",name="Fake GPU 0",uuid="GPU-aaaa1111-0000",worker="local"} 1`,
	} {
		g.until("there is "+line, callLimit, func() bool { return g.metric(line) })
	}
	g.front.Kill()
	fails(t, g.options("--device", "cuda:5"), 1, "--device cuda:5", "no GPU 5")
	fails(t, g.options("--device", "cuda", "--dtype", "float32"), 1, "only bfloat16")
}

// TestE2EGPUUnhealthy: after an error of the GPU's own nothing new is taken; what
// runs goes on.
func TestE2EGPUUnhealthy(t *testing.T) {
	g := newGPUSite(t)
	g.start("--device", "cuda:0", "--skip-server-warmup")
	ended := g.long()
	if err := os.WriteFile(g.gpu.Event, []byte("xid 79"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.until("it is unhealthy", callLimit, func() bool { code, _ := g.get("/health"); return code == 503 })
	g.refused("/generate", tokens(1), 503, "no worker group is available")
	if _, raw := g.get("/health"); !strings.Contains(string(raw), "XID 79 (the GPU has fallen off the bus)") {
		t.Errorf("/health: %s", raw)
	}
	if !g.metric(`chorale_device_healthy{device="0",worker="local"} 0`) || !g.metric(`chorale_device_last_xid{device="0",worker="local"} 79`) {
		t.Error("the metrics do not tell")
	}
	if code := <-ended; code != 200 {
		t.Errorf("the answer under way: %d", code)
	}
}

// TestE2EGPULost: a CUDA error ends the process with a report.
func TestE2EGPULost(t *testing.T) {
	g := newGPUSite(t)
	g.start("--skip-server-warmup") // auto takes the GPU
	ended := g.long()
	g.front.Signal(syscall.SIGUSR1)
	obituary(t, g.front)
	if code := <-ended; code == 200 {
		t.Error("an answer of a lost device")
	}
	if log := g.front.Log(); !strings.Contains(log, "CUDA error 700") || !strings.Contains(log, `"uuid":"GPU-aaaa1111-0000"`) {
		t.Errorf("the report: %s", log)
	}
}
