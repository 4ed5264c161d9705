package cuda

import (
	"fmt"

	"chorale/worker/tensor"
)

// Fault breaks the device: a kernel writes where it must not, and from then on
// every operation of this process on it fails with tensor.ErrLost. It is there to
// test what the process does then.
func (b *Backend) Fault() error {
	d, ok := b.d.(interface{ fault() error })
	if !ok {
		return fmt.Errorf("cuda: fault: %w", tensor.ErrUnsupported)
	}
	return d.fault()
}

// reason is the library's sentence; its kind is for errors.Is alone.
type reason struct {
	text string
	kind error
}

func (r *reason) Error() string { return r.text }
func (r *reason) Unwrap() error { return r.kind }
