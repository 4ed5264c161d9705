package sample

import (
	"cmp"
	"slices"

	"chorale/worker/tensor"
)

// Position holds the log probabilities at one position.
type Position struct {
	ID      int32
	Logprob float64
	// Known is false for the first token of a prompt, which has none.
	Known     bool
	Top       []tensor.TokenLogprob
	Requested []tensor.TokenLogprob
}

// PositionOf gives the log probabilities of a sampled row.
func PositionOf(s *tensor.Sampled) Position {
	return Position{ID: s.Token, Logprob: s.Logprob, Known: true, Top: s.Top, Requested: s.Requested}
}

// Logprobs reports the log probabilities of token id under logits, whose
// log-sum-exp is lse, with the top most likely ones (ties to lower ids) and
// the requested ids.
func Logprobs(logits []float32, lse float32, id int32, top int, requested []int32) Position {
	lp := func(i int32) float64 { return float64(logits[i]) - float64(lse) }
	pos := Position{ID: id, Logprob: lp(id), Known: true}
	if top > 0 {
		pos.Top = make([]tensor.TokenLogprob, 0, top)
		for _, i := range topIDs(logits, top) {
			pos.Top = append(pos.Top, tensor.TokenLogprob{ID: i, Logprob: lp(i)})
		}
	}
	for _, i := range requested {
		pos.Requested = append(pos.Requested, tensor.TokenLogprob{ID: i, Logprob: lp(i)})
	}
	return pos
}

// topIDs finds the k largest logits, largest first.
func topIDs(logits []float32, k int) []int32 {
	k = min(k, len(logits))
	less := func(a, b int32) int { // worst first
		if c := cmp.Compare(logits[a], logits[b]); c != 0 {
			return c
		}
		return cmp.Compare(b, a)
	}
	ids := make([]int32, k)
	for i := range ids {
		ids[i] = int32(i)
	}
	slices.SortFunc(ids, less)
	for i := k; i < len(logits); i++ {
		if cmp.Compare(logits[i], logits[ids[0]]) <= 0 { // NaN below all others
			continue
		}
		// Few rows ever displace the worst of a small k: insertion keeps order.
		at, _ := slices.BinarySearchFunc(ids[1:], int32(i), less)
		copy(ids[:at], ids[1:at+1])
		ids[at] = int32(i)
	}
	slices.Reverse(ids)
	return ids
}
