package tokenizer

// byteTrie maps byte strings to values. Siblings form a list: vocabularies have
// few wide nodes besides the root, which has a table.
type byteTrie struct {
	nodes []trieNode // nodes[0] is the root
	root  [256]int32 // children of the root; 0 is none
}

type trieNode struct {
	child, next int32 // first child, next sibling; 0 is none
	value       int32 // -1 inside
	label       byte
}

// insert sets the value of key; a later value for the same key wins.
func (t *byteTrie) insert(key string, value int32) {
	if len(t.nodes) == 0 {
		t.nodes = append(t.nodes, trieNode{value: -1})
	}
	node := int32(0)
	for i := 0; i < len(key); i++ {
		next := t.child(node, key[i])
		if next < 0 {
			next = int32(len(t.nodes))
			t.nodes = append(t.nodes, trieNode{value: -1, label: key[i], next: t.nodes[node].child})
			t.nodes[node].child = next
			if node == 0 {
				t.root[key[i]] = next
			}
		}
		node = next
	}
	t.nodes[node].value = value
}

// child returns the node below node along label, -1 when there is none.
func (t *byteTrie) child(node int32, label byte) int32 {
	if node == 0 {
		if c := t.root[label]; c != 0 {
			return c
		}
		return -1
	}
	for c := t.nodes[node].child; c != 0; c = t.nodes[c].next {
		if t.nodes[c].label == label {
			return c
		}
	}
	return -1
}
