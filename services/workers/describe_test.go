package workers

import (
	"testing"

	pb "chorale/proto/gen/chorale/v1"
	"chorale/worker/engine"
	"chorale/worker/tensor/cpu"
)

// TestDescribeMemory: a device whose adapters take whole chunks says how large
// those are; one that uses them where they lie says that it does.
func TestDescribeMemory(t *testing.T) {
	for want, c := range map[int64]struct {
		cpu    cpu.Options
		engine engine.Options
	}{
		0:    {engine: engine.Options{Pages: 16}},
		4096: {cpu.Options{ChunkBytes: 4096, CountImages: true}, engine.Options{MemoryBytes: 31 * 4096}},
	} {
		s := newServerOn(t, c.cpu, c.engine)
		s.d.MemoryBandwidth = 5e9
		d, err := s.DescribeWorker(t.Context(), &pb.DescribeWorkerRequest{})
		if err != nil || d.GetAdapterChunkBytes() != want || d.GetMemoryBytesPerSecond() != 5e9 {
			t.Errorf("chunks of %d, %g bytes a second, %v, want chunks of %d", d.GetAdapterChunkBytes(), d.GetMemoryBytesPerSecond(), err, want)
		}
	}
}
