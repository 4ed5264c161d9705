//go:build unix

package source

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
)

func TestAFifoDoesNotBlock(t *testing.T) {
	root := t.TempDir()
	dir := write(t, filepath.Join(root, "a"), map[string]string{ConfigFile: "{}"})
	if err := syscall.Mkfifo(filepath.Join(dir, WeightsFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := resolver(t, Options{Roots: []string{root}}).Fetch(t.Context(), "a"); !errors.Is(err, ErrInvalid) {
		t.Errorf("err = %v", err)
	}
}
