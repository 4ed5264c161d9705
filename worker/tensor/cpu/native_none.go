//go:build !(cgo && linux && amd64)

package cpu

import (
	"fmt"

	"chorale/worker/tensor"
)

// nativeKernels lists the C kernels: none in this build.
func nativeKernels(tensor.Precision) []string { return nil }

// fastest picks the kernel for "auto".
func fastest(tensor.Precision) string { return "go" }

func openNative(name string, _ Options) (kernels, error) {
	return nil, fmt.Errorf("cpu: kernel %q: %w", name, tensor.ErrUnsupported)
}
