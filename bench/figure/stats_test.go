package figure

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestQuantile: values from numpy.percentile.
func TestQuantile(t *testing.T) {
	for _, tt := range []struct {
		xs   []float64
		q    float64
		want float64
	}{
		{[]float64{7}, 0, 7},
		{[]float64{7}, .99, 7},
		{[]float64{1, 2}, .5, 1.5},
		{[]float64{1, 2}, .95, 1.95},
		{[]float64{1, 2, 3, 4}, .25, 1.75},
		{[]float64{1, 2, 3, 4}, .5, 2.5},
		{[]float64{1, 2, 3, 4}, 1, 4},
		{[]float64{10, 20, 30, 40, 50}, .9, 46},
		{[]float64{10, 20, 30, 40, 50}, .95, 48},
		{[]float64{10, 20, 30, 40, 50}, .99, 49.6},
		{[]float64{0, 0, 0, 100}, .5, 0},
	} {
		if got := Quantile(tt.xs, tt.q); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("Quantile(%v, %g) = %g, want %g", tt.xs, tt.q, got, tt.want)
		}
	}
	if !math.IsNaN(Quantile(nil, .5)) {
		t.Error("of nothing")
	}
}

func TestDist(t *testing.T) {
	got := Summary([]float64{5, 1, 3, 2, 4})
	want := Dist{N: 5, Mean: 3, P50: 3, P90: 4.6, P95: 4.8, P99: 4.96, Max: 5}
	if d := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-12)); d != "" {
		t.Error(d)
	}
	if d := Summary(nil); d != (Dist{}) {
		t.Errorf("of nothing: %v", d)
	}
	if s := SpreadOf([]float64{3, 1, 2, 9}); s != (Spread{2.5, 1, 9}) {
		t.Errorf("spread %v", s)
	}
}

func TestSeconds(t *testing.T) {
	for s, want := range map[float64]string{
		0: "-", .0123: "12.3 ms", .0994: "99.4 ms", .0999: "100 ms", .5: "500 ms", .9994: "999 ms", .9996: "1.00 s", 12.345: "12.35 s", 99.96: "100 s", 1234: "1234 s",
	} {
		if got := Seconds(s); got != want {
			t.Errorf("%g: %q, want %q", s, got, want)
		}
	}
}

func TestJain(t *testing.T) {
	for _, tt := range []struct {
		xs   []float64
		want float64
	}{
		{nil, 1},
		{[]float64{0, 0}, 1},
		{[]float64{3, 3, 3}, 1},
		{[]float64{1, 0, 0, 0}, .25},
		{[]float64{1, 2, 3}, 36.0 / 42},
	} {
		if got := Jain(tt.xs); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("%v: %g, want %g", tt.xs, got, tt.want)
		}
	}
	if m := Median([]float64{9, 1, 4}); m != 4 {
		t.Errorf("median %g", m)
	}
}

func TestTable(t *testing.T) {
	tb := Table{Left: 1}
	tb.Add("a", "µs", "x")
	tb.Add("long", "1", "22")
	var b strings.Builder
	tb.Write(&b)
	if want := "a     µs   x\nlong   1  22\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestDriverVersion(t *testing.T) {
	const text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 2025\nGCC version: 12.3\n"
	if v := driverVersion(text); v != "580.95.05" {
		t.Errorf("%q", v)
	}
	if v := driverVersion(""); v != "" {
		t.Errorf("%q out of nothing", v)
	}
}

type fakeDevice struct{}

func (fakeDevice) Name() string                  { return "cuda:0/x" }
func (fakeDevice) Memory() (int64, int64, error) { return 1, 8 << 20, nil }
func (fakeDevice) Versions() map[string]string {
	return map[string]string{"driver": "1", "cublasLt": "2"}
}

func TestDeviceOf(t *testing.T) {
	want := &Device{Name: "cuda:0/x", MemoryMiB: 8, Versions: map[string]string{"driver": "1", "cublasLt": "2"}}
	if d := cmp.Diff(want, DeviceOf(fakeDevice{})); d != "" {
		t.Error(d)
	}
}
