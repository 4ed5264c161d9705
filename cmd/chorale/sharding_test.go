package main

import (
	"errors"
	"strings"
	"testing"

	"chorale/worker/tensor"
)

// TestSharding: a layout of adapters that a rank's device does not have is refused
// before a rank starts.
func TestSharding(t *testing.T) {
	for _, tt := range []struct {
		layout, device string
		refused        bool
	}{
		{"default", "cpu", false},
		{"default", "cuda:1", false},
		{shardSLoRA, "cpu", false},
		{shardSLoRA, "cuda:1", true},
	} {
		f := groupFlags{LoraSharding: tt.layout}
		err := f.checkSharding(map[int]map[string]string{0: {settingDevice: "cpu"}, 1: {settingDevice: tt.device}})
		if refused := errors.Is(err, tensor.ErrUnsupported); refused != tt.refused || refused && !strings.Contains(err.Error(), "rank 1 computes on cuda:1") {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}
