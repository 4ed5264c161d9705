package tcp_test

import (
	"fmt"
	"testing"

	"chorale/worker/collective"
	"chorale/worker/collective/conformance"
)

// Ranks are goroutines here; between processes see package assemble.
func BenchmarkAllReduce(b *testing.B) {
	for _, size := range []int{2, 4} {
		for _, rows := range []int{1, 64} {
			b.Run(fmt.Sprintf("ranks=%d/rows=%d", size, rows), func(b *testing.B) {
				ms := open(b, size, conformance.Patient)
				defer conformance.CloseAll(b, ms)
				b.SetBytes(int64(rows) * 4096 * 4)
				b.ReportAllocs()
				n := b.N
				b.ResetTimer()
				for _, err := range conformance.Each(ms, func(m collective.Member) error {
					x := make([]float32, rows*4096)
					for range n {
						if err := m.AllReduce(x); err != nil {
							return err
						}
					}
					return nil
				}) {
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
