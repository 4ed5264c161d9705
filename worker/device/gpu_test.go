package device

import (
	"slices"
	"testing"
)

func TestVisible(t *testing.T) {
	uuids := []string{"GPU-aaaa1111", "GPU-aabb2222", "GPU-cccc3333"}
	for _, tt := range []struct {
		variable string
		set      bool
		want     []int
	}{
		{"", false, []int{0, 1, 2}},
		{"", true, nil},
		{"-1", true, nil},
		{"2", true, []int{2}},
		{"2,0", true, []int{2, 0}},
		{" 1 , 0 ", true, []int{1, 0}},
		{"0,7,1", true, []int{0}},
		{"1,-1,0", true, []int{1}},
		{"0,0", true, nil},
		{"GPU-cccc", true, []int{2}},
		{"GPU-aaaa1111,GPU-aab", true, []int{0, 1}},
		{"GPU-aa", true, nil},
		{"NoDevFiles", true, nil},
	} {
		if got := Visible(tt.variable, tt.set, uuids); !slices.Equal(got, tt.want) {
			t.Errorf("%q: %v, want %v", tt.variable, got, tt.want)
		}
	}
}

// TestXID: what a program did to itself is not held against the GPU.
func TestXID(t *testing.T) {
	for n, fatal := range map[uint64]bool{13: false, 31: false, 43: false, 48: true, 63: false, 64: true, 79: true, 95: true, 4711: true} {
		if e := xid(n); e.Fatal != fatal || e.Text == "" || e.XID != n {
			t.Errorf("XID %d: %+v", n, e)
		}
	}
	if s := xid(79).String(); s != "XID 79 (the GPU has fallen off the bus)" {
		t.Error(s)
	}
}
