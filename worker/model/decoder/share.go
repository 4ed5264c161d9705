package decoder

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"chorale/worker/tensor"
)

// ErrRanks reports a model that cannot be shared out among so many ranks.
var ErrRanks = errors.New("the model cannot be shared out among the ranks")

// Share is one rank's part of a model. Layers that widen (q, k, v, gate, up) are
// cut along their outputs, those that follow them (o, down) along their inputs,
// so that the sum over ranks of what the latter give is the whole layer's;
// embedding and head are cut along the vocabulary.
type Share struct {
	Rank, Size int
	// Heads, KVHeads and FFN are this rank's. With more ranks than KV heads each
	// is on several ranks.
	Heads, KVHeads, FFN int
	// Vocab is how many tokens a rank has, the last ones' padding included.
	Vocab int

	spec    *Spec
	kvFirst int
	full    bool // see Model.ShardLoRA
}

// vocabAlign is what ranks' parts of the vocabulary are multiples of, so that
// kernels find rows that are aligned.
const vocabAlign = 32

// Shard gives a rank's part of a model, or ErrRanks with the arithmetic.
func Shard(s *Spec, rank, size int) (*Share, error) {
	if size < 1 || rank < 0 || rank >= size {
		return nil, fmt.Errorf("%w: rank %d of %d", ErrRanks, rank, size)
	}
	if what := s.uneven(size); what != "" {
		return nil, fmt.Errorf("%w: %s; this model runs on %s", ErrRanks, what, s.sizes())
	}
	sh := &Share{Rank: rank, Size: size, Heads: s.Heads / size, KVHeads: max(s.KVHeads/size, 1), FFN: s.FFN / size, Vocab: s.Vocab, spec: s}
	sh.kvFirst = rank * s.KVHeads / size
	if size > 1 {
		n := (s.Vocab + size - 1) / size
		sh.Vocab = (n + vocabAlign - 1) / vocabAlign * vocabAlign
	}
	return sh, nil
}

// uneven tells what does not divide by so many ranks, "" when all does.
func (s *Spec) uneven(size int) string {
	odd := func(n int, what string) string {
		return fmt.Sprintf("%d %s do not divide by %d ranks (%d = %d·%d + %d)", n, what, size, n, n/size, size, n%size)
	}
	switch {
	case s.Heads%size != 0:
		return odd(s.Heads, "query heads")
	case size <= s.KVHeads && s.KVHeads%size != 0:
		return odd(s.KVHeads, "key and value heads")
	case size > s.KVHeads && size%s.KVHeads != 0:
		return fmt.Sprintf("%d ranks are no multiple of %d key and value heads (%d = %d·%d + %d), which could then be on several each",
			size, s.KVHeads, size, size/s.KVHeads, s.KVHeads, size%s.KVHeads)
	case s.FFN%size != 0:
		return odd(s.FFN, "channels of the MLP")
	}
	return ""
}

// sizes lists the numbers of ranks that the model can have.
func (s *Spec) sizes() string {
	var out []string
	for n := 1; n <= s.Heads; n++ {
		if s.uneven(n) == "" {
			out = append(out, fmt.Sprint(n))
		}
	}
	last := len(out) - 1
	if last == 0 {
		return "1 rank only"
	}
	return strings.Join(out[:last], ", ") + " or " + out[last] + " ranks"
}

// ModuleShare is a rank's part of a module's inputs and outputs.
type ModuleShare struct {
	In, Out tensor.Span
	// Sum says that the ranks' outputs are added, so that what is added to the
	// outputs once, a bias, is rank 0's to add.
	Sum bool
}

// Module gives this rank's part of a module, by its number.
func (sh *Share) Module(n int) ModuleShare {
	s := sh.spec
	hidden := tensor.All(s.Hidden)
	switch {
	case n == s.embedModule():
		return ModuleShare{In: sh.vocab(), Out: hidden}
	case n == s.headModule():
		return ModuleShare{In: hidden, Out: sh.vocab()}
	}
	switch n % modPerLayer {
	case modQ:
		return ModuleShare{In: hidden, Out: sh.heads()}
	case modK, modV:
		return ModuleShare{In: hidden, Out: span(sh.kvFirst*s.HeadDim, sh.KVHeads*s.HeadDim)}
	case modO:
		return ModuleShare{In: sh.heads(), Out: hidden, Sum: true}
	case modDown:
		return ModuleShare{In: sh.ffn(), Out: hidden, Sum: true}
	default:
		return ModuleShare{In: hidden, Out: sh.ffn()}
	}
}

func span(from, n int) tensor.Span { return tensor.Span{From: from, Len: n, Have: n} }

func (sh *Share) heads() tensor.Span { return span(sh.Rank*sh.qWidth(), sh.qWidth()) }
func (sh *Share) ffn() tensor.Span   { return span(sh.Rank*sh.FFN, sh.FFN) }

func (sh *Share) vocab() tensor.Span {
	from := min(sh.Rank*sh.Vocab, sh.spec.Vocab)
	return tensor.Span{From: from, Len: sh.Vocab, Have: min(sh.Vocab, sh.spec.Vocab-from)}
}

// AdapterShare is a rank's part of an adapted module of a LoRA rank.
type AdapterShare struct {
	Cut tensor.LoRACut
	// In and Out are the parts of the module's inputs and outputs, Ranks the rows
	// of A, of which B has all.
	In, Out, Ranks tensor.Span
	// Sum is ModuleShare's: what is added to the outputs once is added where Out
	// says, or, when Out is whole, by rank 0.
	Sum bool
}

// Adapter gives this rank's part of an adapted module, by its number.
func (sh *Share) Adapter(n, rank int) AdapterShare {
	ms := sh.Module(n)
	as := AdapterShare{In: ms.In, Out: ms.Out, Ranks: tensor.All(rank), Sum: ms.Sum}
	switch {
	case !sh.full || n == sh.spec.embedModule():
	case ms.Sum:
		part := func(rank int) int { return (rank*ms.Out.Len + sh.Size - 1) / sh.Size } // nobody has more than rank 0, which keeps the books
		from, to := part(sh.Rank), part(sh.Rank+1)
		as.Cut, as.Out = tensor.Summed, span(from, to-from)
	default:
		w := tensor.Gathered.Rows(rank, sh.Size)
		from := min(sh.Rank*w, rank)
		as.Cut, as.Ranks = tensor.Gathered, tensor.Span{From: from, Len: w, Have: min(w, rank-from)}
	}
	return as
}

// ShardLoRA shares adapters out among ranks completely, as S-LoRA does (Sheng et
// al. 2023, arXiv:2311.03285): each value is on one rank only, for an all-gather or
// all-reduce of intermediates more for each layer. It precedes the first adapter
// and is the same on all ranks; one rank has everything anyway.
func (m *Model) ShardLoRA(full bool) { m.share.full = full && m.share.Size > 1 }

// The widths of this rank's projections.
func (sh *Share) qWidth() int  { return sh.Heads * sh.spec.HeadDim }
func (sh *Share) kvWidth() int { return sh.KVHeads * sh.spec.HeadDim }

// Values cuts a vector that is added to a module's outputs: nil where another
// rank adds it.
func (ms *ModuleShare) Values(v []float32, rank int) []float32 {
	if ms.Sum && rank > 0 {
		return nil
	}
	return cut(v, ms.Out)
}

// Values is ModuleShare's for what an adapter adds.
func (as *AdapterShare) Values(v []float32, rank int) []float32 {
	if as.Sum && as.Cut == tensor.Uncut && rank > 0 {
		return nil
	}
	return cut(v, as.Out)
}

// Offset is the first of the module's outputs, as this rank counts them, that the
// adapter changes.
func (as *AdapterShare) Offset() int {
	if as.Cut == tensor.Summed {
		return as.Out.From
	}
	return 0
}

func cut(v []float32, s tensor.Span) []float32 {
	return append(slices.Clone(v[s.From:s.From+s.Have]), make([]float32, s.Len-s.Have)...)
}
