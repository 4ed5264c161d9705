package decoder

import "chorale/worker/tensor"

// SetKV gives a runner that was made without a cache the one to use. It precedes
// Forward.
func (r *Runner) SetKV(kv tensor.KV) { r.kv = kv }
