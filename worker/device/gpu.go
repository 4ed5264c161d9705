package device

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrNoDriver reports a machine without NVIDIA's management library, or one on
// which it does not start.
var ErrNoDriver = errors.New("no NVIDIA driver here")

// GPU is what the driver tells of one GPU.
type GPU struct {
	// Index counts all GPUs in the order of their PCI addresses; Ordinal only
	// those that CUDA_VISIBLE_DEVICES leaves, in its order: N of --device
	// cuda:N, -1 for one that is hidden.
	Index, Ordinal int
	Name, UUID     string
	PCI            string // "00000000:0a:00.0"
	Capability     string // of compute, "9.0"
	// Memory in bytes.
	MemoryTotal, MemoryUsed int64
	// Utilization is the share of the last sample, up to a second, in which a
	// kernel ran, MemoryUtilization that in which memory was used; [0, 1].
	Utilization, MemoryUtilization float64
	Temperature                    int     // °C
	Power, PowerLimit              float64 // W
	// MemoryBandwidth is the memory's highest clock times its width, in bytes per
	// second; 0: not known.
	MemoryBandwidth float64
	ECC             ECC
}

// ECC counts memory errors since the driver was loaded.
type ECC struct {
	Enabled                bool
	Corrected, Uncorrected uint64
}

// Visible lists the indices of the GPUs that CUDA shows, in its order, by the
// rules of CUDA_VISIBLE_DEVICES: numbers or beginnings of UUIDs, separated by
// commas, up to the first that names no GPU; a GPU named twice hides all. A
// variable that is not set hides nothing.
func Visible(variable string, set bool, uuids []string) []int {
	out := make([]int, 0, len(uuids))
	if !set {
		for i := range uuids {
			out = append(out, i)
		}
		return out
	}
	seen := map[int]bool{}
	for part := range strings.SplitSeq(variable, ",") {
		i := match(strings.TrimSpace(part), uuids)
		if i < 0 {
			return out
		}
		if seen[i] {
			return nil
		}
		seen[i] = true
		out = append(out, i)
	}
	return out
}

// match finds the one GPU that a number or the beginning of a UUID names, or -1.
func match(s string, uuids []string) int {
	if i, err := strconv.Atoi(s); err == nil {
		if i < len(uuids) {
			return max(i, -1)
		}
		return -1
	}
	found := -1
	for i, u := range uuids {
		if s != "" && strings.HasPrefix(u, s) {
			if found >= 0 {
				return -1
			}
			found = i
		}
	}
	return found
}

// Event is something that the driver reported of a GPU.
type Event struct {
	// XID is the driver's number of the error; 0 for an ECC error that came
	// without one.
	XID uint64
	// Text says what it means, where that is known.
	Text string
	// Fatal tells that the GPU itself is in trouble, not just a program on it.
	Fatal bool
}

// String is a sentence without an end.
func (e Event) String() string {
	if e.XID == 0 {
		return e.Text
	}
	return fmt.Sprintf("XID %d (%s)", e.XID, e.Text)
}

// programs are the XIDs that a program's own mistake brings about: the GPU is
// sound, and the program that it was finds out by itself.
var programs = map[uint64]string{
	13: "a program's kernel failed", 31: "a program touched memory that is not its own", 43: "a program's channel was reset",
	45: "a program was ended", 68: "video decoder error of a program", 109: "a program's context switch took too long",
}

// faults name the XIDs that are best known of those that are the GPU's; others
// count alike.
var faults = map[uint64]string{
	48: "uncorrectable memory error", 61: "microcontroller halted", 62: "microcontroller halted", 63: "memory row remapping",
	64: "memory row remapping failed", 74: "NVLink error", 79: "the GPU has fallen off the bus", 92: "many corrected memory errors",
	94: "contained memory error", 95: "uncontained memory error", 119: "the GPU's system processor does not answer",
	120: "the GPU's system processor failed", 140: "unrecovered memory error", 143: "the GPU could not be initialised",
}

// informative are XIDs after which the GPU works on.
var informative = map[uint64]bool{63: true, 92: true}

// xid makes an event of the driver's number.
func xid(n uint64) Event {
	if t, ok := programs[n]; ok {
		return Event{XID: n, Text: t}
	}
	t, ok := faults[n]
	if !ok {
		t = "see NVIDIA's list of XID errors"
	}
	return Event{XID: n, Text: t, Fatal: !informative[n]}
}
