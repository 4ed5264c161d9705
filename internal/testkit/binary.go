package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// BinaryEnv may name a chorale binary; without it one is built.
const BinaryEnv = "CHORALE_TEST_BINARY"

var built struct {
	once sync.Once
	dir  string // built here, empty when the environment names one
	path string
	err  error
}

// Binary is the path of the chorale binary, built at the first call in a test
// run. Cleanup removes it.
func Binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() { built.path, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func build() (string, error) {
	if p := os.Getenv(BinaryEnv); p != "" {
		return filepath.Abs(p)
	}
	dir, err := os.MkdirTemp("", "chorale-binary-")
	if err != nil {
		return "", err
	}
	built.dir = dir
	path := filepath.Join(dir, "chorale")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/chorale")
	cmd.Dir = Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/chorale: %w\n%s", err, out)
	}
	return path, nil
}

// Cleanup removes the binary; call it at the end of TestMain.
func Cleanup() {
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
}

// Root is the repository's folder.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}
