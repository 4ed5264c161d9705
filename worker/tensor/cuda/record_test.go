package cuda

import (
	"bytes"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// fakeComm is a communicator that fails when it is told to.
type fakeComm struct {
	rank            int
	failing         atomic.Pointer[error]
	aborted, closed atomic.Bool
}

func (c *fakeComm) check() error {
	if e := c.failing.Load(); e != nil {
		return *e
	}
	return nil
}
func (c *fakeComm) abort() error { c.aborted.Store(true); return nil }
func (c *fakeComm) close() error { c.closed.Store(true); return nil }

// fake is a driver without a device: it hands out addresses and keeps what is
// submitted.
type fake struct {
	copies
	next  addr
	hosts [][]byte
	// From the streams.
	submitted []submission
	found     sampled // what every sampled row finds
	broken    error
	// Of groups.
	id     [16]byte
	noNCCL error
	comm   *fakeComm
	peers  driverPeers // nil: none to be had
}

func (f *fake) uuid() ([16]byte, error)         { return f.id, nil }
func (f *fake) ncclVersion(string) (int, error) { return 22809, f.noNCCL }
func (f *fake) ncclID(string) ([]byte, error)   { return bytes.Repeat([]byte{7}, idBytes), f.noNCCL }
func (s *fakeStream) join(r *ranks) error       { s.ranks = r; return nil }
func (s *fakeStream) size() int {
	if s.ranks == nil {
		return 1
	}
	return s.ranks.g.Size()
}

func (f *fake) openPeers(rank, _ int) (driverPeers, []byte, error) {
	if f.peers == nil {
		return nil, nil, &reason{"memory cannot be shared", tensor.ErrUnsupported}
	}
	return f.peers, bytes.Repeat([]byte{byte(rank + 1)}, handleBytes), nil
}

func (f *fake) openComm(_ string, id []byte, rank, _ int, _ time.Duration) (driverComm, error) {
	if f.comm == nil || id[idBytes-1] != 7 {
		return nil, &reason{"joining: not all ranks came", collective.ErrAborted}
	}
	f.comm.rank = rank
	return f.comm, nil
}

func newFake() *fake {
	return &fake{next: 1 << 20}
}

func (f *fake) name() string                  { return "fake" }
func (f *fake) memory() (int64, int64, error) { return 1, 2, nil }
func (f *fake) free(addr)                     {}
func (f *fake) hostFree(unsafe.Pointer)       {}
func (f *fake) close() error                  { return nil }

func (f *fake) alloc(bytes int64) (addr, error) {
	a := f.next
	f.next += addr(roundUp(int(bytes), 256))
	return a, nil
}

func (f *fake) hostAlloc(bytes int64) (unsafe.Pointer, error) {
	b := make([]byte, bytes)
	f.hosts = append(f.hosts, b)
	return unsafe.Pointer(&b[0]), nil
}

func (f *fake) openStream(int32, []tensor.RopeSpec) (driverStream, error) {
	return &fakeStream{f: f}, nil
}

type fakeStream struct {
	f    *fake
	room room
	// reading is what the device reads of a submission until ready; early tells
	// that it was written before.
	reading []byte
	early   bool
	ranks   *ranks
}

func (s *fakeStream) wait(int32) error                { return s.f.broken }
func (s *fakeStream) tables() []byte                  { return slices.Concat(s.room.tables, s.room.slotMemory) }
func (s *fakeStream) statistics() (Statistics, error) { return Statistics{}, nil }
func (s *fakeStream) close() error                    { return nil }

func (s *fakeStream) makeRoom(need *room) error {
	s.reading = nil // waits for the device
	r := &s.room
	if need.bytes > r.bytes {
		r.tables = append(make([]byte, 0, need.bytes), r.tables...)[:need.bytes]
		r.bytes = need.bytes
	}
	if need.words > r.words {
		r.words = need.words
		for i := range r.results {
			r.results[i] = make([]uint32, int(need.words)*s.size())
		}
	}
	if r.moved = need.slots > r.slots || need.terms > r.terms; r.moved {
		old, stride, n := r.slotMemory, r.slotStride, r.slots
		r.slots, r.terms = max(r.slots, need.slots), max(r.terms, need.terms)
		r.slotStride = int64(slotHeader + r.terms*termBytes)
		r.slotMemory = make([]byte, r.slotStride*int64(r.slots))
		for i := range int64(n) {
			copy(r.slotMemory[i*r.slotStride:], old[i*stride:(i+1)*stride])
		}
	}
	r.tiles = max(r.tiles, need.tiles)
	*need = *r
	return nil
}

func (s *fakeStream) ready() error {
	s.early = s.early || !bytes.Equal(s.reading, s.tables())
	s.reading = nil
	return s.f.broken
}

func (s *fakeStream) submit(sub *submission) error {
	s.early = s.early || s.reading != nil
	s.reading = s.tables()
	c := *sub
	c.ops = slices.Clone(sub.ops)
	s.f.submitted = append(s.f.submitted, c)
	for i := range sub.words / sampledWords { // enough for the first of a step
		*(*sampled)(unsafe.Pointer(&s.room.results[sub.result][i*sampledWords])) = s.f.found
	}
	return nil
}

// bytesOf are a submission's operations as the device compares them.
func bytesOf(s *submission) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s.ops))), len(s.ops)*int(unsafe.Sizeof(op{})))
}

// bench is a layer's worth of operands.
type bench struct {
	*testing.T
	f                     *fake
	b                     *Backend
	s                     tensor.Stream
	x, h, qkv, att, logit tensor.Buffer
	table, w, wide        tensor.Matrix // wide has as many columns as logit
	norm                  tensor.Vector
	kv                    tensor.KV
	pairs                 []tensor.LoRAPair
}

func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}

func newBench(t *testing.T) *bench {
	f := newFake()
	b := newBackend(f)
	zeros := func(dst []float32, _, _ int) error { clear(dst); return nil }
	freq := make([]float32, 8)
	m := &bench{
		T: t, f: f, b: b, s: must(b.NewStream(64, []tensor.RopeSpec{{InvFreq: freq, Scale: 1}})),
		x: must(b.NewBuffer(tensor.Wide, 64, 32)), h: must(b.NewBuffer(tensor.Act, 64, 32)), qkv: must(b.NewBuffer(tensor.Act, 64, 64)),
		att: must(b.NewBuffer(tensor.Act, 64, 32)), logit: must(b.NewBuffer(tensor.Wide, 64, 64)),
		table: must(b.NewMatrix(100, 32, zeros)), w: must(b.NewMatrix(64, 32, zeros)), wide: must(b.NewMatrix(8, 64, zeros)), norm: must(b.NewVector(make([]float32, 32))),
		kv: must(b.NewKV(tensor.KVLayout{Layers: 1, KVHeads: 1, HeadDim: 16, PageSize: 4, Pages: 200})),
	}
	for range 3 {
		m.pairs = append(m.pairs, must(b.NewLoRA(4, 32, 64, 2, zeros, zeros)))
	}
	return m
}

// decode runs a step of n sequences at a context length, with one adapter per
// entry of adapters over the rows, and returns what was submitted.
func (m *bench) decode(n, ctx int, adapters ...int) *submission {
	m.Helper()
	b := &tensor.Batch{}
	for i := range n {
		b.IDs, b.Pos = append(b.IDs, int32((i+ctx)%100)), append(b.Pos, int32(ctx-1))
		b.Seqs = append(b.Seqs, tensor.Seq{QStart: i, QLen: 1, CtxLen: ctx, Pages: make([]int32, (ctx+3)/4)})
	}
	var terms []tensor.LoRATerm
	for i, a := range adapters {
		terms = append(terms, tensor.LoRATerm{Start: i * n / len(adapters), End: (i + 1) * n / len(adapters), Pair: m.pairs[a]})
	}
	m.s.Begin(b)
	m.s.Embed(m.x, m.table, nil)
	m.s.RMSNorm(m.h, m.x, m.norm, 1e-5)
	m.s.Linear(m.qkv, m.h, m.w, nil, terms)
	m.s.RopeKV(m.qkv, m.kv, tensor.RopeKV{Heads: 2})
	m.s.Attention(m.att, m.qkv, m.kv, tensor.AttentionSpec{Heads: 2, Scale: 1})
	rows := make([]int32, n)
	for i := range rows {
		rows[i] = int32(n - 1 - i)
	}
	m.s.GatherRows(m.h, m.att, rows)
	m.s.Linear(m.logit, m.h, m.w, nil, terms)
	stats := make([]tensor.LogitStat, n)
	m.s.LogitStats(stats, m.logit)
	if len(m.f.submitted) != 0 {
		m.Fatal("operations were submitted before anybody asked")
	}
	if err := m.s.Finish(); err != nil {
		m.Fatal(err)
	}
	if len(m.f.submitted) != 1 {
		m.Fatalf("%d submissions for one step", len(m.f.submitted))
	}
	if stats[0].ArgMax != m.f.found.argMax {
		m.Errorf("LogitStats gave %+v", stats[0])
	}
	sub := m.f.submitted[0]
	m.f.submitted = nil
	return &sub
}

// TestSameSteps: decode steps of one bucket are the same to the device, byte
// by byte, whatever their number of rows, tokens, lengths and adapters; one
// with adapters differs from one without, and one of another bucket.
func TestSameSteps(t *testing.T) {
	m := newBench(t)
	m.f.found.argMax = 7
	base := m.decode(17, 40)
	if !base.graph || base.layout.rows != 24 || base.firstSlot != base.lastSlot {
		t.Errorf("a decode step of 17 rows: graph %v, %d rows, slots %d to %d", base.graph, base.layout.rows, base.firstSlot, base.lastSlot)
	}
	if other := m.decode(23, 99); !bytes.Equal(bytesOf(base), bytesOf(other)) || base.layout != other.layout {
		t.Error("17 rows and 23 rows differ")
	}
	if other := m.decode(9, 40); bytes.Equal(bytesOf(base), bytesOf(other)) {
		t.Error("9 rows and 17 rows are the same")
	}
	adapted := m.decode(17, 40, 0, 1)
	if bytes.Equal(bytesOf(base), bytesOf(adapted)) {
		t.Error("adapters make no difference")
	}
	for _, o := range []*submission{m.decode(20, 41, 2), m.decode(24, 41, 1, 0, 2)} {
		if !bytes.Equal(bytesOf(adapted), bytesOf(o)) {
			t.Error("other adapters make a difference")
		}
	}
}

// TestTermsUpload: LoRA terms go to the device when they change, and only then.
func TestTermsUpload(t *testing.T) {
	m := newBench(t)
	uploads := func(adapters ...int) int32 {
		s := m.decode(16, 12, adapters...)
		return s.lastSlot - s.firstSlot
	}
	for i, step := range []struct {
		adapters []int
		want     int32
	}{{[]int{0, 1}, 2}, {[]int{0, 1}, 0}, {[]int{0, 1}, 0}, {[]int{1, 0}, 2}, {nil, 0}, {[]int{1, 0}, 0}, {[]int{1}, 2}, {[]int{1, 1}, 2}} {
		if i == 0 { // the first upload covers what the growth moved, too
			if got := uploads(step.adapters...); got < step.want {
				t.Errorf("step %d uploads %d slots", i, got)
			}
			continue
		}
		if got := uploads(step.adapters...); got != step.want {
			t.Errorf("step %d uploads %d slots, want %d", i, got, step.want)
		}
	}
	mem := m.s.(*stream).tables.room.slotMemory[m.s.(*stream).tables.room.slotStride:]
	if n := *(*int32)(unsafe.Pointer(&mem[0])); n != 2 {
		t.Errorf("%d terms, want 2", n)
	}
	second := *(*loraTerm)(unsafe.Pointer(&mem[slotHeader+termBytes]))
	if second.row0 != 8 || second.rows != 8 || second.rank != 4 || second.out != 64 || second.s != 1 || second.scale != 2 {
		t.Errorf("second term %+v", second)
	}
}

// TestTables: what a step's tables hold.
func TestTables(t *testing.T) {
	m := newBench(t)
	m.s.Begin(&tensor.Batch{
		IDs: []int32{5, 6, 7}, Pos: []int32{8, 0, 1},
		Seqs: []tensor.Seq{{QLen: 1, CtxLen: 9, Pages: []int32{3, 1, 4}}, {QStart: 1, QLen: 2, CtxLen: 2, Pages: []int32{9}}},
	})
	tb := &m.s.(*stream).tables
	l := tb.layout
	for name, pair := range map[string][2][]int32{
		"ids": {at[int32](tb, l.ids, 4), {5, 6, 7, 0}}, "pos": {at[int32](tb, l.pos, 4), {8, 0, 1, 0}},
		"row_seq": {at[int32](tb, l.rowSeq, 4), {0, 1, 1, 0}}, "pages": {at[int32](tb, l.pages, 4), {3, 1, 4, 9}},
	} {
		if !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s: %v, want %v", name, pair[0], pair[1])
		}
	}
	if got := at[seq](tb, l.seqs, 2); got[0] != (seq{0, 1, 9, 0}) || got[1] != (seq{1, 2, 2, 3}) {
		t.Errorf("sequences %+v", got)
	}
	if m.s.(*stream).graph {
		t.Error("a step with a prompt may be recorded")
	}
	if err := m.s.Finish(); err != nil {
		t.Fatal(err)
	}
}

// TestDeviceError: an error of the device ends the step that meets it.
func TestDeviceError(t *testing.T) {
	m := newBench(t)
	m.f.broken = errors.New("fell off the bus")
	m.s.Begin(&tensor.Batch{IDs: []int32{1}, Pos: []int32{0}})
	m.s.Embed(m.x, m.table, nil)
	if m.s.Host(m.x) != nil {
		t.Error("Host gave rows of a broken device")
	}
	m.s.RMSNorm(m.h, m.x, m.norm, 1)
	if err := m.s.Finish(); !errors.Is(err, m.f.broken) {
		t.Errorf("Finish: %v", err)
	}
}
