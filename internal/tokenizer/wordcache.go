package tokenizer

import (
	"math/bits"
	"strings"
	"sync/atomic"
)

// cachedWord is the longest word, in bytes, worth remembering.
const cachedWord = 256

// wordCache remembers the ids of recent words. It is direct-mapped: a word
// that hashes to a taken slot replaces its holder, so its size is bounded and
// no lock is needed.
type wordCache struct {
	slots []atomic.Pointer[cacheEntry]
}

type cacheEntry struct {
	word string
	ids  []int32
}

// newWordCache sizes the cache to the vocabulary: 2^8 to 2^16 words.
func newWordCache(vocab int) *wordCache {
	n := min(max(bits.Len(uint(vocab)), 8), 16)
	return &wordCache{make([]atomic.Pointer[cacheEntry], 1<<n)}
}

func (c *wordCache) slot(word string) *atomic.Pointer[cacheEntry] {
	return &c.slots[hashWord(word)&uint64(len(c.slots)-1)]
}

// encode appends the ids of word, from the cache or from the model.
func (c *wordCache) encode(dst []int32, word string, model func([]int32, string) []int32) []int32 {
	if len(word) > cachedWord {
		return model(dst, word)
	}
	slot := c.slot(word)
	if e := slot.Load(); e != nil && e.word == word {
		return append(dst, e.ids...)
	}
	n := len(dst)
	dst = model(dst, word)
	// Cloned: a slice of the prompt would keep the whole prompt alive.
	slot.Store(&cacheEntry{strings.Clone(word), append([]int32(nil), dst[n:]...)})
	return dst
}

func hashWord(s string) uint64 {
	h := uint64(14695981039346656037)
	for len(s) >= 8 {
		v := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		h = (h ^ v) * 0x9e3779b97f4a7c15
		h ^= h >> 29
		s = s[8:]
	}
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h ^= h >> 32
	return h * 0x9e3779b97f4a7c15 >> 20
}
