// Package lora decides which adapters are on the device. Adapters live in two
// tiers: host memory, where the adapter manager's pushes put them and where
// they stay until dropped, and the device, which holds at most a fixed number
// and takes them in on demand.
//
// Two counts protect an adapter. A lease belongs to a sequence from its
// submission to its end and keeps the adapter in host memory: Drop waits for
// the last one. A use belongs to a running sequence and keeps it on the device.
// Both are taken and given back in one place each, by the engine and the
// scheduler.
//
// The engine's goroutine owns the Store. Packing an adapter for the device is
// the one slow thing here; it happens in a goroutine of its own and comes back
// through Arrived, so that no step waits for it.
package lora
