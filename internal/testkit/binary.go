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

// FaultsEnv may name one that was built with the tag faults.
const FaultsEnv = "CHORALE_TEST_FAULTS_BINARY"

// program is a binary of a test run.
type program struct {
	env  string // names one
	tags string
	once sync.Once
	dir  string // built here, empty when the environment names one
	path string
	err  error
}

var (
	usual  = &program{env: BinaryEnv}
	faulty = &program{env: FaultsEnv, tags: "faults"}
)

// Binary is the path of the chorale binary, built at the first call in a test
// run. Cleanup removes it.
func Binary(t testing.TB) string {
	t.Helper()
	return usual.get(t)
}

// Faulty is the path of a binary in which SIGUSR1 breaks the device.
func Faulty(t testing.TB) string {
	t.Helper()
	return faulty.get(t)
}

func (b *program) get(t testing.TB) string {
	t.Helper()
	b.once.Do(func() { b.path, b.err = b.build() })
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}

func (b *program) build() (string, error) {
	if p := os.Getenv(b.env); p != "" {
		return filepath.Abs(p)
	}
	dir, err := os.MkdirTemp("", "chorale-binary-")
	if err != nil {
		return "", err
	}
	b.dir = dir
	path := filepath.Join(dir, "chorale")
	cmd := exec.Command("go", "build", "-tags", b.tags, "-o", path, "./cmd/chorale")
	cmd.Dir = Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/chorale: %w\n%s", err, out)
	}
	return path, nil
}

// Cleanup removes the binaries; call it at the end of TestMain.
func Cleanup() {
	for _, b := range []*program{usual, faulty} {
		if b.dir != "" {
			os.RemoveAll(b.dir)
		}
	}
}

// Root is the repository's folder.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}
