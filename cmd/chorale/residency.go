package main

import "chorale/internal/eviction"

// eviction is which adapter makes room.
func (f *loraFlags) eviction() eviction.Policy {
	p, err := eviction.Parse(f.LoraEvictionPolicy)
	if err != nil { // left empty: the parser knows no other values
		return eviction.LRU
	}
	return p
}
