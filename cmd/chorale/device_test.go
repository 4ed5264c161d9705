package main

import "testing"

func TestParseDevice(t *testing.T) {
	for _, tt := range []struct {
		in     string
		gpu    bool
		number int
		ok     bool
	}{
		{"auto", false, 0, true},
		{"cpu", false, 0, true},
		{"cuda", true, 0, true},
		{"cuda:0", true, 0, true},
		{"cuda:3", true, 3, true},
		{"cuda:", false, 0, false},
		{"cuda:-1", false, 0, false},
		{"cuda:x", false, 0, false},
		{"gpu", false, 0, false},
		{"", false, 0, false},
	} {
		gpu, number, err := parseDevice(tt.in)
		if gpu != tt.gpu || number != tt.number || (err == nil) != tt.ok {
			t.Errorf("%q: %v, %d, %v", tt.in, gpu, number, err)
		}
	}
}
