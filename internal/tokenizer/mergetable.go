package tokenizer

// mergeTable maps a pair of token ids to the rank of their merge and the id
// they become: open addressing, at most half full.
type mergeTable struct {
	slots []mergeSlot
	shift uint
}

type mergeSlot struct {
	key  uint64 // left id in the upper half
	rank uint32 // merges of lower rank come first
	id   int32
}

const emptyKey = ^uint64(0)

func newMergeTable(n int) *mergeTable {
	bits := uint(4)
	for 1<<bits < n*2 {
		bits++
	}
	t := &mergeTable{make([]mergeSlot, 1<<bits), 64 - bits}
	for i := range t.slots {
		t.slots[i].key = emptyKey
	}
	return t
}

func (t *mergeTable) index(key uint64) uint64 { return key * 0x9e3779b97f4a7c15 >> t.shift }

// put sets the merge of a pair; the last one for a pair wins.
func (t *mergeTable) put(left, right int32, rank uint32, id int32) {
	key := uint64(uint32(left))<<32 | uint64(uint32(right))
	i := t.index(key)
	for t.slots[i].key != emptyKey && t.slots[i].key != key {
		i = (i + 1) & uint64(len(t.slots)-1)
	}
	t.slots[i] = mergeSlot{key, rank, id}
}

func (t *mergeTable) get(left, right int32) (rank uint32, id int32, ok bool) {
	key := uint64(uint32(left))<<32 | uint64(uint32(right))
	for i := t.index(key); ; i = (i + 1) & uint64(len(t.slots)-1) {
		switch s := &t.slots[i]; s.key {
		case key:
			return s.rank, s.id, true
		case emptyKey:
			return 0, 0, false
		}
	}
}
