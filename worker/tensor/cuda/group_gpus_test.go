//go:build gpu && gpus

package cuda

import "testing"

// TestGPURanksOnCards: two ranks on a card each, by NCCL and by each other's memory.
func TestGPURanksOnCards(t *testing.T) {
	cards := []int{0, 1}
	ranksRun(t, way{Devices: cards}, "nccl")
	ranksRun(t, way{Devices: cards, Sums: SumsNCCL, Peers: PeersOff}, "nccl")
	ranksRun(t, way{Devices: cards, Sums: SumsNCCL, Peers: PeersAlways}, "nccl")
	ranksRun(t, way{Devices: cards, Sums: SumsHost, Peers: PeersOff}, "host")
	faultRun(t, way{Devices: cards, Sums: SumsNCCL, Peers: PeersOff, Mode: "exit"})
	faultRun(t, way{Devices: cards, Sums: SumsNCCL, Peers: PeersAlways, Mode: "exit"})
	faultRun(t, way{Devices: cards, Sums: SumsNCCL, Peers: PeersOff, Mode: "stop"})
}
