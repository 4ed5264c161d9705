package tensor

import "fmt"

// GreedyBelow is the temperature below which the most likely token is taken.
const GreedyBelow = 1e-6

// SampleRow says what is wanted of one row of logits. Its operations apply in
// the order of its fields: adjust, ban, temperature, top-k, top-p, min-p, draw.
type SampleRow struct {
	// Given reports the log probability of Token and draws nothing; the fields
	// up to U then mean nothing.
	Given bool
	Token int32

	// Adjust changes single logits; ids are distinct, those outside the
	// vocabulary are ignored. Repetition (1: none) divides positive and
	// multiplies other logits of tokens that were seen; Frequency and Presence
	// are subtracted per occurrence and once.
	Adjust                          []Adjust
	Repetition, Frequency, Presence float32
	// Last, unless it is 0, says that the token of row Last-1 of those that the
	// step before sampled occurred once more than Adjust knows.
	Last int
	// Ban makes tokens impossible; ids are distinct.
	Ban []int32
	// Temperature below GreedyBelow, and TopK 1, take the most likely token. A
	// row whose largest logit is not finite is greedy, too.
	Temperature float64
	TopK        int     // <= 0: all
	TopP        float64 // of what top-k left; >= 1: all
	MinP        float64 // relative to the best; <= 0: all
	// U is the draw, in [0, 1): the token is the first, in order of ids, at which
	// the running sum of what is left exceeds U of all of it.
	U float64

	// Top is how many of the most likely tokens to report, at most MaxTop, and
	// IDs which others, all from the row as it came.
	Top int
	IDs []int32
}

// MaxTop is the most tokens that SampleRow.Top may ask for.
const MaxTop = 2048

// Greedy tells whether the row takes the most likely token.
func (r *SampleRow) Greedy() bool { return r.Temperature < GreedyBelow || r.TopK == 1 }

// Adjust changes one logit: the bias is added, then penalties are applied.
type Adjust struct {
	ID   int32
	Bias float32
	// Count is how often the token was generated.
	Count int32
	// Seen tells that it stood in prompt or answer.
	Seen bool
}

// Sampled is what came of a SampleRow. Log probabilities are those of the row
// as it came: no parameter changes them.
type Sampled struct {
	Token   int32
	Stat    LogitStat
	Logprob float64
	// Top are the most likely tokens, ties by lower ids, NaN below all others;
	// Requested are SampleRow.IDs'.
	Top, Requested []TokenLogprob
}

// TokenLogprob is a token's log probability.
type TokenLogprob struct {
	ID      int32
	Logprob float64
}

// CheckSample checks the operands of Sample against the size of the vocabulary, a
// step's room for sampled rows and the number that the step before had, for
// backends.
func CheckSample(logits Buffer, vocab, room, before int, out []Sampled, rows []SampleRow) error {
	if len(rows) != logits.Rows() || len(out) != len(rows) || len(rows) > room {
		return fmt.Errorf("%d results and %d requests for %d rows, the step has room for %d: %w", len(out), len(rows), logits.Rows(), room, ErrShape)
	}
	inside := func(id int32) bool { return id >= 0 && int(id) < vocab }
	for i := range rows {
		r := &rows[i]
		if r.Given && !inside(r.Token) || r.Top < 0 || r.Top > MaxTop || !(r.U >= 0 && r.U < 1) {
			return fmt.Errorf("row %d: token %d of %d, draw %v, %d most likely (at most %d): %w", i, r.Token, vocab, r.U, r.Top, MaxTop, ErrShape)
		}
		if r.Last < 0 || r.Last > before {
			return fmt.Errorf("row %d counts token %d of %d: %w", i, r.Last, before, ErrShape)
		}
		for _, id := range r.IDs {
			if !inside(id) {
				return fmt.Errorf("row %d asks for token %d of %d: %w", i, id, vocab, ErrShape)
			}
		}
	}
	return nil
}
