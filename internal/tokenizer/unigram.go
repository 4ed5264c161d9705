package tokenizer

import (
	"math"
	"unicode/utf8"
)

// unknownPenalty is how much worse than the worst piece an unknown code point
// scores (SentencePiece's kUnkPenalty).
const unknownPenalty = 10

// piece is an entry of a Unigram vocabulary; its id is its position.
type piece struct {
	text  string
	score float64
}

type unigramConfig struct {
	pieces       []piece
	unk          int32 // -1: unknown code points vanish
	byteFallback bool
	usable       func(id int32) bool // nil: every piece may be found in text
	special      func(id int32) bool
}

// unigram finds the segmentation of a word with the highest sum of piece
// scores, by Viterbi over the trie of all pieces (Kudo 2018).
type unigram struct {
	trie         byteTrie
	scores       []float64
	special      func(id int32) bool
	unk          int32
	unkScore     float64
	byteFallback bool
	bytes        [256]int32
	cache        *wordCache
}

func newUnigram(c unigramConfig) *unigram {
	m := &unigram{
		unk: c.unk, byteFallback: c.byteFallback, special: c.special,
		scores: make([]float64, len(c.pieces)), cache: newWordCache(len(c.pieces)),
	}
	for i := range m.bytes {
		m.bytes[i] = -1
	}
	worst := math.Inf(1)
	for i, p := range c.pieces {
		id := int32(i)
		m.scores[i] = p.score
		worst = min(worst, p.score)
		if b, ok := byteToken(p.text); ok {
			m.bytes[b] = id
		}
		if p.text != "" && (c.usable == nil || c.usable(id)) {
			m.trie.insert(p.text, id)
		}
	}
	m.unkScore = worst - unknownPenalty
	return m
}

func (m *unigram) encode(dst []int32, word string, plain bool) []int32 {
	if plain {
		// The cache holds what trusted text becomes.
		return m.segment(dst, word, true)
	}
	return m.cache.encode(dst, word, func(dst []int32, w string) []int32 {
		return m.segment(dst, w, false)
	})
}

// arc is the best way found so far to reach a position.
type arc struct {
	score float64
	start int32 // where its last piece begins
	id    int32
	set   bool
}

func (m *unigram) segment(dst []int32, w string, plain bool) []int32 {
	if w == "" || len(m.trie.nodes) == 0 && m.unk < 0 {
		return dst
	}
	arcs := make([]arc, len(w)+1)
	arcs[0].set = true
	for i := 0; i < len(w); {
		_, n := utf8.DecodeRuneInString(w[i:])
		if !m.relax(arcs, w, i, n, plain) {
			arcs[i+n].improve(arcs[i].score+m.unkScore, i, m.unk)
		}
		i += n
	}
	return m.emit(dst, w, backtrack(arcs))
}

// relax tries every piece that begins at i, and reports whether one of them is
// just the code point there (n bytes).
func (m *unigram) relax(arcs []arc, w string, i, n int, plain bool) (single bool) {
	if len(m.trie.nodes) == 0 {
		return false
	}
	node := int32(0)
	for k := i; k < len(w); k++ {
		if node = m.trie.child(node, w[k]); node < 0 {
			break
		}
		id := m.trie.nodes[node].value
		if id < 0 || plain && m.special(id) {
			continue
		}
		arcs[k+1].improve(arcs[i].score+m.scores[id], i, id)
		single = single || k+1-i == n
	}
	return single
}

func (a *arc) improve(score float64, start int, id int32) {
	if !a.set || score > a.score {
		*a = arc{score, int32(start), id, true}
	}
}

// backtrack lists the arcs of the best path, turned so that start and the next
// arc's start bound each piece.
func backtrack(arcs []arc) []arc {
	var path []arc
	for end := int32(len(arcs) - 1); end > 0; end = arcs[end].start {
		path = append(path, arcs[end])
	}
	for i, j := 0, len(path)-1; i < j; i, j = i+1, j-1 {
		path[i], path[j] = path[j], path[i]
	}
	return path
}

// emit appends the ids of a path; a run of unknowns becomes bytes or one
// unknown.
func (m *unigram) emit(dst []int32, w string, path []arc) []int32 {
	for i := 0; i < len(path); i++ {
		if path[i].id != m.unk {
			dst = append(dst, path[i].id)
			continue
		}
		start := path[i].start
		for i+1 < len(path) && path[i+1].id == m.unk {
			i++
		}
		end := int32(len(w))
		if i+1 < len(path) {
			end = path[i+1].start
		}
		dst = m.unknown(dst, w[start:end])
	}
	return dst
}

func (m *unigram) unknown(dst []int32, text string) []int32 {
	n := len(dst)
	for i := 0; m.byteFallback && i < len(text); i++ {
		id := m.bytes[text[i]]
		if id < 0 {
			dst = dst[:n]
			break
		}
		dst = append(dst, id)
	}
	if len(dst) == n && m.unk >= 0 {
		dst = append(dst, m.unk)
	}
	return dst
}
