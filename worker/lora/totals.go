package lora

import "slices"

// Totals are a store's contents and counts since its start.
type Totals struct {
	// Loads counts the adapters brought onto the device, begun or done;
	// Evictions those put out to make room.
	Loads, Evictions uint64
	// HostBytes are in host memory or reserved, of HostLimit (0: no bound);
	// DeviceBytes are on the device.
	HostBytes, HostLimit, DeviceBytes int64
	// LoadTime is how long adapters were on their way onto the device.
	LoadTime Times
}

// TimeBounds are the upper bounds of the classes of Times, in seconds.
var TimeBounds = [...]float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, 1}

// Times is a histogram of durations.
type Times struct {
	// Classes counts durations up to each bound, and last those above all.
	Classes [len(TimeBounds) + 1]uint64
	// Sum is that of all, in seconds.
	Sum float64
}

// Add counts a duration in seconds.
func (t *Times) Add(seconds float64) {
	i, _ := slices.BinarySearch(TimeBounds[:], seconds)
	t.Classes[i]++
	t.Sum += seconds
}
