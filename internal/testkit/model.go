package testkit

import (
	"os"
	"path/filepath"
	"testing"
)

// Model finds the small real model, which `make model` fetches.
func Model(t testing.TB) string {
	t.Helper()
	p := filepath.Join(Root(), ".cache", "model", "SmolLM2-135M-Instruct.Q4_1.gguf")
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("the model is missing: run make model (%v)", err)
	}
	return p
}
