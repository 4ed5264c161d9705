//go:build cgo && linux

package device

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The library's functions are found by name in the whole process, so each test
// that needs other answers of it runs in a process of its own.
func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		println(err.Error())
		code = 1
	}
	os.Exit(code)
}

// inner are the tests that run with a fake library.
var inner = map[string]func(*testing.T, *Driver){"list": list, "watch": watch}

// TestInner is the other process's side of apart.
func TestInner(t *testing.T) {
	name := os.Getenv("FAKE_NVML_TEST")
	if name == "" {
		return // the process of all tests
	}
	d, err := Open(os.Getenv("FAKE_NVML"))
	if err != nil {
		t.Fatal(err)
	}
	inner[name](t, d)
	d.Close()
}

// fake builds the library.
func fake(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if out, err := exec.Command(cc, "-shared", "-fPIC", "-w", "-o", path, filepath.Join("testdata", "nvml.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// apart runs a test of inner with the library at path and more environment.
func apart(t *testing.T, path, name string, env ...string) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run", "^TestInner$", "-test.v")
	c.Env = append(os.Environ(), "FAKE_NVML="+path, "FAKE_NVML_TEST="+name)
	c.Env = append(c.Env, env...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v\n%s", name, env, err, out)
	}
}

func TestNoDriver(t *testing.T) {
	for name, path := range map[string]string{"no such file": "/nowhere/libnvidia-ml.so.1", "no library": os.Args[0]} {
		d, err := Open(path)
		if !errors.Is(err, ErrNoDriver) {
			t.Errorf("%s: %v %v", name, d, err)
		}
	}
}

func TestGPUs(t *testing.T) {
	path := fake(t)
	apart(t, path, "list", "CUDA_VISIBLE_DEVICES=GPU-bbbb")
}

func list(t *testing.T, d *Driver) {
	if d.Version != "580.1" || d.CUDA != "13.0" {
		t.Errorf("driver %q, CUDA %q", d.Version, d.CUDA)
	}
	got, err := d.GPUs()
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v %v", got, err)
	}
	want := GPU{
		Index: 0, Ordinal: -1, Name: "Fake GPU 0", UUID: "GPU-aaaa1111-0000", PCI: "00000000:00:00.0", Capability: "9.0",
		MemoryTotal: 80 << 30, MemoryUsed: 1 << 30, Utilization: .93, MemoryUtilization: .4, Temperature: 41, Power: 123.5, PowerLimit: 700, MemoryBandwidth: 3352.32e9,
		ECC: ECC{Enabled: true, Corrected: 5, Uncorrected: 1},
	}
	if got[0] != want {
		t.Errorf("%+v, want %+v", got[0], want)
	}
	if got[1].Ordinal != 0 || got[1].ECC.Enabled {
		t.Errorf("%+v", got[1])
	}
}

// TestMonitor: each kind of event reaches the one who asked and the report.
func TestMonitor(t *testing.T) {
	path := fake(t)
	for wish, want := range map[string]string{
		"xid 79": "XID 79 (the GPU has fallen off the bus)",
		"ecc 0":  "double-bit ECC error",
		"count":  "1 uncorrectable memory errors since the start",
		"lost":   ErrLost.Error(),
		"xid 31": "",
	} {
		event := filepath.Join(t.TempDir(), "event")
		apart(t, path, "watch", "FAKE_NVML_EVENT="+event, "FAKE_NVML_WISH="+wish, "FAKE_NVML_WANT="+want)
	}
}

func watch(t *testing.T, d *Driver) {
	gpus, err := d.GPUs()
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan Event, 8)
	m := NewMonitor(d, gpus[0], time.Millisecond, func(e Event) { heard <- e })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	if r := m.Report(); r.Unhealthy != "" || r.GPU.Name != "Fake GPU 0" {
		t.Errorf("at the start: %+v", r)
	}
	wish, want := os.Getenv("FAKE_NVML_WISH"), os.Getenv("FAKE_NVML_WANT")
	if err := os.WriteFile(os.Getenv("FAKE_NVML_EVENT"), []byte(wish), 0o600); err != nil {
		t.Fatal(err)
	}
	var e Event
	select {
	case e = <-heard:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nothing heard", wish)
	}
	if r := m.Report(); r.Unhealthy != want || e.Fatal != (want != "") || want != "" && e.String() != want {
		t.Errorf("%s: heard %+v, report %+v, want %q", wish, e, r, want)
	}
	if strings.HasPrefix(wish, "xid") {
		if r := m.Report(); r.XIDs != 1 || r.LastXID != e.XID || r.GPU.Index != 0 || r.GPU.MemoryBandwidth == 0 {
			t.Errorf("%s: %+v", wish, r)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestInit: why a library that is there does not start.
func TestInit(t *testing.T) {
	path := fake(t)
	for code, want := range map[string]string{"9": "driver is not loaded", "18": "different versions", "999": "unknown error"} {
		c := exec.Command(os.Args[0], "-test.run", "^TestInner$")
		c.Env = append(os.Environ(), "FAKE_NVML="+path, "FAKE_NVML_TEST=list", "FAKE_NVML_INIT="+code)
		out, err := c.CombinedOutput()
		if err == nil || !strings.Contains(string(out), ErrNoDriver.Error()) || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v %s, want a word about %q", code, err, out, want)
		}
	}
}
