package conformance

import (
	"reflect"

	"chorale/worker/sample"
	"chorale/worker/tensor"
)

// chain is a model in which a token's logits are its row of a table.
type chain struct {
	device
	table  tensor.Matrix
	logits tensor.Buffer
	rows   int
}

// step runs one step, launched only. With known tokens the host fills them in,
// else the device takes those of the step before.
func (m *chain) step(number int, known [][]int32) []tensor.Sampled {
	b := &tensor.Batch{IDs: make([]int32, m.rows), Pos: make([]int32, m.rows)}
	asked, out := make([]tensor.SampleRow, m.rows), make([]tensor.Sampled, m.rows)
	for i := range m.rows {
		from := m.rows - 1 - i // sequences change places from step to step
		asked[i] = tensor.SampleRow{Temperature: 0.9, TopP: 1, U: sample.Uniform(uint64(i), uint64(number)), Repetition: 1.5, Presence: 0.25, Top: 2}
		switch {
		case number == 0:
			b.IDs[i] = int32(i)
		case known != nil:
			b.IDs[i] = known[number-1][from]
			asked[i].Adjust = []tensor.Adjust{{ID: known[number-1][from], Count: 1, Seen: true}}
		default:
			b.IDs[i] = int32(-1 - from)
			asked[i].Last = from + 1
		}
		if i%2 == 0 && (known == nil || number == 0 || b.IDs[i] != 3) {
			asked[i].Adjust = append(asked[i].Adjust, tensor.Adjust{ID: 3, Bias: 1})
		} else if i%2 == 0 {
			asked[i].Adjust[0].Bias = 1
		}
	}
	m.Begin(b)
	m.Embed(m.logits, m.table, nil)
	m.Sample(out, m.logits, asked)
	m.Launch()
	return out
}

// testAhead runs steps that take the tokens of the steps before from the
// device, as many launched as may be, and the same steps one by one.
func testAhead(c *check) {
	const rows, vocab, steps = 11, 40, 9
	d := c.device(2, 16)
	m := &chain{
		device: d, rows: rows, logits: d.bufferOf(tensor.Wide, rows, vocab),
		table: d.matrix(c.random(d.Precision(), vocab, vocab, 2)),
	}
	var known [][]int32
	var want [][]tensor.Sampled
	for n := range steps {
		out := m.step(n, append([][]int32{}, known...))
		if err := m.Wait(); err != nil {
			c.Fatal(err)
		}
		want = append(want, out)
		tokens := make([]int32, rows)
		for i, s := range out {
			tokens[i] = s.Token
		}
		known = append(known, tokens)
	}
	var got [][]tensor.Sampled
	flying := 0
	for n := range steps {
		got = append(got, m.step(n, nil))
		if flying++; flying == m.Depth() {
			if err := m.Wait(); err != nil {
				c.Fatal(err)
			}
			flying--
		}
	}
	d.finish()
	for n := range steps {
		if !reflect.DeepEqual(got[n], want[n]) {
			c.Fatalf("step %d: %+v\nwant %+v", n, got[n], want[n])
		}
	}
	// The last step sampled as many rows as the others.
	m.step(0, nil)
	d.finish()
	d.Begin(&tensor.Batch{IDs: []int32{-1 - rows}, Pos: []int32{0}})
	d.Embed(m.logits, m.table, nil)
	d.wantShape("a token that was not sampled")
}
