//go:build gpu

package device

import (
	"context"
	"testing"
	"time"
)

// TestGPUDriver: the real driver tells of a real GPU, and its events can be
// waited for.
func TestGPUDriver(t *testing.T) {
	d, err := Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	gpus, err := d.GPUs()
	if err != nil || len(gpus) == 0 {
		t.Fatalf("%v %v", gpus, err)
	}
	g := gpus[0]
	t.Logf("driver %s, CUDA %s: %+v", d.Version, d.CUDA, g)
	if d.Version == "" || d.CUDA == "" || g.Name == "" || g.UUID == "" || g.PCI == "" || g.Capability == "" || g.MemoryTotal <= g.MemoryUsed || g.Temperature == 0 {
		t.Errorf("%+v", g)
	}
	m := NewMonitor(d, g, 50*time.Millisecond, func(e Event) { t.Errorf("event %v", e) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := m.Run(ctx); err != nil {
		t.Error(err)
	}
	if r := m.Report(); r.Unhealthy != "" || r.GPU.Name != g.Name {
		t.Errorf("%+v", r)
	}
}
