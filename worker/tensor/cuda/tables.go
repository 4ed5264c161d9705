package cuda

import (
	"slices"
	"unsafe"

	"chorale/worker/tensor"
)

// tables fills a stream's tables in host memory and keeps account of which of
// them the device has not got yet.
type tables struct {
	d driverStream
	// moving is told before memory moves.
	moving func()
	// busy tells that a submission may not have read the tables yet.
	busy   bool
	room   room
	layout layout
	used   int32
	lists  int   // gather lists in use since the last submission
	draws  int   // sample lists, likewise
	words  int32 // results of the step
	slot   int32 // next LoRA slot of the step
	turn   int32 // of the step: which half of the device's tokens it writes

	// Slots that changed since the last upload: [first, last), and most bytes.
	first, last, slotBytes int32
	// most is the number of slots ever used.
	most int32
	// asked is what each slot's terms were made from.
	asked []asked
}

// asked is a call's LoRA terms and what they were checked against.
type asked struct {
	terms         []tensor.LoRATerm
	rows, in, out int
	embedding     bool
}

func (a *asked) equal(b *asked) bool {
	return a.rows == b.rows && a.in == b.in && a.out == b.out && a.embedding == b.embedding && slices.Equal(a.terms, b.terms)
}

// again takes the next slot as it is when its terms were made from the same
// call: in most steps nothing changes but the tokens, and a batch with 64
// adapters has 14,000 terms.
func (t *tables) again(lora []tensor.LoRATerm, rows, in, out int, embedding bool) (int32, bool) {
	if len(lora) == 0 {
		t.slot++
		return 0, true
	}
	if int(t.slot) >= len(t.asked) || !t.asked[t.slot].equal(&asked{lora, rows, in, out, embedding}) {
		return 0, false
	}
	t.slot++
	return t.slot, true
}

// remember notes what the slot last taken was made from. A call without terms
// in the end took none, and is made anew each time.
func (t *tables) remember(lora []tensor.LoRATerm, rows, in, out int, embedding bool) {
	slot := int(t.slot) - 1
	for len(t.asked) <= slot {
		t.asked = append(t.asked, asked{})
	}
	a := &t.asked[slot]
	a.terms = append(a.terms[:0], lora...)
	a.rows, a.in, a.out, a.embedding = rows, in, out, embedding
}

// at views n values of the step's tables.
func at[T any](t *tables, offset int32, n int) []T {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&t.room.tables[offset])), n)
}

// begin fills the tables of a step of rows padded rows.
func (t *tables) begin(b *tensor.Batch, rows int32) error {
	pages := 0
	for i := range b.Seqs {
		pages += len(b.Seqs[i].Pages)
	}
	l := layoutOf(rows)
	need := int64(l.pages) + int64(pages)*4
	if need > t.room.bytes {
		if err := t.grow(room{bytes: need}); err != nil {
			return err
		}
	}
	t.layout, t.used, t.lists, t.draws, t.words, t.slot = l, int32(need), 0, 0, 0, 0
	*(*header)(unsafe.Pointer(&t.room.tables[l.header])) = header{rows: int32(len(b.IDs)), seqs: int32(len(b.Seqs)), turn: t.turn}
	n := int(rows)
	ids, pos, rowSeq := at[int32](t, l.ids, n), at[int32](t, l.pos, n), at[int32](t, l.rowSeq, n)
	for _, list := range []struct{ dst, src []int32 }{{ids, b.IDs}, {pos, b.Pos}} {
		clear(list.dst[copy(list.dst, list.src):])
	}
	clear(rowSeq)
	seqs, first := at[seq](t, l.seqs, n), int32(0)
	table := at[int32](t, l.pages, pages)
	for i := range b.Seqs {
		q := &b.Seqs[i]
		seqs[i] = seq{int32(q.QStart), int32(q.QLen), int32(q.CtxLen), first}
		first += int32(copy(table[first:], q.Pages))
		for r := q.QStart; r < q.QStart+q.QLen; r++ {
			rowSeq[r] = int32(i)
		}
	}
	return nil
}

// list writes a gather list and returns its number; there must be room.
func (t *tables) list(rows []int32) int32 {
	i := t.lists
	t.lists++
	n := int(t.layout.rows)
	dst := at[int32](t, t.layout.lists, n*lists)[i*n : (i+1)*n]
	clear(dst[copy(dst, rows):])
	return int32(i)
}

// reserve takes bytes at the end of the step's tables and tells where.
func (t *tables) reserve(bytes int) (int32, error) {
	start := (t.used + 15) / 16 * 16
	need := int64(start) + int64(bytes)
	if need > t.room.bytes {
		if err := t.grow(room{bytes: need}); err != nil {
			return 0, err
		}
	}
	t.used = int32(need)
	return start, nil
}

// grow makes room and takes over the new memory.
func (t *tables) grow(need room) error {
	t.moving()
	if err := t.d.makeRoom(&need); err != nil {
		return err
	}
	t.room = need
	if need.moved {
		t.first, t.last, t.slotBytes = 0, t.most, int32(need.slotStride)
	}
	return nil
}

// terms writes one operation's LoRA terms into the next slot and returns its
// number plus 1. The number counts the operations of the step, whether they
// have terms or not, so that it is the same in every step.
func (t *tables) terms(terms []loraTerm) (int32, error) {
	slot := t.slot
	t.slot++
	if len(terms) == 0 {
		return 0, nil
	}
	tiles := int64(0)
	for i := range terms {
		terms[i].s = int32(tiles)
		if terms[i].a != 0 && terms[i].b != 0 {
			tiles += int64(loraTiles(terms[i].rows, terms[i].rank))
		}
	}
	if r := &t.room; t.slot > r.slots || int32(len(terms)) > r.terms || tiles > r.tiles {
		// 64 slots and terms to begin with: most batches need no more.
		if err := t.grow(room{slots: max(t.slot, 64), terms: max(int32(len(terms)), 64), tiles: tiles}); err != nil {
			return 0, err
		}
	}
	t.most = max(t.most, t.slot)
	mem := t.room.slotMemory[int64(slot)*t.room.slotStride:]
	count := (*int32)(unsafe.Pointer(&mem[0]))
	old := unsafe.Slice((*loraTerm)(unsafe.Pointer(&mem[slotHeader])), len(terms))
	changed := *count != int32(len(terms))
	*count = int32(len(terms))
	for i, term := range terms {
		if old[i] != term {
			old[i], changed = term, true
		}
	}
	if changed {
		t.touch(slot, slotHeader+int32(len(terms))*termBytes)
	}
	return slot + 1, nil
}

// touch notes that the first bytes of a slot must be uploaded.
func (t *tables) touch(slot, bytes int32) {
	if t.first == t.last {
		t.first, t.last = slot, slot+1
	}
	t.first, t.last = min(t.first, slot), max(t.last, slot+1)
	t.slotBytes = max(t.slotBytes, bytes)
}

func (t *tables) submission() *submission {
	return &submission{layout: t.layout, used: t.used, firstSlot: t.first, lastSlot: t.last, slotBytes: t.slotBytes, words: t.words}
}

// submitted notes that the device gets everything.
func (t *tables) submitted() { t.first, t.last, t.slotBytes, t.busy = 0, 0, 0, true }

// ready waits until the tables may be written.
func (t *tables) ready() error {
	if !t.busy {
		return nil
	}
	t.busy = false
	return t.d.ready()
}
