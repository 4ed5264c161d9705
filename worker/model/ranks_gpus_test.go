//go:build gpu && gpus

package model_test

import (
	"testing"

	"chorale/worker/tensor/cuda"
)

// TestGPURanksOnCards: two ranks on a card each compute every model with every
// variety of adapter as well as one rank.
func TestGPURanksOnCards(t *testing.T) {
	one := goldens(t, ranksOn{Devices: []int{0}})
	cards := []int{0, 1}
	compareGoldens(t, one, ranksOn{Devices: cards, Sums: cuda.SumsNCCL, Peers: cuda.PeersOff}, false)
	compareGoldens(t, one, ranksOn{Devices: cards, Sums: cuda.SumsNCCL}, false)
	compareGoldens(t, one, ranksOn{Devices: cards, Sums: cuda.SumsNCCL, BF16: true}, false)
}

// BenchmarkRanksTwo is two ranks on a card each, with NCCL alone and with peers'
// memory where it is faster.
func BenchmarkRanksTwo(b *testing.B) {
	for _, x := range []struct {
		name  string
		peers cuda.Peers
		bf16  bool
	}{{"peers", cuda.PeersAuto, false}, {"nccl", cuda.PeersOff, false}, {"peers-bf16", cuda.PeersAuto, true}, {"nccl-bf16", cuda.PeersOff, true}} {
		b.Run(x.name, func(b *testing.B) {
			on := ranksOn{Devices: []int{0, 1}, Sums: cuda.SumsNCCL, Peers: x.peers, BF16: x.bf16, Batches: []int{1, 64, 256}}
			on.LoRA = x.name == "peers"
			rankTimes(b, on)
		})
	}
}
