package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// GPU is one that exists only as two libraries: a kernel library without kernels,
// whose every token is 7, and a driver that knows it.
type GPU struct {
	// Env makes a process see it.
	Env []string
	// Event is a file: "xid N" in it is an event of the driver.
	Event string
}

// FakeGPU builds the libraries with the C compiler.
func FakeGPU(t testing.TB) *GPU {
	t.Helper()
	dir := t.TempDir()
	g := &GPU{Event: filepath.Join(dir, "event")}
	for name, src := range map[string]string{
		"kernels.so": "internal/testkit/testdata/gpu.c",
		"nvml.so":    "worker/device/testdata/nvml.c",
	} {
		cc := os.Getenv("CC")
		if cc == "" {
			cc = "cc"
		}
		c := exec.Command(cc, "-shared", "-fPIC", "-w", "-pthread", "-I", "kernels/include", "-o", filepath.Join(dir, name), src)
		c.Dir = Root()
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", src, err, out)
		}
	}
	g.Env = []string{"CHORALE_KERNELS=" + filepath.Join(dir, "kernels.so"), "CHORALE_NVML=" + filepath.Join(dir, "nvml.so"), "FAKE_NVML_EVENT=" + g.Event}
	return g
}
