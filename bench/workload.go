package bench

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// Mode says which adapters requests name.
type Mode string

// The modes.
const (
	ModeNone  Mode = "none"
	ModeSame  Mode = "same"
	ModeEach  Mode = "each"
	ModePower Mode = "power"
)

// item is one request to make.
type item struct {
	// client makes it (closed loop); due is when, in seconds from the start
	// (open loop).
	client int
	due    float64
	// adapter is its position in the target's list, -1 for the base model.
	adapter int
	ids     []int32
	text    string
	output  int
}

// prompts makes prompts that never repeat.
type prompts struct {
	lo, hi int
	texts  []string
	next   int // of texts
	seen   map[[sha256.Size]byte]bool
}

// firstID keeps random prompts clear of the special tokens that most
// vocabularies have in front.
const firstID = 1000

func newPrompts(vocab int, texts []string) *prompts {
	return &prompts{lo: min(firstID, vocab/4), hi: vocab, texts: texts, seen: map[[sha256.Size]byte]bool{}}
}

// fill gives an item its prompt of n tokens, or the next text.
func (p *prompts) fill(it *item, n int, rng *rand.Rand) error {
	if len(p.texts) > 0 {
		it.text = p.texts[p.next%len(p.texts)]
		p.next++
		return nil
	}
	const tries = 100
	buf := make([]byte, 4*n)
	it.ids = make([]int32, n)
	for range tries {
		for i := range it.ids {
			it.ids[i] = int32(p.lo + rng.IntN(p.hi-p.lo))
			binary.LittleEndian.PutUint32(buf[4*i:], uint32(it.ids[i]))
		}
		if h := sha256.Sum256(buf); !p.seen[h] {
			p.seen[h] = true
			return nil
		}
	}
	return fmt.Errorf("%w: prompts of %d tokens out of %d do not suffice for this many different requests", ErrConfig, n, p.hi-p.lo)
}

// streams of random numbers: what is equal for all targets and modes of a
// round, and what must differ.
const (
	streamShape = iota + 1
	streamPrompt
)

func (c *Config) rng(stream, round, cell int) *rand.Rand {
	return rand.New(rand.NewPCG(c.Seed, uint64(stream)<<48|uint64(round)<<24|uint64(cell)))
}

// maxItems bounds one run.
const maxItems = 1 << 20

// items makes one round of one cell: lengths, adapters and times are the same
// for each cell of a round, prompts are new.
func (c *Config) items(p *prompts, mode Mode, adapters, round, cell int) ([]item, error) {
	shape, fill := c.rng(streamShape, round, 0), c.rng(streamPrompt, round, cell)
	dues := c.dues(shape)
	n := len(dues)
	if !c.open() {
		n = c.Clients * c.Requests
	}
	out := make([]item, n)
	for i := range out {
		it := &out[i]
		if c.open() {
			it.due = dues[i]
			it.client = i
		} else {
			it.client = i / c.Requests
		}
		it.adapter = pick(mode, it.client, adapters, c.Alpha, shape)
		prompt := c.Prompt.draw(shape)
		it.output = c.Output.draw(shape)
		if len(c.Pairs) > 0 {
			pair := c.Pairs[shape.IntN(len(c.Pairs))]
			prompt, it.output = pair.Prompt, pair.Output
		}
		if err := p.fill(it, prompt, fill); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// pick chooses an adapter. It takes one number from rng whatever the mode, so
// that modes do not shift each other's lengths.
func pick(mode Mode, client, adapters int, alpha float64, rng *rand.Rand) int {
	draw := 0
	if adapters > 0 {
		draw = power(rng, adapters, alpha)
	} else {
		rng.Float64()
	}
	switch mode {
	case ModeSame:
		return 0
	case ModeEach:
		return client % adapters
	case ModePower:
		return draw
	}
	return -1
}

// dues are the open loop's times.
func (c *Config) dues(rng *rand.Rand) []float64 {
	if !c.open() {
		return nil
	}
	g := gaps{rng: rng, rate: c.Rate, cv: c.CV}
	var out []float64
	for t := g.next(); len(out) < maxItems; t += g.next() {
		if c.Total > 0 && len(out) == c.Total || c.Duration > 0 && t > c.Duration.Seconds() {
			break
		}
		out = append(out, t)
	}
	return out
}

// warmup is a burst like a round's, short, of prompts that are used for
// nothing else.
func (c *Config) warmup(p *prompts, mode Mode, adapters, round, cell int) ([]item, error) {
	w := *c
	w.Rate, w.Requests = 0, 1
	if c.open() {
		w.Clients = min(8, max(1, c.Total))
		if mode == ModeEach || mode == ModePower {
			w.Clients = max(w.Clients, min(adapters, maxWarm))
			mode = ModeEach // so that each is resident
		}
	}
	return w.items(p, mode, adapters, 1<<20+round, cell)
}

// maxWarm bounds the adapters that a warm-up names.
const maxWarm = 64
