//go:build cgo && linux

package cuda

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"chorale/worker/tensor"
)

// compile makes a library of C code.
func compile(t *testing.T, code string) string {
	t.Helper()
	dir := t.TempDir()
	src, out := filepath.Join(dir, "lib.c"), filepath.Join(dir, "lib.so")
	if err := os.WriteFile(src, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if text, err := exec.Command(cc, "-shared", "-fPIC", "-w", "-o", out, src).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return out
}

// version is the interface version that this program needs.
func version(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../../kernels/include/chorale_kernels.h")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`CH_ABI_VERSION (\d+)`).FindStringSubmatch(string(b))[1]
}

// stub is a library whose functions all fail with a status and a sentence,
// except those left out.
func stub(t *testing.T, status int, sentence, without string) string {
	t.Helper()
	b, err := os.ReadFile("shim.h")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	fmt.Fprintf(&code, "#include <string.h>\nint ch_abi_version(void) { return %s; }\n", version(t))
	for _, m := range regexp.MustCompile(`\bF\((\w+)\)`).FindAllStringSubmatch(string(b), -1) {
		switch name := m[1]; name {
		case "abi_version", without:
		case "open", "device_count": // (what, where to, error)
			args := map[string]string{"open": "void *a, void *b, char *err", "device_count": "void *a, char *err"}[name]
			fmt.Fprintf(&code, "int ch_%s(%s) { strcpy(err, %q); return %d; }\n", name, args, sentence, status)
		default:
			fmt.Fprintf(&code, "int ch_%s(void) { return %d; }\n", name, status)
		}
	}
	return compile(t, code.String())
}

// TestOpenErrors: whatever is wrong with the library or the machine is one
// sentence that says what to do, and never a reason to fall over.
func TestOpenErrors(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text.so")
	if err := os.WriteFile(text, []byte("this is no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		kind       error
		want       []string
	}{
		{"no file", "/nowhere/libchorale_kernels.so", tensor.ErrUnsupported, []string{"/nowhere/libchorale_kernels.so", "No such file"}},
		{"no library", text, tensor.ErrUnsupported, []string{text}},
		{"another's library", compile(t, "int x;"), tensor.ErrUnsupported, []string{"is not Chorale's kernel library"}},
		{"another version", compile(t, "int ch_abi_version(void) { return 99; }"), tensor.ErrUnsupported, []string{"interface version 99", "needs " + version(t), "same source"}},
		{"a function less", stub(t, 3, "", "submit"), tensor.ErrUnsupported, []string{"lacks ch_submit", "same source"}},
		{"no GPU", stub(t, 3, "no NVIDIA GPU is visible", ""), tensor.ErrUnsupported, []string{"no NVIDIA GPU is visible"}},
		{"no memory", stub(t, 2, "1 MiB is wanted, 0 MiB are free", ""), tensor.ErrOutOfMemory, []string{"0 MiB are free"}},
		{"broken", stub(t, 4, "CUDA error 719: unspecified launch failure", ""), tensor.ErrLost, []string{"CUDA error 719"}},
	} {
		for what, open := range map[string]func(Options) error{
			"New":     func(o Options) error { _, err := New(o); return err },
			"Devices": func(o Options) error { _, err := Devices(o); return err },
		} {
			err := open(Options{Library: tt.path})
			if !errors.Is(err, tt.kind) {
				t.Errorf("%s: %s: %v, want a %v", tt.name, what, err, tt.kind)
				continue
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s: %s: %q does not say %q", tt.name, what, err, w)
				}
			}
			if strings.Contains(err.Error(), tt.kind.Error()) {
				t.Errorf("%s: %s: %q says it twice", tt.name, what, err)
			}
		}
	}
	if _, err := New(Options{Precision: tensor.F32}); !errors.Is(err, tensor.ErrUnsupported) || !strings.Contains(err.Error(), "only bfloat16") {
		t.Errorf("float32: %v", err)
	}
}

// TestFaultNeedsDevice: where there is no device there is none to break.
func TestFaultNeedsDevice(t *testing.T) {
	if err := newBackend(newFake()).Fault(); !errors.Is(err, tensor.ErrUnsupported) {
		t.Error(err)
	}
}
