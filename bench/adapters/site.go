package adapters

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"chorale/bench"
	"chorale/bench/client"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/model"
)

// site are the processes and what they read.
type site struct {
	c   *Config
	dir string

	client                  *client.Client
	worker, manager, router *process
	workerAddr, managerAddr string
	httpAddr, config        string
}

// process is a role.
type process struct {
	cmd   *exec.Cmd
	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced with each line, closed for good at the end
	ended bool
}

// begin starts a role.
func (s *site) begin(args ...string) (*process, error) {
	p := &process{cmd: exec.Command(s.c.Binary, append(args, "--log-format", "json")...), more: make(chan struct{})}
	p.cmd.Dir = s.dir
	r, err := p.cmd.StderrPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrConfig, args[0], err)
	}
	go p.read(r)
	return p, nil
}

func (p *process) read(r io.Reader) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, in.Text())
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	close(p.more)
}

// says waits for a message of the log and returns its fields.
func (p *process) says(ctx context.Context, message string) (map[string]any, error) {
	for {
		p.mu.Lock()
		lines, more, ended := slices.Clone(p.lines), p.more, p.ended
		p.mu.Unlock()
		for _, l := range lines {
			var m map[string]any
			if strings.Contains(l, message) && json.Unmarshal([]byte(l), &m) == nil && m["msg"] == message {
				return m, nil
			}
		}
		if ended {
			return nil, fmt.Errorf("%w: a process ended before it said %q: %s", ErrConfig, message, strings.Join(lines, "\n"))
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// end kills it and waits.
func (p *process) end() {
	if p != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // killed
	}
}

// resident is its memory in bytes; 0 where nobody tells.
func (p *process) resident() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}

// cpu is the processor time that all roles have used so far.
func (s *site) cpu() float64 {
	sum := 0.0
	for _, p := range []*process{s.router, s.manager, s.worker} {
		used, _ := bench.CPUSeconds(p.cmd.Process.Pid) // 0 where nobody tells
		sum += used
	}
	return sum
}

func (s *site) stop() {
	for _, p := range []*process{s.router, s.manager, s.worker} {
		p.end()
	}
}

// write makes the model's shape and all adapters' folders.
func (s *site) write(context.Context) error {
	s.config = filepath.Join(s.dir, "config.json")
	if err := os.WriteFile(s.config, s.c.Shape.Config, 0o600); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	s.c.say("writing %d adapters of rank %d and %d of rank %d", s.c.Registered, s.c.Rank, s.c.Loads, s.c.LoadRank)
	for i := range s.c.Registered {
		if err := s.adapter(s.small(i), s.c.Rank, s.c.Modules, uint64(i)); err != nil {
			return err
		}
	}
	for i := range max(s.c.Loads, 1) {
		if err := s.adapter(s.large(i), s.c.LoadRank, nil, uint64(i)); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) small(i int) string { return filepath.Join(s.dir, "voices", fmt.Sprint("small-", i)) }

func (s *site) large(i int) string { return filepath.Join(s.dir, "voices", fmt.Sprint("large-", i)) }

func (s *site) adapter(dir string, rank int, modules []string, seed uint64) error {
	config, tensors, err := model.DummyAdapter(&s.c.Shape.Spec, model.DummyLoRA{Base: "noise", Rank: rank, Modules: modules, Seed: seed + 1})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	var weights bytes.Buffer
	if err := safetensors.Write(&weights, tensors, nil); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, peft.ConfigFile), config, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, peft.WeightsFile), weights.Bytes(), 0o600)
}

func fileSize(dir string) int64 {
	st, err := os.Stat(filepath.Join(dir, peft.WeightsFile))
	if err != nil {
		return 0
	}
	return st.Size()
}

// startWorker, startManager and startRouter return once the role has said that it
// is ready.
func (s *site) startWorker(ctx context.Context) (err error) {
	args := []string{"worker", "--model-path", s.config, "--load-format", "dummy", "--device", "cpu", "--max-total-tokens", "16384", "--listen", "127.0.0.1:0"}
	if s.c.Threads > 0 {
		args = append(args, "--threads", fmt.Sprint(s.c.Threads))
	}
	if s.worker, err = s.begin(args...); err != nil {
		return err
	}
	said, err := s.worker.says(ctx, "worker ready")
	s.workerAddr, _ = said["grpc"].(string)
	return err
}

func (s *site) startManager(ctx context.Context) (err error) {
	addr := s.managerAddr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	s.manager, err = s.begin("adaptermgr", "--worker", s.workerAddr, "--data-dir", filepath.Join(s.dir, "data"), "--adapter-root", filepath.Join(s.dir, "voices"), "--listen", addr)
	if err != nil {
		return err
	}
	said, err := s.manager.says(ctx, "adapter manager ready")
	s.managerAddr, _ = said["grpc"].(string)
	return err
}

func (s *site) startRouter(ctx context.Context) (err error) {
	if s.router, err = s.begin("router", "--model-path", s.config, "--skip-tokenizer-init", "--worker", s.workerAddr, "--adaptermgr", s.managerAddr, "--port", "0"); err != nil {
		return err
	}
	said, err := s.router.says(ctx, "serving")
	if err != nil {
		return err
	}
	s.httpAddr, _ = said["http"].(string)
	if s.client, err = client.New(client.Options{Server: s.httpAddr}); err != nil {
		return err
	}
	return s.until(ctx, func() (bool, error) {
		info, err := s.client.Server(ctx)
		return err == nil && len(info.WorkerGroups) == 1 && info.WorkerGroups[0].Connected, nil
	})
}

// until asks again and again.
func (s *site) until(ctx context.Context, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
