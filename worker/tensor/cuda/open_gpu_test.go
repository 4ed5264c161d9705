//go:build gpu

package cuda

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"chorale/worker/tensor"
)

// elsewhere are what TestGPUOpen does in processes of their own: each gives an
// error to be judged.
var elsewhere = map[string]func() error{
	"open": func() error {
		b, err := New(options())
		if err != nil {
			return err
		}
		return b.Close()
	},
	"count": func() error {
		_, err := Devices(options())
		return err
	},
	"break": func() error {
		b, err := New(options())
		if err != nil {
			return err
		}
		defer b.Close()
		if err := b.Fault(); err != nil {
			return err
		}
		_, first := b.NewVector([]float32{1})
		_, then := b.NewVector([]float32{1})
		if first == nil || then == nil || !errors.Is(first, tensor.ErrLost) || !errors.Is(then, tensor.ErrLost) {
			return errors.New("a broken device works")
		}
		return first
	},
}

// TestGPUElsewhere is the other process.
func TestGPUElsewhere(t *testing.T) {
	if f := elsewhere[os.Getenv("CHORALE_TEST_ELSEWHERE")]; f != nil {
		if err := f(); err != nil {
			os.Stdout.WriteString("ERROR " + err.Error() + "\n")
		}
	}
}

// apart runs one of elsewhere with more environment and gives its error.
func apart(t *testing.T, what string, env ...string) string {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run", "^TestGPUElsewhere$")
	c.Env = append(append(os.Environ(), "CHORALE_TEST_ELSEWHERE="+what), env...)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("%s %v: %v: %s", what, env, err, out)
	}
	_, text, _ := strings.Cut(string(out), "ERROR ")
	text, _, _ = strings.Cut(text, "\n")
	return text
}

// oldDriver is a folder with a driver of another age.
func oldDriver(t *testing.T) string {
	t.Helper()
	lib := compile(t, "int cuInit(unsigned f) { return 0; }\nint cuDriverGetVersion(int *v) { *v = 12040; return 0; }\n")
	dir := filepath.Dir(lib)
	if err := os.Rename(lib, filepath.Join(dir, "libcuda.so.1")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestGPUOpen: what can be wrong on a machine with a GPU, and with one that is
// lost later.
func TestGPUOpen(t *testing.T) {
	old := oldDriver(t)
	for _, tt := range []struct {
		what string
		env  []string
		want string
	}{
		{"count", nil, ""},
		{"open", nil, ""},
		{"open", []string{"CUDA_VISIBLE_DEVICES="}, `no NVIDIA GPU is visible: CUDA_VISIBLE_DEVICES is ""`},
		{"open", []string{"CUDA_VISIBLE_DEVICES=77"}, `no NVIDIA GPU is visible: CUDA_VISIBLE_DEVICES is "77"`},
		{"open", []string{"LD_LIBRARY_PATH=" + old}, "the NVIDIA driver is too old: it knows CUDA 12.4"},
		{"count", []string{"LD_LIBRARY_PATH=" + old}, "the NVIDIA driver is too old: it knows CUDA 12.4"},
		{"open", []string{"CHORALE_CUBLASLT=/nowhere/libcublasLt.so.13"}, "cuBLASLt cannot be loaded: /nowhere/libcublasLt.so.13"},
		{"break", nil, "CUDA error"},
	} {
		if got := apart(t, tt.what, tt.env...); !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s %v: %q, want %q", tt.what, tt.env, got, tt.want)
		}
	}
	o := options()
	o.Device = 99
	if _, err := New(o); !errors.Is(err, tensor.ErrUnsupported) || !strings.Contains(err.Error(), "there is no GPU 99") {
		t.Errorf("device 99: %v", err)
	}
}
