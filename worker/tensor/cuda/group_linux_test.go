package cuda

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"chorale/worker/collective"
	"chorale/worker/collective/shm"
	"chorale/worker/tensor"
)

// fakePeers are faster than NCCL for some sizes.
type fakePeers struct {
	handles         []byte
	faster, wrong   uint64
	aborted, closed atomic.Bool
}

func (p *fakePeers) connect(handles []byte) error { p.handles = bytes.Clone(handles); return nil }
func (p *fakePeers) abort()                       { p.aborted.Store(true) }
func (p *fakePeers) close()                       { p.closed.Store(true) }

func (p *fakePeers) measure(_ driverComm, _ bool, sizes []int64) (peers, nccl []float32, err error) {
	for _, n := range sizes {
		t := float32(9)
		if uint64(n)&p.faster != 0 {
			t = 5
		}
		if uint64(n)&p.wrong != 0 {
			t = -1
		}
		peers, nccl = append(peers, t), append(nccl, 7)
	}
	return peers, nccl, nil
}

// pair makes a group of two in this process.
func pair(t *testing.T) []collective.Member {
	t.Helper()
	f, err := shm.Create(2, collective.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := make([]collective.Member, 2)
	for r := range out {
		m, err := shm.Open(f, r, collective.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		out[r] = m
	}
	return out
}

// team makes two joined backends over fakes, which prepare changes.
func team(t *testing.T, prepare func(rank int, f *fake, b *Backend)) ([]*fake, []*Backend, []collective.Member) {
	t.Helper()
	fs, bs, ms := make([]*fake, 2), make([]*Backend, 2), pair(t)
	for r := range bs {
		fs[r] = newFake()
		fs[r].id[0], fs[r].comm = byte(r), &fakeComm{}
		bs[r] = newBackend(fs[r])
		prepare(r, fs[r], bs[r])
		if err := bs[r].Join(ms[r]); err != nil {
			t.Fatal(err)
		}
	}
	return fs, bs, ms
}

// streams makes a stream on each backend, together.
func streams(bs []*Backend) ([]tensor.Stream, []error) {
	out, errs := make([]tensor.Stream, len(bs)), make([]error, len(bs))
	var wg sync.WaitGroup
	for r := range bs {
		wg.Go(func() { out[r], errs[r] = bs[r].NewStream(64, nil) })
	}
	wg.Wait()
	return out, errs
}

// TestJoin: how the ranks sum is the same on all of them, and said when it is not
// what was asked for.
func TestJoin(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(rank int, f *fake, b *Backend)
		want    string
		says    string
	}{
		{"all have NCCL", func(int, *fake, *Backend) {}, "nccl", ""},
		{"a rank has none", func(r int, f *fake, _ *Backend) {
			if r == 1 {
				f.noNCCL = &reason{"libnccl.so.2 is not found", tensor.ErrUnsupported}
			}
		}, "host", ""},
		{"ranks share a GPU", func(_ int, f *fake, _ *Backend) { f.id[0] = 3 }, "host", ""},
		{"a rank wants the host", func(r int, _ *fake, b *Backend) {
			if r == 0 {
				b.sums.sums = SumsHost
			}
		}, "host", ""},
		{"NCCL on one GPU", func(_ int, f *fake, b *Backend) { f.id[0], b.sums.sums = 3, SumsNCCL }, "", "ranks 0 and 1 share a GPU"},
		{"ranks that do not come", func(_ int, f *fake, _ *Backend) { f.comm = nil }, "", "not all ranks came"},
	} {
		fs, bs, ms := team(t, tt.prepare)
		_, errs := streams(bs)
		for r, b := range bs {
			if got := b.Sums(); got != tt.want {
				t.Errorf("%s: rank %d sums by %q, want %q", tt.name, r, got, tt.want)
			}
			if err := errs[r]; (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: rank %d: %v", tt.name, r, err)
			}
			if err := b.Close(); err != nil {
				t.Errorf("%s: rank %d: %v", tt.name, r, err)
			}
			if tt.want == "nccl" && (!fs[r].comm.closed.Load() || fs[r].comm.rank != r) {
				t.Errorf("%s: rank %d: communicator of rank %d, closed %v", tt.name, r, fs[r].comm.rank, fs[r].comm.closed.Load())
			}
			ms[r].Close()
		}
	}
	b := newBackend(newFake())
	for i, g := range []collective.Group{nil, new(collective.Solo)} {
		if err := b.Join(g); (err == nil) != (i == 1) {
			t.Errorf("joining %v: %v", g, err)
		}
	}
	if _, err := b.NewStream(8, nil); err != nil || b.Group().Size() != 1 || b.Sums() != "" {
		t.Errorf("alone: %v, sums by %q", err, b.Sums())
	}
	if err := b.Join(new(collective.Solo)); !errors.Is(err, tensor.ErrUnsupported) {
		t.Errorf("joining after a stream: %v", err)
	}
}

// TestPeers: small messages go through peers' memory where all ranks can and, as
// rank 0 measured, it is faster.
func TestPeers(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(rank int, f *fake, b *Backend)
		want    uint64
		says    string
	}{
		{"faster for some", func(r int, f *fake, _ *Backend) { f.peers = &fakePeers{faster: uint64(9-r) << 12} }, 9<<12 | (measured - 1), ""},
		{"faster for long ones", func(r int, f *fake, _ *Backend) { f.peers = &fakePeers{faster: peerMost} }, peerMost, ""},
		{"wrong on a rank", func(r int, f *fake, _ *Backend) {
			f.peers = &fakePeers{faster: peerMost | peerMost/2, wrong: uint64(r) * peerMost}
		}, peerMost / 2, ""},
		{"never faster", func(_ int, f *fake, _ *Backend) { f.peers = &fakePeers{} }, 0, ""},
		{"a rank sees nothing", func(r int, f *fake, _ *Backend) {
			if r == 0 {
				f.peers = &fakePeers{faster: 1 << 20}
			}
		}, 0, ""},
		{"always", func(_ int, f *fake, b *Backend) {
			f.peers, b.sums.peers, b.sums.sums = &fakePeers{}, PeersAlways, SumsHost
		}, 2*peerMost - 1, ""},
		{"always, in vain", func(r int, f *fake, b *Backend) {
			if b.sums.peers = PeersAlways; r == 0 {
				f.peers = &fakePeers{}
			}
		}, 0, "not all ranks see"},
		{"off", func(_ int, f *fake, b *Backend) { f.peers, b.sums.peers = &fakePeers{faster: 1 << 20}, PeersOff }, 0, ""},
	} {
		fs, bs, _ := team(t, tt.prepare)
		_, errs := streams(bs)
		for r, b := range bs {
			if err := errs[r]; (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: rank %d: %v", tt.name, r, err)
			}
			if _, sizes := b.PeerTimes(); sizes != tt.want {
				t.Errorf("%s: rank %d: sizes %b, want %b", tt.name, r, sizes, tt.want)
			}
			if err := b.Close(); err != nil {
				t.Errorf("%s: rank %d: %v", tt.name, r, err)
			}
			p, ok := fs[r].peers.(*fakePeers)
			if ok && tt.name != "off" && !p.closed.Load() {
				t.Errorf("%s: rank %d: the peers are not closed", tt.name, r)
			}
			if tt.want > 0 && (p.handles[0] != 1 || p.handles[handleBytes] != 2) {
				t.Errorf("%s: rank %d: handles %v", tt.name, r, p.handles)
			}
		}
	}
}

// TestGroupFault: whoever waits is freed, and gets the group's error.
func TestGroupFault(t *testing.T) {
	for name, fault := range map[string]func(f *fake, ms []collective.Member){
		"a rank ends the group": func(_ *fake, ms []collective.Member) { ms[1].Abort("the disk is on fire") },
		"NCCL fails": func(f *fake, _ []collective.Member) {
			err := error(&reason{"NCCL: remote", collective.ErrAborted})
			f.comm.failing.Store(&err)
		},
	} {
		fs, bs, ms := team(t, func(int, *fake, *Backend) {})
		ss, _ := streams(bs)
		fault(fs[0], ms)
		for start := time.Now(); !fs[0].comm.aborted.Load(); time.Sleep(time.Millisecond) {
			if time.Since(start) > 10*time.Second {
				t.Fatalf("%s: nothing is aborted", name)
			}
		}
		x := must(bs[0].NewBuffer(tensor.Wide, 64, 32))
		zeros := func(dst []float32, _, _ int) error { clear(dst); return nil }
		ss[0].Begin(&tensor.Batch{IDs: []int32{1}, Pos: []int32{0}})
		ss[0].Embed(x, must(bs[0].NewMatrix(100, 32, zeros)), nil)
		ss[0].AllReduce(x)
		var a *collective.AbortError
		if err := ss[0].Finish(); !errors.As(err, &a) {
			t.Errorf("%s: %v", name, err)
		}
		for _, b := range bs {
			if err := b.Close(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestHostOperations: the device's thread sums and gathers, until the first fault.
func TestHostOperations(t *testing.T) {
	_, bs, ms := team(t, func(_ int, _ *fake, b *Backend) { b.sums.sums = SumsHost })
	sum := func(r int, x []float32) { bs[r].ranks.operate(hostReduce, unsafe.Pointer(&x[0]), nil, len(x)) }
	var wg sync.WaitGroup
	for r := range bs {
		wg.Go(func() {
			x := []float32{float32(r), 2, 3}
			sum(r, x)
			all := make([]byte, 4)
			bs[r].ranks.operate(hostGather, unsafe.Pointer(&all[0]), unsafe.Pointer(&[]byte{byte(r), 9}[0]), 2)
			if x[0] != 1 || x[1] != 4 || !bytes.Equal(all, []byte{0, 9, 1, 9}) {
				t.Errorf("rank %d: %v, %v", r, x, all)
			}
		})
	}
	wg.Wait()
	ms[1].Abort("enough")
	x := []float32{1}
	for range 2 {
		sum(0, x)
	}
	if err := bs[0].ranks.err(); !errors.Is(err, collective.ErrAborted) || x[0] != 1 {
		t.Errorf("after the end: %v, %v", err, x)
	}
	if c := ms[0].Counts(); c.AllReduce != 1 || c.AllGather != 1 {
		t.Errorf("counts %+v", c)
	}
}

// TestSplitOps: what a rank of two records, and that alone nothing is added.
func TestSplitOps(t *testing.T) {
	zeros := func(dst []float32, _, _ int) error { clear(dst); return nil }
	fs, bs, _ := team(t, func(_ int, _ *fake, b *Backend) { b.sums.sums = SumsHost })
	ss, errs := streams(bs)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	b, s, f := bs[1], ss[1], fs[1]
	x, part, whole := must(b.NewBuffer(tensor.Wide, 64, 32)), must(b.NewBuffer(tensor.Wide, 64, 64)), must(b.NewBuffer(tensor.Wide, 64, 128))
	table := must(b.NewMatrix(64, 32, zeros))
	s.SplitVocab(100)
	s.Begin(&tensor.Batch{IDs: []int32{99, 3, 5}, Pos: []int32{0, 0, 0}})
	s.Embed(x, table, nil)
	s.AllReduce(x)
	part.(*buffer).rows = 3
	s.AllGather(whole, part)
	s.Sample(make([]tensor.Sampled, 3), part, []tensor.SampleRow{
		{Temperature: 1, TopP: 0.5, Adjust: []tensor.Adjust{{ID: 3}, {ID: 70}, {ID: 101}}, Ban: []int32{63, 64}}, {}, {Temperature: 1, TopK: 3, TopP: 1, Top: 70},
	})
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	sub := f.submitted[0]
	embed, sum, gather, sample := sub.ops[0], sub.ops[1], sub.ops[2], sub.ops[3]
	if embed.in != 64 || embed.out != 64 {
		t.Errorf("embed has tokens %d+%d", embed.in, embed.out)
	}
	if sum.kind != opAllReduce || sum.rows != 4 || sum.dst.data != embed.dst.data {
		t.Errorf("sum %+v", sum)
	}
	if gather.kind != opAllGather || gather.dst.cols != 128 || gather.x.cols != 64 {
		t.Errorf("gather %+v", gather)
	}
	if sample.in != 64 || sample.out != 100 || sample.heads != 1 || sample.window != 2 || !sub.gather {
		t.Errorf("sample %+v, all results %v", sample, sub.gather)
	}
	tb := &s.(*stream).tables
	rows := at[sampleRow](tb, at[header](tb, tb.layout.header, 1)[0].samples[0].at, 3)
	if rows[0].gathered != 1 || rows[1].gathered != 0 || rows[2].gathered != 2 || rows[2].top != 70 {
		t.Errorf("rows %+v", rows)
	}
	if got := at[adjustment](tb, rows[0].adjust, 1)[0]; rows[0].adjusts != 1 || got.id != 6 || rows[0].banCount != 1 {
		t.Errorf("adjustments %+v %+v", rows[0], got)
	}
	if want := 3*sampledWords + 2*64; sub.words != want {
		t.Errorf("%d words, want %d", sub.words, want)
	}
	alone := newBench(t)
	alone.s.Begin(&tensor.Batch{IDs: []int32{1}, Pos: []int32{0}})
	alone.s.Embed(alone.x, alone.table, nil)
	alone.s.SplitVocab(100)
	alone.s.AllReduce(alone.x)
	if err := alone.s.Finish(); err != nil || len(alone.f.submitted[0].ops) != 1 || alone.f.submitted[0].gather {
		t.Errorf("alone: %v, %d operations", err, len(alone.f.submitted[0].ops))
	}
}

// TestMerge: a row's results from two ranks.
func TestMerge(t *testing.T) {
	nan := float32(math.NaN())
	row := func(s sampled, top []tensor.TokenLogprob, ids ...float32) []uint32 {
		words := make([]uint32, sampledWords)
		*(*sampled)(unsafe.Pointer(&words[0])) = s
		for i := range 3 {
			id, logit := ^uint32(0), float32(0)
			if i < len(top) {
				id, logit = uint32(top[i].ID), float32(top[i].Logprob)
			}
			words = append(words, id, math.Float32bits(logit))
		}
		for _, x := range ids {
			words = append(words, math.Float32bits(x))
		}
		return words
	}
	merge := func(a, b []uint32, ids ...int32) tensor.Sampled {
		out := make([]tensor.Sampled, 1)
		to := sink{out: out, width: 10, asked: []answer{{top: 3, most: 4, ids: ids}}}
		to.merge(0, &brought{append(a, b...), len(a), 0, 2})
		return out[0]
	}
	lse := float32(math.Log(2))
	got := merge(
		row(sampled{token: 12, argMax: 4, max: 2, logSumExp: 0}, []tensor.TokenLogprob{{ID: 4, Logprob: 2}, {ID: 5, Logprob: 1}, {ID: 0, Logprob: float64(nan)}}, 0.25, 0),
		row(sampled{token: 12, argMax: 11, max: 2, logSumExp: 0, fromLogit: 1.5}, []tensor.TokenLogprob{{ID: 11, Logprob: 2}, {ID: 12, Logprob: 1.5}}, 0, 1.5),
		3, 12)
	if got.Token != 12 || got.Stat != (tensor.LogitStat{ArgMax: 4, Max: 2, LogSumExp: lse}) || got.Logprob != 1.5-float64(lse) {
		t.Errorf("%+v", got)
	}
	var ids []int32
	for _, l := range got.Top {
		ids = append(ids, l.ID)
	}
	if len(ids) != 4 || ids[0] != 4 || ids[1] != 11 || ids[2] != 12 || ids[3] != 5 {
		t.Errorf("most likely %+v", got.Top)
	}
	if r := got.Requested; len(r) != 2 || r[0].Logprob != 0.25-float64(lse) || r[1].Logprob != 1.5-float64(lse) {
		t.Errorf("requested %+v", r)
	}
	none := sampled{argMax: -1, max: nan, logSumExp: nan}
	if got := merge(row(none, nil), row(none, nil)); got.Token != 0 || got.Stat.ArgMax != 0 || got.Stat.Max == got.Stat.Max || got.Stat.LogSumExp == got.Stat.LogSumExp {
		t.Errorf("without numbers: %+v", got)
	}
	low := sampled{argMax: 3, max: float32(math.Inf(-1)), logSumExp: float32(math.Inf(-1))}
	if got := merge(row(low, nil), row(none, nil)); got.Stat.ArgMax != 3 || got.Stat.LogSumExp == got.Stat.LogSumExp {
		t.Errorf("half without numbers: %+v", got)
	}
}
