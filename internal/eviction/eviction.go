// Package eviction says which adapter leaves first when there is no room for
// all: the one used longest ago (LRU), or the one used least (LFU).
//
// Plain LFU never forgets: what was in demand last month keeps its place for
// ever. So counts age. After as many uses of any adapter as [Window] tells, all
// counts are halved; what nobody asks for any more is worth next to nothing
// some windows later, however much it was used before. And since counts outlive
// an adapter's stay, one that is asked for again and again gets its place back,
// while a scan of adapters that are used once each pushes out only one another.
// Of equal counts the one used longest ago goes first. All of that depends on
// the order of uses alone, not on a clock.
package eviction

import (
	"cmp"
	"fmt"
)

// Policy is how the adapter that leaves is chosen. The zero value is LRU.
type Policy uint8

// The policies.
const (
	LRU Policy = iota
	LFU
)

// Parse reads a policy's name: lru or lfu.
func Parse(name string) (Policy, error) {
	switch name {
	case "lru":
		return LRU, nil
	case "lfu":
		return LFU, nil
	}
	return LRU, fmt.Errorf("eviction policy %q: want lru or lfu", name)
}

// String is the policy's name.
func (p Policy) String() string {
	if p == LFU {
		return "lfu"
	}
	return "lru"
}

const (
	// usesPerPlace and leastWindow make Window. Shorter windows forget the tail of
	// a steady demand, longer ones keep a hot set that has gone cold: BenchmarkTrace
	// of worker/lora compares them.
	usesPerPlace, leastWindow = 16, 64
	// one is what a use counts: a fraction of it survives eight halvings.
	one = 1 << 8
)

// Window is the number of uses after which counts are halved, where there are
// places for so many adapters.
func Window(places int) int { return max(leastWindow, usesPerPlace*places) }

// Uses is how often one adapter was used. The zero value is never.
type Uses struct {
	count uint64
	// window is the one for which count holds.
	window uint64
}

// Counter counts uses, for a Policy that cares. It is owned by one goroutine.
type Counter struct {
	policy Policy
	// window is the present one, in which there were seen uses.
	window uint64
	seen   int
}

// NewCounter makes a counter; with LRU all counts stay alike.
func NewCounter(p Policy) *Counter { return &Counter{policy: p} }

// Policy is the counter's.
func (c *Counter) Policy() Policy { return c.policy }

// Use counts a use of an adapter, at a time when there are places for so many.
func (c *Counter) Use(u *Uses, places int) {
	if c.policy == LRU {
		return
	}
	u.count, u.window = c.now(*u)+one, c.window
	if c.seen++; c.seen >= Window(places) {
		c.window, c.seen = c.window+1, 0
	}
}

// now is a count as it has aged.
func (c *Counter) now(u Uses) uint64 { return u.count >> min(c.window-u.window, 63) }

// Recent is what is left of a count, in uses.
func (c *Counter) Recent(u Uses) float64 { return float64(c.now(u)) / one }

// Forgotten tells whether nothing is left of a count.
func (c *Counter) Forgotten(u Uses) bool { return c.now(u) == 0 }

// Compare is negative when a was used less than b, and so leaves before it; 0
// leaves it to the time of their last use.
func (c *Counter) Compare(a, b Uses) int { return cmp.Compare(c.now(a), c.now(b)) }
