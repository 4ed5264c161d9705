package main

import (
	"strings"
	"testing"

	"chorale/worker/tensor"
)

// ownDevice is a backend with memory of its own.
type ownDevice struct{ tensor.Backend }

func (ownDevice) Memory() (free, total int64, err error) { return 1, 2, nil }

// TestFill: what is not said depends on the device; what is said does not.
func TestFill(t *testing.T) {
	for _, tt := range []struct {
		b         tensor.Backend
		got, want weightFlags
	}{
		{nil, weightFlags{}, weightFlags{MaxRunningRequests: 64, ChunkedPrefillSize: 512}},
		{ownDevice{}, weightFlags{}, weightFlags{MaxRunningRequests: 256, ChunkedPrefillSize: 2048}},
		{ownDevice{}, weightFlags{MaxRunningRequests: 3, ChunkedPrefillSize: -1}, weightFlags{MaxRunningRequests: 3, ChunkedPrefillSize: -1}},
	} {
		tt.got.fill(tt.b)
		if tt.got != tt.want {
			t.Errorf("%+v, want %+v", tt.got, tt.want)
		}
	}
}

// TestCheckCompute: a flag that makes no sense is named, before the engine
// complains in its own words.
func TestCheckCompute(t *testing.T) {
	for want, change := range map[string]func(*weightFlags, *loraFlags){
		"":                       func(*weightFlags, *loraFlags) {},
		"--max-loras-per-batch":  func(_ *weightFlags, l *loraFlags) { l.MaxLorasPerBatch = 0 },
		"--max-resident-loras":   func(_ *weightFlags, l *loraFlags) { l.MaxResidentLoras = -1 },
		"--max-running-requests": func(w *weightFlags, _ *loraFlags) { w.MaxRunningRequests = 0 },
		"--chunked-prefill-size": func(w *weightFlags, _ *loraFlags) { w.ChunkedPrefillSize = 0 },
		"--max-total-tokens":     func(w *weightFlags, _ *loraFlags) { w.MaxTotalTokens = -16 },
		"--mem-fraction-static":  func(w *weightFlags, _ *loraFlags) { w.MemFractionStatic = 2 },
	} {
		w, l := weightFlags{MaxRunningRequests: 64, ChunkedPrefillSize: -1, MemFractionStatic: 1}, loraFlags{MaxLorasPerBatch: 8}
		change(&w, &l)
		err := checkCompute(&w, &l)
		if (err != nil) != (want != "") || err != nil && !strings.HasPrefix(err.Error(), want+" must be") {
			t.Errorf("%s: %v", want, err)
		}
	}
}
