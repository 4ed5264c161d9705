package conformance

import (
	"fmt"
	"math"
	"slices"
	"sync"

	"chorale/worker/tensor"
)

// choir is a small transformer made of every operation, with adapters of mixed
// ranks and modules. It exists to be run under different schedules.
type choir struct {
	device
	hidden, heads, kvHeads, headDim, ffn, vocab, layers, pageSize, window int

	embed, head                tensor.Matrix
	qkv, out, gateUp, down     []tensor.Matrix
	norm, qNorm, kNorm, qkvAdd tensor.Vector
	adapters                   []adapter
	kv                         tensor.KV
	x, h, qkvBuf, att, gu, act tensor.Buffer
	logits                     tensor.Buffer
}

// adapter has pairs for q, k, v, o, gate, up, down (nil: not adapted), the
// embedding and the head.
type adapter struct {
	q, k, v, o, gate, up, down, embed, head tensor.LoRAPair
	qBias                                   tensor.Vector
}

const choirRows = 160

func newChoir(d device, pageSize, window int) *choir {
	m := &choir{
		device: d, hidden: 72, heads: 6, kvHeads: 2, headDim: 16, ffn: 100, vocab: 131,
		layers: 2, pageSize: pageSize, window: window,
	}
	weight := func(out, in int) tensor.Matrix {
		return d.matrix(d.random(d.Precision(), out, in, 1.5/math.Sqrt(float64(in))))
	}
	q, kv := m.heads*m.headDim, m.kvHeads*m.headDim
	m.embed, m.head = weight(m.vocab, m.hidden), weight(m.vocab, m.hidden)
	for range m.layers {
		m.qkv = append(m.qkv, weight(q+2*kv, m.hidden))
		m.out = append(m.out, weight(m.hidden, q))
		m.gateUp = append(m.gateUp, weight(2*m.ffn, m.hidden))
		m.down = append(m.down, weight(m.hidden, m.ffn))
	}
	vec := func(n int) tensor.Vector { return d.vector(d.random(tensor.F32, 1, n, 1)) }
	m.norm, m.qNorm, m.kNorm, m.qkvAdd = vec(m.hidden), vec(m.headDim), vec(m.headDim), vec(q+2*kv)
	pair := func(r, in, out int) tensor.LoRAPair { return d.pair(r, in, out).dev }
	m.adapters = []adapter{
		{},
		{
			q: pair(16, m.hidden, q), k: pair(16, m.hidden, kv), v: pair(16, m.hidden, kv), o: pair(16, q, m.hidden),
			gate: pair(16, m.hidden, m.ffn), up: pair(16, m.hidden, m.ffn), down: pair(16, m.ffn, m.hidden),
		},
		{q: pair(3, m.hidden, q), v: pair(64, m.hidden, kv), qBias: vec(q)},
		{down: pair(8, m.ffn, m.hidden), embed: d.embeddingPair(5, m.vocab, m.hidden).dev, head: pair(9, m.hidden, m.vocab)},
	}
	m.kv = must(d.NewKV(tensor.KVLayout{Layers: m.layers, KVHeads: m.kvHeads, HeadDim: m.headDim, PageSize: pageSize, Pages: 400 / pageSize}))(d.check)
	d.Cleanup(m.kv.Free)
	m.x, m.h, m.qkvBuf = d.bufferOf(tensor.Wide, choirRows, m.hidden), d.buffer(choirRows, m.hidden), d.buffer(choirRows, q+2*kv)
	m.att, m.gu, m.act = d.buffer(choirRows, q), d.buffer(choirRows, 2*m.ffn), d.buffer(choirRows, m.ffn)
	m.logits = d.bufferOf(tensor.Wide, choirRows, m.vocab)
	return m
}

// part is one sequence's share of a step.
type part struct {
	seq    *voice
	tokens int
}

// voice is a sequence: its tokens, adapter and the logits of its positions.
type voice struct {
	ids     []int32
	adapter int
	pages   []int32
	done    int
	logits  [][]float32
	stats   []tensor.LogitStat
}

// step runs one batch and appends each row's logits to its voice.
func (m *choir) step(parts []part) {
	m.Helper()
	var b tensor.Batch
	terms := func(offset int, pick func(a adapter) tensor.LoRAPair) []tensor.LoRATerm {
		var out []tensor.LoRATerm
		for i, s := range b.Seqs {
			if p := pick(m.adapters[parts[i].seq.adapter]); p != nil {
				out = append(out, tensor.LoRATerm{Start: s.QStart, End: s.QStart + s.QLen, Offset: offset, Pair: p})
			}
		}
		return out
	}
	for _, p := range parts {
		v := p.seq
		b.Seqs = append(b.Seqs, tensor.Seq{QStart: len(b.IDs), QLen: p.tokens, CtxLen: v.done + p.tokens, Pages: v.pages})
		for i := range p.tokens {
			b.IDs = append(b.IDs, v.ids[v.done+i])
			b.Pos = append(b.Pos, int32(v.done+i))
		}
		v.done += p.tokens
	}
	q, kv := m.heads*m.headDim, m.kvHeads*m.headDim
	m.Begin(&b)
	m.Embed(m.x, m.embed, terms(0, func(a adapter) tensor.LoRAPair { return a.embed }))
	m.RMSNorm(m.h, m.x, m.norm, 1e-5)
	for layer := range m.layers {
		qkvTerms := slices.Concat(
			terms(0, func(a adapter) tensor.LoRAPair { return a.q }),
			terms(q, func(a adapter) tensor.LoRAPair { return a.k }),
			terms(q+kv, func(a adapter) tensor.LoRAPair { return a.v }))
		for i := range qkvTerms {
			if bias := m.adapters[2].qBias; qkvTerms[i].Pair == m.adapters[2].q {
				qkvTerms[i].Bias = bias
			}
		}
		m.Linear(m.qkvBuf, m.h, m.qkv[layer], m.qkvAdd, qkvTerms)
		m.RopeKV(m.qkvBuf, m.kv, tensor.RopeKV{Layer: layer, Heads: m.heads, QNorm: m.qNorm, KNorm: m.kNorm, Eps: 1e-6})
		m.Attention(m.att, m.qkvBuf, m.kv, tensor.AttentionSpec{Layer: layer, Heads: m.heads, Scale: 0.25, Window: m.window * layer})
		m.Linear(m.h, m.att, m.out[layer], nil, terms(0, func(a adapter) tensor.LoRAPair { return a.o }))
		m.AddRMSNorm(m.h, m.x, m.h, m.norm, 1e-5)
		m.Linear(m.gu, m.h, m.gateUp[layer], nil, slices.Concat(
			terms(0, func(a adapter) tensor.LoRAPair { return a.gate }),
			terms(m.ffn, func(a adapter) tensor.LoRAPair { return a.up })))
		m.SiluMul(m.act, m.gu)
		m.Linear(m.h, m.act, m.down[layer], nil, terms(0, func(a adapter) tensor.LoRAPair { return a.down }))
		m.AddRMSNorm(m.h, m.x, m.h, m.norm, 1e-5)
	}
	m.Linear(m.logits, m.h, m.head, nil, terms(0, func(a adapter) tensor.LoRAPair { return a.head }))
	stats := make([]tensor.LogitStat, len(b.IDs))
	m.LogitStats(stats, m.logits)
	rows := m.Host(m.logits)
	for i, s := range b.Seqs {
		for t := s.QStart; t < s.QStart+s.QLen; t++ {
			parts[i].seq.logits = append(parts[i].seq.logits, slices.Clone(rows[t*m.vocab:(t+1)*m.vocab]))
			parts[i].seq.stats = append(parts[i].seq.stats, stats[t])
		}
	}
	m.finish()
}

// voices makes sequences with shuffled pages.
func (m *choir) voices(lengths ...int) []*voice {
	var out []*voice
	for i, table := range m.pageTables(m.kv.Layout(), lengths) {
		v := &voice{adapter: i % len(m.adapters), pages: table}
		for range lengths[i] {
			v.ids = append(v.ids, int32(m.rng.IntN(m.vocab)))
		}
		out = append(out, v)
	}
	return out
}

// again returns the voices without their progress.
func again(voices []*voice) []*voice {
	var out []*voice
	for _, v := range voices {
		out = append(out, &voice{ids: v.ids, adapter: v.adapter, pages: v.pages})
	}
	return out
}

func (m *choir) compare(what string, got, want []*voice) {
	m.Helper()
	for i := range want {
		for p := range want[i].logits {
			name := fmt.Sprintf("%s: voice %d position %d", what, i, p)
			if m.tol.Company > 0 {
				m.near(name, got[i].logits[p], want[i].logits[p])
				continue
			}
			m.same(name, got[i].logits[p], want[i].logits[p])
			if got[i].stats[p] != want[i].stats[p] {
				m.Fatalf("%s: %+v, want %+v", name, got[i].stats[p], want[i].stats[p])
			}
		}
	}
}

// near checks logits of a backend whose rows may depend on their company.
func (m *choir) near(what string, got, want []float32) {
	m.Helper()
	for i := range want {
		if diff := math.Abs(float64(got[i]) - float64(want[i])); !(diff <= m.tol.Company) {
			m.Fatalf("%s: logit %d is %v, alone %v", what, i, got[i], want[i])
		}
	}
}

// alone runs every voice by itself, each prompt as one chunk.
func (m *choir) alone(voices []*voice) {
	for _, v := range voices {
		m.step([]part{{v, len(v.ids)}})
	}
}

// mixed runs random batches of random chunks until every voice is done.
func (m *choir) mixed(voices []*voice, chunk int) {
	for {
		var parts []part
		rows, left := 0, 0
		for _, i := range m.rng.Perm(len(voices)) {
			v := voices[i]
			n := min(len(v.ids)-v.done, 1+m.rng.IntN(chunk), choirRows-rows)
			left += len(v.ids) - v.done
			if n > 0 && m.rng.IntN(3) > 0 {
				parts = append(parts, part{v, n})
				rows += n
			}
		}
		if left == 0 {
			return
		}
		if len(parts) > 0 {
			m.step(parts)
		}
	}
}

func testInvariance(c *check) {
	for _, cfg := range []struct{ pageSize, window int }{{16, 0}, {5, 7}, {32, 33}} {
		m := newChoir(c.device(2, choirRows, ropeSpec(16, 1)), cfg.pageSize, cfg.window)
		want := m.voices(40, 1, 20, 130, 9, 17)
		m.alone(want)
		for _, row := range want[3].logits {
			if slices.ContainsFunc(row, func(v float32) bool { return math.IsNaN(float64(v)) }) {
				c.Fatal("logits are NaN")
			}
		}
		tokenByToken := again(want)
		m.mixed(tokenByToken, 1)
		m.compare("token by token", tokenByToken, want)
		for _, chunk := range []int{3, 20, 100} {
			got := again(want)
			m.mixed(got, chunk)
			m.compare(fmt.Sprintf("chunks up to %d", chunk), got, want)
		}
	}
}

func testThreads(c *check) {
	var want []*voice
	for _, threads := range []int{1, 2, 3} {
		c.rng.Uint64()
		same := *c
		same.rng = newRand(3)
		m := newChoir(same.device(threads, choirRows, ropeSpec(16, 1)), 16, 0)
		got := m.voices(50, 3, 90)
		m.alone(got)
		if want != nil {
			m.compare(fmt.Sprintf("%d threads", threads), got, want)
		}
		want = got
	}
}

// testStreams runs two streams of one backend at once.
func testStreams(c *check) {
	d := c.device(2, choirRows, ropeSpec(16, 1))
	var models []*choir
	for range 2 {
		own := d
		same := *c
		same.rng = newRand(4)
		own.check = &same
		own.Stream = must(d.NewStream(choirRows, []tensor.RopeSpec{ropeSpec(16, 1)}))(c)
		models = append(models, newChoir(own, 16, 0))
	}
	var wg sync.WaitGroup
	got := make([][]*voice, 2)
	for i, m := range models {
		got[i] = m.voices(60, 5, 30)
		wg.Go(func() { m.mixed(got[i], 8) })
	}
	wg.Wait()
	models[0].compare("two streams", got[0], got[1])
}
