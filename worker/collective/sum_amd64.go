package collective

import "golang.org/x/sys/cpu"

var hasAVX = cpu.X86.HasAVX

// add is dst = a + b. Sums of NaNs keep a's payload.
func add(dst, a, b []float32) {
	if !hasAVX || len(dst) == 0 {
		addGo(dst, a, b)
		return
	}
	_, _ = a[len(dst)-1], b[len(dst)-1]
	addAVX(&dst[0], &a[0], &b[0], len(dst))
}

//go:noescape
func addAVX(dst, a, b *float32, n int)
