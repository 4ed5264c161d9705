package router

import (
	"encoding/binary"
	"hash/maphash"
)

// prefixBlock is how many prompt tokens are compared at a time when a group is
// chosen by what its cache may hold. Coarser than the cache's pages: what is less
// than that is computed again in no time.
const prefixBlock = 64

// prefixMemory is how many blocks of recent prompts a group is remembered by, two
// times: 8 million tokens.
const prefixMemory = 1 << 16

var prefixSeed = maphash.MakeSeed()

// prefixes is what a group's prefix cache may hold: the blocks of the prompts it
// was given lately. It is a guess, the cache may have let go of them; a wrong one
// costs a prompt computed as if there were no cache.
type prefixes struct {
	young, old map[uint64]struct{}
}

// chain gives a hash for every whole block of a prompt, each over all before it,
// and over the adapter: caches know no prompt without its adapter.
func chain(digest string, prompt []int32) []uint64 {
	var h maphash.Hash
	h.SetSeed(prefixSeed)
	h.WriteString(digest)
	out := make([]uint64, 0, len(prompt)/prefixBlock)
	var buf [4 * prefixBlock]byte
	for ; len(prompt) >= prefixBlock; prompt = prompt[prefixBlock:] {
		for i, t := range prompt[:prefixBlock] {
			binary.LittleEndian.PutUint32(buf[4*i:], uint32(t))
		}
		h.Write(buf[:])
		out = append(out, h.Sum64())
	}
	return out
}

// match counts the leading blocks that the group was given before.
func (p *prefixes) match(blocks []uint64) int {
	for i, b := range blocks {
		if !p.has(b) {
			return i
		}
	}
	return len(blocks)
}

func (p *prefixes) has(b uint64) bool {
	if _, ok := p.young[b]; ok {
		return true
	}
	_, ok := p.old[b]
	return ok
}

// note remembers the blocks of a prompt. The half that was not used for longest
// is forgotten when there are too many.
func (p *prefixes) note(blocks []uint64) {
	for _, b := range blocks {
		if len(p.young) >= prefixMemory || p.young == nil {
			p.old, p.young = p.young, map[uint64]struct{}{}
		}
		p.young[b] = struct{}{}
	}
}

// forget is for a group that starts anew.
func (p *prefixes) forget() { *p = prefixes{} }

// blocks are the hashes of the sequence's prompt, its request's other answers'
// too.
func (c *choice) blocks() []uint64 {
	if c.r.chain == nil {
		c.r.chain = chain(c.flow.digest, c.r.prompt)
	}
	return c.r.chain
}

// bonus is how many sequences more than another group this one may have to be
// preferred for what its cache may hold of a prompt: one a block, but not more than
// a quarter of what it computes at once.
func (l *link) bonus(c *choice) int {
	if len(l.r.links) < 2 {
		return 0
	}
	return min(l.prefixes.match(c.blocks()), (l.info.MaxRunning+3)/4)
}
