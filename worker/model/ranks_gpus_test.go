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
}

// BenchmarkRanksTwo is two ranks on a card each, with NCCL alone and with peers'
// memory where it is faster.
func BenchmarkRanksTwo(b *testing.B) {
	for name, peers := range map[string]cuda.Peers{"nccl": cuda.PeersOff, "peers": cuda.PeersAuto} {
		b.Run(name, func(b *testing.B) {
			rankTimes(b, ranksOn{Devices: []int{0, 1}, Sums: cuda.SumsNCCL, Peers: peers, Batches: []int{1, 64, 256}})
		})
	}
}
