package tests

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// SoakEnv is how long TestSoak puts load on a site, such as 10m; half of it is
// the warm-up that the other half is compared with.
const SoakEnv = "CHORALE_SOAK"

// TestSoak: random load of all sizes, adapters, parameters, aborts, bad requests,
// loads, replacements and unloads leaves nothing behind: neither memory of device
// and host, nor pages, leases or routines. And the answers of a fixed probe, beside
// the load and after it, are those from before.
func TestSoak(t *testing.T) {
	length := 20 * time.Second
	if v := os.Getenv(SoakEnv); v != "" {
		var err error
		if length, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	l := steady()
	l.maxLoaded = len(names)
	l.all = []string{"--max-loras-per-batch", "3"}
	k := &soak{site: startServe(t, l), want: map[string]string{}}
	for _, n := range names {
		k.load(n)
	}
	for i := range probes {
		k.want[fmt.Sprint(i)] = k.probe(i)
	}
	k.press(length/2, 1)
	first := k.weigh()
	k.press(length/2, 2)
	second := k.weigh()
	t.Logf("%d answers and %d probes, %d cut off, %d refused, %d adapters changed", k.answers.Load(), k.probed.Load(), k.cut.Load(), k.refusals.Load(), k.changes.Load())
	t.Logf("after the first half:  %+v", first)
	t.Logf("after the second half: %+v", second)
	first.grown(t, second)
	for i := range probes {
		if got := k.probe(i); got != k.want[fmt.Sprint(i)] {
			t.Errorf("probe %d after the load: %q, before %q", i, got, k.want[fmt.Sprint(i)])
		}
	}
}

// soak is a site under random load.
type soak struct {
	*site
	want                                    map[string]string
	answers, probed, cut, refusals, changes atomic.Int64
}

// probes are the fixed requests: an adapter that nobody changes, or the base.
var probes = []struct {
	adapter, prompt string
	temperature     float64
}{
	{"", "The captain said", 0},
	{"alto", "The captain said", 0},
	{"bass", "Once upon a time there was a small town by the sea, and", 0},
	{"alto", "The captain said", 0.8},
	{"canto", strings.Repeat("one two three ", 60), 0},
	{"", "Name three rivers.", 1.1},
}

// probe gives the answer to a fixed request.
func (k *soak) probe(i int) string {
	p := probes[i]
	b := greedy(p.prompt, p.adapter, 24)
	if p.temperature > 0 {
		b["sampling_params"] = object{"temperature": p.temperature, "top_p": 0.9, "max_new_tokens": 24, "ignore_eos": true, "sampling_seed": 40 + i}
	}
	code, raw := k.post("/generate", b)
	if code != 200 {
		return fmt.Sprintf("status %d %s", code, raw)
	}
	text, _, _ := strings.Cut(string(raw), `"meta_info"`)
	return text
}

// press puts load on the site for a while.
func (k *soak) press(length time.Duration, seed uint64) {
	k.t.Helper()
	end := time.Now().Add(length)
	var wg sync.WaitGroup
	for c := range 20 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(c)))
			for time.Now().Before(end) {
				k.request(r)
			}
		})
	}
	for _, name := range []string{"duo", "echo"} {
		wg.Go(func() { k.replace(name, end, rand.New(rand.NewPCG(seed, uint64(len(name))))) })
	}
	wg.Wait()
}

// request makes one request of some kind.
func (k *soak) request(r *rand.Rand) {
	switch r.IntN(10) {
	case 0, 1:
		i := r.IntN(len(probes))
		if got := k.probe(i); got != k.want[fmt.Sprint(i)] {
			k.t.Errorf("probe %d beside the load: %q, alone %q", i, got, k.want[fmt.Sprint(i)])
		}
		k.probed.Add(1)
	case 2:
		k.bad(r)
	case 3, 4:
		k.leave(r)
	default:
		b := k.random(r)
		code, raw := k.post("/generate", b)
		// Whoever asks for an adapter that is being changed may be refused.
		if a, _ := b["lora_path"].(string); code != 200 && a != "duo" && a != "echo" {
			k.t.Errorf("%s = %d %s", text(b), code, raw)
		}
		k.answers.Add(1)
	}
}

// random is a request of any size.
func (k *soak) random(r *rand.Rand) object {
	words := make([]string, 1+r.IntN(1<<r.IntN(8)))
	for i := range words {
		words[i] = []string{"sea", "ship", "the", "of", "Ana", "17", "blue", "and", "Zürich", "🎻"}[r.IntN(10)]
	}
	p := object{"max_new_tokens": 1 + r.IntN(1<<r.IntN(7)), "ignore_eos": r.IntN(3) > 0, "sampling_seed": r.IntN(1000)}
	if r.IntN(2) == 0 {
		p["temperature"], p["top_p"], p["top_k"] = r.Float64()*2, 0.2+0.8*r.Float64(), 1+r.IntN(200)
		p["frequency_penalty"], p["min_p"] = r.Float64(), r.Float64()/10
	} else {
		p["temperature"] = 0
	}
	if r.IntN(4) == 0 {
		p["stop"] = []string{"sea", "\n\n"}
	}
	b := object{"text": strings.Join(words, " "), "sampling_params": p}
	if a := slices.Concat(names, []string{""})[r.IntN(len(names)+1)]; a != "" {
		b["lora_path"] = a
	}
	if r.IntN(4) == 0 {
		b["return_logprob"], b["top_logprobs_num"], b["logprob_start_len"] = true, r.IntN(4), 0
	}
	return b
}

// leave begins a stream and goes away in the middle.
func (k *soak) leave(r *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	b := k.random(r)
	b["stream"] = true
	b["sampling_params"].(object)["max_new_tokens"] = 200
	events := r.IntN(20)
	k.stream(ctx, "/generate", b, func(string) bool { events--; return events > 0 })
	k.cut.Add(1)
}

// bad makes a request that must be refused.
func (k *soak) bad(r *rand.Rand) {
	b := []object{
		greedy("x", "nobody", 4),
		{"text": strings.Repeat("long ", 2000), "sampling_params": object{"max_new_tokens": 4}},
		{"text": "x", "sampling_params": object{"temperature": -1}},
		{"text": 7},
		{"input_ids": []int{-4, 1 << 30}, "sampling_params": object{"max_new_tokens": 4}},
	}[r.IntN(5)]
	if code, raw := k.post("/generate", b); code < 400 || code > 499 {
		k.t.Errorf("%s = %d %s", text(b), code, raw)
	}
	k.refusals.Add(1)
}

// replace unloads an adapter and loads it again, until the end.
func (k *soak) replace(name string, end time.Time, r *rand.Rand) {
	for time.Now().Before(end) {
		if code, raw := k.post("/unload_lora_adapter", object{"lora_name": name}); code != 200 {
			k.t.Errorf("unload %s = %d %s", name, code, raw)
		}
		time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
		if code, raw := k.post("/load_lora_adapter", object{"lora_name": name, "lora_path": name}); code != 200 {
			k.t.Errorf("load %s = %d %s", name, code, raw)
		}
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		k.changes.Add(1)
	}
}

// weight is what a site holds when nothing runs.
type weight struct {
	// Resident is the process's memory, Device all that is in use on the GPU,
	// bytes; -1 where there is none.
	Resident, Device float64
	Pages, Adapters  float64
	Routines         float64
}

// weigh waits until nothing runs, empties the prefix cache and looks.
func (k *soak) weigh() weight {
	k.t.Helper()
	k.idle(callLimit)
	k.until("the prefix cache is empty", callLimit, func() bool {
		code, _ := k.post("/flush_cache", object{})
		return code == 200 && k.series("chorale_kv_pages", `state="used"`) <= 0
	})
	web.CloseIdleConnections()
	w := weight{Pages: k.series("chorale_kv_pages", `state="used"`), Adapters: k.metric("chorale_adapter_bytes"), Device: k.series("chorale_device_memory_bytes", `state="used"`)}
	k.until("connections are closed", callLimit, func() bool {
		before := w.Routines
		time.Sleep(500 * time.Millisecond)
		w.Routines = k.metric("go_goroutines")
		return before == w.Routines
	})
	w.Resident = resident(k.t, k.front.PID())
	return w
}

// series is the sum of a metric's values with a label.
func (s *site) series(name, label string) float64 {
	s.t.Helper()
	_, raw := s.get("/metrics")
	sum, found := 0.0, false
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, label) {
			if v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]), 64); err == nil {
				sum, found = sum+v, true
			}
		}
	}
	if !found {
		return -1
	}
	return sum
}

// resident is a process's resident memory in bytes.
func resident(t testing.TB, pid int) float64 {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	var kib float64
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			fmt.Sscan(rest, &kib)
		}
	}
	return kib * 1024
}

// grown fails when there is more than before, beyond what the process's heap does
// from one collection to the next.
func (w weight) grown(t *testing.T, now weight) {
	t.Helper()
	for _, c := range []struct {
		what               string
		before, now, slack float64
	}{
		{"resident memory", w.Resident, now.Resident, 48 << 20},
		{"device memory", w.Device, now.Device, 4 << 20},
		{"used pages", 0, max(now.Pages, 0), 0},
		{"bytes of adapters", w.Adapters, now.Adapters, 0},
		{"goroutines", w.Routines, now.Routines, 4},
	} {
		if c.now > c.before+c.slack {
			t.Errorf("%s grew from %.0f to %.0f", c.what, c.before, c.now)
		}
	}
}
