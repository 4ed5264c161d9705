package testkit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Options say what to run.
type Options struct {
	// Name stands before the process's log lines in a failed test's output.
	Name string
	// Args begin with the command: "serve", "worker", ….
	Args []string
	// Env is added to a clean environment: HOME and the caches are temporary,
	// nothing is fetched from a hub.
	Env []string
	// Dir is the working directory, a temporary one by default.
	Dir string
	// Faulty runs the binary in which SIGUSR1 breaks the device.
	Faulty bool
	// Wrap, when set, is a command that gets the binary and Args as arguments.
	Wrap []string
}

// Process is a running chorale. Its standard error is kept; a test that fails
// shows the end of it.
type Process struct {
	Name string
	cmd  *exec.Cmd
	out  output
	err  output
	done chan struct{} // closed when it has ended
}

// Start runs the binary. At the test's end the process is killed if it still
// runs, and the test fails if it had panicked.
func Start(t testing.TB, o Options) *Process {
	t.Helper()
	binary := Binary
	if o.Faulty {
		binary = Faulty
	}
	argv := append(append(slices.Clone(o.Wrap), binary(t)), o.Args...)
	home := t.TempDir()
	p := &Process{Name: o.Name, cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	p.out.changed, p.err.changed = make(chan struct{}), make(chan struct{})
	p.cmd.Dir = o.Dir
	if p.cmd.Dir == "" {
		p.cmd.Dir = home
	}
	p.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "HF_HOME=" + home, "HF_HUB_OFFLINE=1", "TMPDIR=" + os.TempDir(), "COLUMNS=100",
	}, o.Env...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = &p.out, &p.err, attributes()
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", o.Name, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended stands in ProcessState
	}()
	t.Cleanup(func() { p.finish(t) })
	return p
}

// finish ends the process and judges its log.
func (p *Process) finish(t testing.TB) {
	p.Kill()
	log := p.Log()
	for _, bad := range []string{"panic: ", `"msg":"panic"`, "fatal error: ", "DATA RACE", "goroutine 1 ["} {
		if strings.Contains(log, bad) {
			t.Errorf("%s: its log holds %q:\n%s", p.Name, bad, log)
			return
		}
	}
	if t.Failed() {
		t.Logf("the end of %s's log:\n%s", p.Name, tail(log, 40))
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is standard error so far.
func (p *Process) Log() string { return p.err.String() }

// Stdout is standard output so far.
func (p *Process) Stdout() string { return p.out.String() }

// Signal sends a signal to the process, which may have ended.
func (p *Process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Kill ends the process with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Ended tells whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Wait waits for the end and gives the exit status, -1 for an end by signal.
func (p *Process) Wait(t testing.TB, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		t.Fatalf("%s has not ended after %v", p.Name, limit)
		return 0
	}
}

// PeakMemory is the largest resident size that an ended process had, in bytes;
// 0 where the system does not tell.
func (p *Process) PeakMemory() int64 {
	u, ok := p.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok || runtime.GOOS != "linux" { // elsewhere the unit differs
		return 0
	}
	return u.Maxrss << 10
}

// Message waits for a line of the JSON log with a message and gives its fields.
func (p *Process) Message(t testing.TB, message string, limit time.Duration) map[string]any {
	t.Helper()
	deadline := time.After(limit)
	for {
		log, changed := p.err.read()
		if m := find(log, message); m != nil {
			return m
		}
		select {
		case <-changed:
		case <-p.done:
			if m := find(p.err.Bytes(), message); m != nil {
				return m
			}
			t.Fatalf("%s ended (%v) before it said %q:\n%s", p.Name, p.cmd.ProcessState, message, tail(p.Log(), 40))
		case <-deadline:
			t.Fatalf("%s has not said %q after %v:\n%s", p.Name, message, limit, tail(p.Log(), 40))
		}
	}
}

// find looks for a message in a log of JSON lines.
func find(log []byte, message string) map[string]any {
	want := fmt.Appendf(nil, "%q", message)
	for line := range bytes.Lines(log) {
		var m map[string]any
		if bytes.Contains(line, want) && json.Unmarshal(line, &m) == nil && m["msg"] == message {
			return m
		}
	}
	return nil
}

// output gathers what a process writes.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{} // closed and replaced at each write
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.buf.Write(b)
}

func (o *output) read() ([]byte, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.buf.Bytes()), o.changed
}

// Bytes copies what was written.
func (o *output) Bytes() []byte {
	b, _ := o.read()
	return b
}

// String is what was written.
func (o *output) String() string { return string(o.Bytes()) }
