package mapfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, want := range []string{"some bytes", ""} {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, inMemory := range []bool{false, true} {
			f, err := Open(path, inMemory)
			if err != nil {
				t.Fatal(err)
			}
			if string(f.Data) != want {
				t.Errorf("in memory %v: %q, want %q", inMemory, f.Data, want)
			}
			for range 2 {
				if err := f.Close(); err != nil || f.Data != nil {
					t.Errorf("in memory %v: close: %v", inMemory, err)
				}
			}
		}
	}
	if _, err := Open(dir, false); err == nil {
		t.Error("a folder was mapped")
	}
	if _, err := Open(filepath.Join(dir, "none"), true); !os.IsNotExist(err) {
		t.Errorf("a missing file: %v", err)
	}
}
