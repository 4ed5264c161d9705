package tokenizer

import "math"

// scanLimit is the word length, in symbols, up to which finding the best pair
// by scanning beats keeping a heap.
const scanLimit = 48

// noMerge ranks a pair without a merge behind all others.
const noMerge = math.MaxUint32

// scan merges up to scanLimit symbols, in place, and appends what is left.
func (t *mergeTable) scan(dst, s []int32) []int32 {
	var rank [scanLimit]uint32 // of the pair (i, i+1)
	var into [scanLimit]int32
	look := func(i int) {
		rank[i] = noMerge
		if r, id, ok := t.get(s[i], s[i+1]); ok {
			rank[i], into[i] = r, id
		}
	}
	n := len(s)
	for i := 0; i+1 < n; i++ {
		look(i)
	}
	for n > 1 {
		best, at := uint32(noMerge), -1
		for i := range n - 1 {
			if rank[i] < best {
				best, at = rank[i], i
			}
		}
		if at < 0 {
			break
		}
		s[at] = into[at]
		copy(s[at+1:n-1], s[at+2:n])
		copy(rank[at+1:n-1], rank[at+2:n])
		copy(into[at+1:n-1], into[at+2:n])
		n--
		if at > 0 {
			look(at - 1)
		}
		if at+1 < n {
			look(at)
		}
	}
	return append(dst, s[:n]...)
}

// heap merges any number of symbols in O(n log n).
func (t *mergeTable) heap(dst, ids []int32) []int32 {
	m := newHeapMerge(t, ids)
	for len(m.queue) > 0 {
		m.apply(m.pop())
	}
	for i := int32(0); i >= 0; i = m.symbols[i].next {
		dst = append(dst, m.symbols[i].id)
	}
	return dst
}

// symbol is a node of the word's linked list; merged-away nodes have id -1.
type symbol struct {
	id, prev, next int32
}

// candidate is a merge that was possible when it was queued.
type candidate struct {
	key         uint64 // rank, then position: the leftmost of equals comes first
	left, right int32  // ids it expects to find
	id          int32
}

type heapMerge struct {
	table   *mergeTable
	symbols []symbol
	queue   []candidate // binary min-heap by key
}

func newHeapMerge(t *mergeTable, ids []int32) *heapMerge {
	m := &heapMerge{t, make([]symbol, len(ids)), make([]candidate, 0, len(ids))}
	for i, id := range ids {
		m.symbols[i] = symbol{id, int32(i - 1), int32(i + 1)}
	}
	m.symbols[len(ids)-1].next = -1
	for i := range len(ids) - 1 {
		m.offer(int32(i), int32(i+1))
	}
	return m
}

// offer queues the merge of two neighbours, if there is one.
func (m *heapMerge) offer(at, next int32) {
	left, right := m.symbols[at].id, m.symbols[next].id
	if rank, id, ok := m.table.get(left, right); ok {
		m.push(candidate{uint64(rank)<<32 | uint64(uint32(at)), left, right, id})
	}
}

// apply performs a merge unless an earlier one took its symbols.
func (m *heapMerge) apply(c candidate) {
	at := int32(uint32(c.key))
	s := &m.symbols[at]
	if s.id != c.left || s.next < 0 || m.symbols[s.next].id != c.right {
		return
	}
	gone := s.next
	s.id, s.next = c.id, m.symbols[gone].next
	m.symbols[gone].id = -1
	if s.next >= 0 {
		m.symbols[s.next].prev = at
		m.offer(at, s.next)
	}
	if s.prev >= 0 {
		m.offer(s.prev, at)
	}
}

func (m *heapMerge) push(c candidate) {
	m.queue = append(m.queue, c)
	q := m.queue
	for i := len(q) - 1; i > 0; {
		parent := (i - 1) / 2
		if q[parent].key <= q[i].key {
			break
		}
		q[parent], q[i] = q[i], q[parent]
		i = parent
	}
}

func (m *heapMerge) pop() candidate {
	q := m.queue
	top := q[0]
	q[0] = q[len(q)-1]
	q = q[:len(q)-1]
	m.queue = q
	for i := 0; ; {
		c := 2*i + 1
		if c >= len(q) {
			return top
		}
		if c+1 < len(q) && q[c+1].key < q[c].key {
			c++
		}
		if q[i].key <= q[c].key {
			return top
		}
		q[i], q[c] = q[c], q[i]
		i = c
	}
}
