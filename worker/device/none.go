//go:build !cgo || !linux

package device

import (
	"context"
	"errors"
	"fmt"
)

// Driver is NVIDIA's management library, which this build cannot load.
type Driver struct{ Version, CUDA string }

// ErrLost reports a GPU that the driver can no longer reach.
var ErrLost = errors.New("the GPU is lost: the driver no longer reaches it")

// Open fails: this program was built without cgo, or not for Linux.
func Open(string) (*Driver, error) {
	return nil, fmt.Errorf("%w: this program was built without cgo, which GPUs need", ErrNoDriver)
}

// Close does nothing.
func (*Driver) Close() {}

// GPUs lists none.
func (*Driver) GPUs() ([]GPU, error) { return nil, ErrNoDriver }

func (*Driver) read(string) (GPU, error) { return GPU{}, ErrNoDriver }

func (*Driver) events(context.Context, string, func(Event)) error { return ErrNoDriver }
