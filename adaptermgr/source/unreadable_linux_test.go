package source

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestUnreadable: a folder or file that the server may not read is as one that
// is not there, and the client is told which.
func TestUnreadable(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "open"), adapterFiles())
	closed := write(t, filepath.Join(root, "closed"), adapterFiles())
	weights := filepath.Join(write(t, filepath.Join(root, "weights"), adapterFiles()), WeightsFile)
	config := filepath.Join(write(t, filepath.Join(root, "config"), adapterFiles()), ConfigFile)
	for _, path := range []string{closed, weights, config} {
		if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(path, 0o755)
	}
	r := resolver(t, Options{Roots: []string{root}})
	if os.Geteuid() == 0 { // who may read everything: this thread is nobody's until the end
		if err := os.Chmod(filepath.Dir(root), 0o755); err != nil {
			t.Fatal(err)
		}
		const nobody = 65534
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, nobody, 0, 0)
		defer func() { _, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0) }()
		if _, err := os.ReadDir(closed); err == nil {
			t.Fatal("nobody may read what belongs to others here")
		}
	}
	checkFetch(t, r, "open")
	for name, want := range map[string]error{"closed": ErrInvalid, "weights": ErrInvalid, "config": ErrInvalid} {
		_, err := r.Fetch(t.Context(), name)
		if !errors.Is(err, want) && !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), `"`+name+`"`) || strings.Contains(err.Error(), root) {
			t.Errorf("%s: %v", name, err)
		}
		if file := map[string]string{"weights": WeightsFile, "config": ConfigFile}[name]; file != "" && !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
