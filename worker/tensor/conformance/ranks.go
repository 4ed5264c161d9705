package conformance

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// OpenGroup makes a whole group, ends by rank, in this process.
type OpenGroup func(t testing.TB, size int) []collective.Member

// RunRanks tests backends that are ranks of a group, all in this process.
func RunRanks(t *testing.T, open Open, group OpenGroup, tol Tolerance) {
	for _, size := range []int{2, 3} {
		run := func(name string, test func(c *check, r *ranks)) {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
				c := &check{T: t, open: open, tol: tol, rng: newRand(uint64(size))}
				test(c, c.ranks(group(t, size)))
			})
		}
		run("AllReduce", testAllReduce)
		run("AllGather", testAllGather)
		run("EmbedSplit", testEmbedSplit)
		run("SampleSplit", testSampleSplit)
		run("StatsSplit", testStatsSplit)
		run("SplitErrors", testSplitErrors)
		run("CutLoRA", testCutLoRA)
		run("CutErrors", testCutErrors)
		run("GroupEnds", testGroupEnds)
	}
	t.Run("Join", func(t *testing.T) { testJoin(&check{T: t, open: open}, group(t, 2)) })
}

const rankRows = 64

// ranks are devices by rank; plain is a device of no group.
type ranks struct {
	*check
	group   []collective.Member
	devices []device
	plain   device
}

func (c *check) ranks(group []collective.Member) *ranks {
	c.Helper()
	r := &ranks{check: c, group: group, plain: c.device(1, rankRows)}
	for _, m := range group {
		b := c.backend(1)
		if err := b.Join(m); err != nil {
			c.Fatal(err)
		}
		r.devices = append(r.devices, device{c, b, must(b.NewStream(rankRows, nil))(c)})
	}
	return r
}

// each runs a step of so many rows on all ranks at once, on streams of their own.
func (r *ranks) each(ids []int32, vocab int, f func(rank int, s tensor.Stream)) {
	r.Helper()
	var all sync.WaitGroup
	errs := make([]error, len(r.devices))
	for i, d := range r.devices {
		s := must(d.NewStream(rankRows, nil))(r.check)
		if vocab > 0 {
			s.SplitVocab(vocab)
		}
		all.Go(func() {
			s.Begin(&tensor.Batch{IDs: ids, Pos: make([]int32, len(ids))})
			f(i, s)
			errs[i] = s.Finish()
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		r.Fatal(err)
	}
}

// place puts m into a Wide buffer of every rank, or of a rank its columns of it.
func (r *ranks) place(m dense, cut func(rank int) dense) []tensor.Buffer {
	r.Helper()
	var out []tensor.Buffer
	for rank, d := range r.devices {
		d.begin(m.rows)
		out = append(out, d.uploadAs(tensor.Wide, cut(rank)))
		d.finish()
	}
	return out
}

func ascending(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(i)
	}
	return ids
}

func testAllReduce(c *check, r *ranks) {
	const rows, cols = 5, 67
	want, bound := newDense(rows, cols), newDense(rows, cols)
	parts := make([]dense, len(r.devices))
	for i := range parts {
		parts[i] = c.random(r.plain.Precision(), rows, cols, 1)
		for k, v := range parts[i].v {
			want.v[k] += v
			bound.v[k] += 1e-6
		}
	}
	bufs := r.place(want, func(rank int) dense { return parts[rank] })
	got := make([][]float32, len(bufs))
	r.each(ascending(rows), 0, func(rank int, s tensor.Stream) {
		s.AllReduce(bufs[rank])
		got[rank] = slices.Clone(s.Host(bufs[rank]))
	})
	for rank := range got {
		c.compare("sum", tensor.Wide, got[rank], want, bound)
		c.same("sum of another rank", got[rank], got[0])
	}
	alone := r.plain
	alone.begin(rows)
	x := alone.uploadAs(tensor.Wide, parts[0])
	alone.AllReduce(x)
	c.same("sum of one", slices.Clone(alone.Host(x)), parts[0].floats())
	alone.finish()
}

func testAllGather(c *check, r *ranks) {
	const rows, cols = 4, 9
	size := len(r.devices)
	want := c.random(r.plain.Precision(), rows, size*cols, 1)
	bufs := r.place(want, func(rank int) dense { return columns(want, rank*cols, cols) })
	dst := make([]tensor.Buffer, size)
	for i, d := range r.devices {
		dst[i] = d.bufferOf(tensor.Wide, rows, size*cols)
	}
	got := make([][]float32, size)
	r.each(ascending(rows), 0, func(rank int, s tensor.Stream) {
		s.AllGather(dst[rank], bufs[rank])
		got[rank] = slices.Clone(s.Host(dst[rank]))
	})
	for rank := range got {
		c.same("gathered", got[rank], want.floats())
	}
	alone := r.plain
	alone.begin(rows)
	x, y := alone.uploadAs(tensor.Wide, want), alone.bufferOf(tensor.Wide, rows, size*cols)
	alone.AllGather(y, x)
	c.same("gathered of one", slices.Clone(alone.Host(y)), want.floats())
	alone.finish()
}

// columns is a part of a matrix, zero beyond its end.
func columns(m dense, from, n int) dense {
	out := newDense(m.rows, n)
	for i := range m.rows {
		if from < m.cols {
			copy(out.row(i), m.row(i)[from:min(from+n, m.cols)])
		}
	}
	return out
}

// rowsOf is a part of a matrix, zero beyond its end.
func rowsOf(m dense, from, n int) dense {
	out := newDense(n, m.cols)
	if from < m.rows {
		copy(out.v, m.v[from*m.cols:min(from+n, m.rows)*m.cols])
	}
	return out
}

// testEmbedSplit: a table whose rows the ranks share, with padding, and an
// adapter of it, give what one rank gives, bit for bit.
func testEmbedSplit(c *check, r *ranks) {
	const vocab, hidden, rank = 70, 33, 3
	p := r.plain.Precision()
	n := (vocab + len(r.devices) - 1) / len(r.devices) // the last rank's are fewer
	table := c.random(p, vocab, hidden, 1)
	a, b := c.random(p, rank, vocab, 1), c.random(p, hidden, rank, 1)
	ids := []int32{0, 69, 35, 34, 1, 46, 47, 69, 23, 24}
	pair := func(d device, from, n int) []tensor.LoRATerm {
		part := columns(a, from, n)
		pr := must(d.NewEmbeddingLoRA(rank, n, hidden, 0.5, part.Rows, b.Rows))(c)
		c.Cleanup(pr.Free)
		return []tensor.LoRATerm{{Start: 1, End: len(ids) - 1, Pair: pr}}
	}
	whole, terms := r.plain.matrix(table), pair(r.plain, 0, vocab)
	dst := r.plain.bufferOf(tensor.Wide, len(ids), hidden)
	r.plain.Begin(&tensor.Batch{IDs: ids, Pos: make([]int32, len(ids))})
	r.plain.Embed(dst, whole, terms)
	want := slices.Clone(r.plain.Host(dst))
	r.plain.finish()

	var bufs []tensor.Buffer
	var tables []tensor.Matrix
	var parts [][]tensor.LoRATerm
	for i, d := range r.devices {
		bufs, tables = append(bufs, d.bufferOf(tensor.Wide, len(ids), hidden)), append(tables, d.matrix(rowsOf(table, i*n, n)))
		parts = append(parts, pair(d, i*n, n))
	}
	r.each(ids, vocab, func(rank int, s tensor.Stream) {
		s.Embed(bufs[rank], tables[rank], parts[rank])
		s.AllReduce(bufs[rank])
		c.same(fmt.Sprintf("rank %d", rank), s.Host(bufs[rank]), want)
	})
}

// split is logits that lie on the ranks, n columns each.
func (r *ranks) split(m dense, n int) []tensor.Buffer {
	r.Helper()
	return r.place(m, func(rank int) dense { return columns(m, rank*n, n) })
}

// testSampleSplit: tokens and log probabilities are those of one rank.
func testSampleSplit(c *check, r *ranks) {
	for _, vocab := range []int{1, 17, 1000, 9000} {
		table := c.logitTable(vocab)
		rows := make([]tensor.SampleRow, table.rows)
		for i := range rows {
			rows[i] = c.sampleRow(vocab)
		}
		want := make([]tensor.Sampled, len(rows))
		r.plain.begin(table.rows)
		logits := r.plain.uploadAs(tensor.Wide, table)
		host := slices.Clone(r.plain.Host(logits))
		r.plain.Sample(want, logits, rows)
		r.plain.finish()

		n := vocab/len(r.devices) + 5 // with small vocabularies some rank has none
		bufs := r.split(table, n)
		got := make([][]tensor.Sampled, len(bufs))
		r.each(ascending(table.rows), vocab, func(rank int, s tensor.Stream) {
			got[rank] = make([]tensor.Sampled, len(rows))
			s.Sample(got[rank], bufs[rank], rows)
		})
		for i := range rows {
			row := host[i*vocab : (i+1)*vocab]
			for rank := range got {
				if !sameSampled(&got[rank][i], &got[0][i]) {
					c.Errorf("vocabulary %d row %d: rank %d has %+v, rank 0 %+v", vocab, i, rank, got[rank][i], got[0][i])
				}
			}
			c.compareStat(vocab, i, row, got[0][i].Stat)
			c.compareSampled(vocab, i, row, &rows[i], &got[0][i])
			if got[0][i].Token != want[i].Token && !c.neighbour(row, &rows[i], &got[0][i]) {
				c.Errorf("vocabulary %d row %d: token %d, one rank has %d, of %+v", vocab, i, got[0][i].Token, want[i].Token, rows[i])
			}
		}
	}
}

func testStatsSplit(c *check, r *ranks) {
	const vocab = 50
	table := c.logitTable(vocab)
	r.plain.begin(table.rows)
	host := slices.Clone(r.plain.Host(r.plain.uploadAs(tensor.Wide, table)))
	r.plain.finish()
	bufs := r.split(table, vocab/len(r.devices)+2)
	got := make([][]tensor.LogitStat, len(bufs))
	r.each(ascending(table.rows), vocab, func(rank int, s tensor.Stream) {
		got[rank] = make([]tensor.LogitStat, table.rows)
		s.LogitStats(got[rank], bufs[rank])
	})
	for rank := range got {
		for i := range got[rank] {
			c.compareStat(vocab, i, host[i*vocab:(i+1)*vocab], got[rank][i])
		}
	}
}

// testSplitErrors: shares that are too small, and tokens outside, are refused on
// every rank before anybody waits.
func testSplitErrors(c *check, r *ranks) {
	const vocab = 40
	p := r.plain.Precision()
	for name, f := range map[string]func(d device, s tensor.Stream, b tensor.Buffer){
		"small table":  func(d device, s tensor.Stream, b tensor.Buffer) { s.Embed(b, d.matrix(c.random(p, 10, 8, 1)), nil) },
		"small logits": func(_ device, s tensor.Stream, b tensor.Buffer) { s.LogitStats(make([]tensor.LogitStat, b.Rows()), b) },
		"token": func(_ device, s tensor.Stream, b tensor.Buffer) {
			s.SplitVocab(3 * b.Cols())
			s.Sample(make([]tensor.Sampled, 1), b, []tensor.SampleRow{{IDs: []int32{int32(3 * b.Cols())}}})
		},
		"no vocabulary": func(_ device, s tensor.Stream, _ tensor.Buffer) { s.SplitVocab(0) },
	} {
		for _, d := range r.devices {
			s := must(d.NewStream(4, nil))(c)
			s.SplitVocab(vocab)
			buf := d.bufferOf(tensor.Wide, 4, 8)
			s.Begin(&tensor.Batch{IDs: []int32{1}, Pos: []int32{0}})
			f(d, s, buf)
			if err := s.Finish(); !errors.Is(err, tensor.ErrShape) {
				c.Errorf("%s: %v", name, err)
			}
		}
	}
}

// testGroupEnds: operations after a group's end fail, and say why.
func testGroupEnds(c *check, r *ranks) {
	d := r.devices[len(r.devices)-1]
	r.group[0].Abort("enough")
	d.begin(2)
	x := d.uploadAs(tensor.Wide, c.random(d.Precision(), 2, 8, 1))
	d.AllReduce(x)
	if err := d.Finish(); !errors.Is(err, collective.ErrAborted) {
		c.Errorf("sum: %v", err)
	}
	d.begin(2)
	d.AllGather(d.bufferOf(tensor.Wide, 2, 8*len(r.devices)), x)
	if err := d.Finish(); !errors.Is(err, collective.ErrAborted) {
		c.Errorf("gather: %v", err)
	}
}

func testJoin(c *check, group []collective.Member) {
	b := c.backend(1)
	if b.Group().Size() != 1 || b.Group().Rank() != 0 {
		c.Errorf("a backend of no group is rank %d of %d", b.Group().Rank(), b.Group().Size())
	}
	if err := b.Join(nil); !errors.Is(err, tensor.ErrUnsupported) {
		c.Errorf("no group: %v", err)
	}
	if err := b.Join(group[1]); err != nil || b.Group() != collective.Group(group[1]) {
		c.Errorf("%v, %v", b.Group(), err)
	}
	if err := b.Join(group[0]); !errors.Is(err, tensor.ErrUnsupported) {
		c.Errorf("a second group: %v", err)
	}
	late := c.backend(1)
	must(late.NewStream(1, nil))(c)
	if err := late.Join(group[0]); !errors.Is(err, tensor.ErrUnsupported) {
		c.Errorf("after a stream: %v", err)
	}
}
