package tokenizer

import (
	"cmp"
	"slices"
	"unicode/utf8"
)

// scoreMerges lists every cut of a token into two tokens. Tokens of equal
// score share a rank: of equals, the leftmost pair is merged first.
func (v *GGUFVocab) scoreMerges(ids map[string]int32) ([]merge, error) {
	rank := v.scoreRanks()
	mergeable := func(id int32) bool {
		typ := v.typeOf(id)
		return typ == TypeNormal || typ == TypeUserDefined
	}
	var merges []merge
	for i, token := range v.Tokens {
		id := int32(i)
		if !mergeable(id) || ids[token] != id {
			continue
		}
		if len(token) > maxPieceLen {
			return nil, malformed("tokenizer.ggml.tokens[%d]: %d bytes long", i, len(token))
		}
		for k := 1; k < len(token); k++ {
			if !utf8.RuneStart(token[k]) {
				continue
			}
			left, ok1 := ids[token[:k]]
			right, ok2 := ids[token[k:]]
			if ok1 && ok2 && mergeable(left) && mergeable(right) {
				merges = append(merges, merge{left, right, id, rank[i]})
			}
		}
	}
	return merges, nil
}

// scoreRanks numbers the distinct scores, the highest first.
func (v *GGUFVocab) scoreRanks() []uint32 {
	order := make([]int32, len(v.Scores))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(v.Scores[b], v.Scores[a]) })
	ranks := make([]uint32, len(order))
	rank := uint32(0)
	for i, id := range order {
		if i > 0 && v.Scores[id] != v.Scores[order[i-1]] {
			rank++
		}
		ranks[id] = rank
	}
	return ranks
}
