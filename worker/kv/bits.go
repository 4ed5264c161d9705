package kv

import "math/bits"

// bitset is a set of small numbers that finds its least and greatest quickly:
// a word of up tells which words of low are not empty.
type bitset struct {
	low, up []uint64
	n       int
}

func newBitset(size int) bitset {
	words := (size + 63) / 64
	return bitset{low: make([]uint64, words), up: make([]uint64, (words+63)/64)}
}

// put adds i or takes it out.
func (b *bitset) put(i int32, in bool) {
	w, bit := i/64, uint64(1)<<(i%64)
	if was := b.low[w]&bit != 0; was == in {
		return
	}
	b.low[w] ^= bit
	if in {
		b.n++
	} else {
		b.n--
	}
	if b.low[w] != 0 {
		b.up[w/64] |= 1 << (w % 64)
	} else {
		b.up[w/64] &^= 1 << (w % 64)
	}
}

func (b *bitset) has(i int32) bool { return b.low[i/64]>>(i%64)&1 != 0 }

// min gives the least member, -1 when there is none.
func (b *bitset) min() int32 {
	for i, u := range b.up {
		if u != 0 {
			w := i*64 + bits.TrailingZeros64(u)
			return int32(w*64 + bits.TrailingZeros64(b.low[w]))
		}
	}
	return -1
}

// before gives the greatest member below i, -1 when there is none.
func (b *bitset) before(i int32) int32 {
	if i <= 0 {
		return -1
	}
	w := int((i - 1) / 64)
	if m := b.low[w] & (^uint64(0) >> (63 - (i-1)%64)); m != 0 {
		return int32(w*64 + 63 - bits.LeadingZeros64(m))
	}
	for w--; w >= 0; w-- {
		if m := b.low[w]; m != 0 {
			return int32(w*64 + 63 - bits.LeadingZeros64(m))
		}
	}
	return -1
}
