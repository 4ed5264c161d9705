package tests

import (
	"encoding/json"
	"strings"
	"testing"

	"chorale/internal/testkit"
)

// TestE2EListDevices: a machine without a driver has a CPU; that is no failure,
// and no other flag is asked for.
func TestE2EListDevices(t *testing.T) {
	list := func(args ...string) string {
		t.Helper()
		p := testkit.Start(t, testkit.Options{Name: "list", Args: append([]string{"worker", "--list-devices"}, args...), Env: []string{"CHORALE_NVML=/nowhere"}})
		if code := p.Wait(t, callLimit); code != 0 {
			t.Fatalf("exit status %d: %s", code, p.Log())
		}
		return p.Stdout()
	}
	if out := list(); !strings.Contains(out, "\ncpu ") || !strings.Contains(out, "no NVIDIA driver here") {
		t.Errorf("the table: %s", out)
	}
	var l struct {
		Devices []struct{ Device string }
		Notes   []string
	}
	if out := list("--json"); json.Unmarshal([]byte(out), &l) != nil || len(l.Devices) != 1 || l.Devices[0].Device != "cpu" || len(l.Notes) != 1 {
		t.Errorf("JSON: %s", out)
	}
}
