package group

import (
	"encoding/binary"
	"fmt"
	"sync"

	"chorale/worker/collective"
)

// checker compares the ranks' digests of what steps drew. They come in order
// from each rank, and at any time.
type checker struct {
	mu    sync.Mutex
	ranks int
	first uint64     // the step of have[·][0]
	have  [][]uint64 // by rank
}

// own adds the leader's digest of a step, theirs a follower's message.
func (c *checker) own(step, digest uint64) error {
	return c.add(0, step, []uint64{digest})
}

// theirs takes a message: the first step's number, then digests.
func (c *checker) theirs(rank int, b []byte) error {
	if len(b) < 16 || len(b)%8 != 0 {
		return fmt.Errorf("digests in %d bytes: %w", len(b), errFrame)
	}
	ds := make([]uint64, len(b)/8-1)
	for i := range ds {
		ds[i] = binary.LittleEndian.Uint64(b[8+8*i:])
	}
	return c.add(rank, binary.LittleEndian.Uint64(b), ds)
}

// digests makes such a message.
func digests(first uint64, ds []uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, first)
	for _, d := range ds {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	return b
}

func (c *checker) add(rank int, step uint64, ds []uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.have == nil {
		c.have, c.first = make([][]uint64, c.ranks), 1
	}
	if want := c.first + uint64(len(c.have[rank])); step != want {
		return fmt.Errorf("rank %d tells of step %d after %d: %w", rank, step, want-1, errFrame)
	}
	c.have[rank] = append(c.have[rank], ds...)
	return c.compare()
}

// compare looks at the steps that all have told of, and forgets them.
func (c *checker) compare() error {
	n := len(c.have[0])
	for _, h := range c.have {
		n = min(n, len(h))
	}
	for i := range n {
		for _, h := range c.have {
			if h[i] == c.have[0][i] {
				continue
			}
			e := &collective.DisagreeError{What: fmt.Sprintf("the tokens of step %d", c.first+uint64(i))}
			for _, h := range c.have {
				e.Digests = append(e.Digests, h[i])
			}
			return e
		}
	}
	for r := range c.have {
		c.have[r] = append(c.have[r][:0], c.have[r][n:]...)
	}
	c.first += uint64(n)
	return nil
}
