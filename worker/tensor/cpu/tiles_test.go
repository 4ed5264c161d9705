//go:build cgo && linux && amd64

package cpu

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestTiles runs the code for AMX on tiles in software: few machines have them.
func TestTiles(t *testing.T) {
	if !runs("avx2") {
		t.Skip("the code around the tiles needs AVX2")
	}
	binary := filepath.Join(t.TempDir(), "tiles")
	for _, args := range [][]string{
		{cmp.Or(os.Getenv("CC"), "gcc"), "-std=gnu11", "-O2", "-ffp-contract=off", "-I.", "-o", binary, "testdata/tiles/tiles_test.c", "-lm"},
		{binary},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
}
