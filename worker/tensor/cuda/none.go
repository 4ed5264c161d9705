//go:build !cgo || !linux

package cuda

import (
	"fmt"

	"chorale/worker/tensor"
)

// Devices fails: this program was built without cgo, or not for Linux.
func Devices(Options) (int, error) { return 0, errBuild }

// New fails like Devices.
func New(Options) (*Backend, error) { return nil, errBuild }

var errBuild = fmt.Errorf("cuda: this program was built without cgo, which GPUs need: %w", tensor.ErrUnsupported)
