//go:build gpu

package cuda

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chorale/worker/collective"
	"chorale/worker/collective/inprocess"
	"chorale/worker/collective/processes"
	"chorale/worker/sample"
	"chorale/worker/tensor"
)

func TestMain(m *testing.M) {
	processes.Main(m, map[string]processes.Play{"steps": playSteps, "fault": playFault})
}

// way is how the ranks of a test sum.
type way struct {
	Devices []int // by rank
	Sums    Sums
	Peers   Peers
	Mode    string // of a fault
}

// open makes a rank's backend.
func (w way) open(g collective.Group) (*Backend, error) {
	o := options()
	o.Device, o.Sums, o.Peers, o.NCCL = w.Devices[g.Rank()], w.Sums, w.Peers, os.Getenv("CHORALE_NCCL")
	o.SumAlone = g.Size() == 1
	b, err := New(o)
	if err != nil {
		return nil, err
	}
	return b, b.Join(g)
}

// report is what a rank found.
type report struct {
	Sums     string
	Peers    uint64 // sizes of messages through their memory
	Times    []PeerTime
	Stats    Statistics
	Tokens   uint64 // digest of all
	Near     int    // tokens that are not the host's
	Drawn    int
	Counts   collective.Counts // of the group on the host, in steps
	Steps    int
	Took     time.Duration // until a fault was noticed
	Closed   time.Duration
	Fault    string
	Blamed   int
	PerSteps time.Duration // of one
}

const (
	rigVocab  = 1000
	rigHidden = 64
	rigRows   = 24
)

// rig is a model of an embedding and a head, split among the ranks.
type rig struct {
	b                 *Backend
	s                 tensor.Stream
	n                 int // tokens of a rank
	table, head       tensor.Matrix
	norm              tensor.Vector
	x, h, part, whole tensor.Buffer
	embedding, w      []float32 // [vocab, hidden]
}

// share gives a rank's rows of a matrix; padding is large, to be noticed.
func (r *rig) share(v []float32) tensor.Rows {
	first := r.b.Group().Rank() * r.n
	return func(dst []float32, row, n int) error {
		for i := range n {
			line := dst[i*rigHidden : (i+1)*rigHidden]
			if id := first + row + i; id < rigVocab {
				copy(line, v[id*rigHidden:])
			} else {
				for j := range line {
					line[j] = 50
				}
			}
		}
		return nil
	}
}

func newRig(b *Backend) (*rig, error) {
	r := &rig{b: b, n: rigVocab}
	if size := b.Group().Size(); size > 1 {
		r.n = roundUp((rigVocab+size-1)/size, 32)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	r.embedding, r.w = make([]float32, rigVocab*rigHidden), make([]float32, rigVocab*rigHidden)
	for i := range r.w {
		r.embedding[i], r.w[i] = float32(rng.IntN(129)-64)/32, float32(rng.IntN(129)-64)/128 // exact in bfloat16
	}
	ones := make([]float32, rigHidden)
	for i := range ones {
		ones[i] = 1
	}
	var errs [8]error
	r.table, errs[0] = b.NewMatrix(r.n, rigHidden, r.share(r.embedding))
	r.head, errs[1] = b.NewMatrix(r.n, rigHidden, r.share(r.w))
	r.norm, errs[2] = b.NewVector(ones)
	r.x, errs[3] = b.NewBuffer(tensor.Wide, rigRows, rigHidden)
	r.h, errs[4] = b.NewBuffer(tensor.Act, rigRows, rigHidden)
	r.part, errs[5] = b.NewBuffer(tensor.Wide, rigRows, r.n)
	r.whole, errs[6] = b.NewBuffer(tensor.Wide, rigRows, r.n*b.Group().Size())
	r.s, errs[7] = b.NewStream(rigRows, nil)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	r.s.SplitVocab(rigVocab)
	return r, nil
}

func (r *rig) free() {
	r.table.Free()
	r.head.Free()
	r.norm.Free()
	for _, b := range []tensor.Buffer{r.x, r.h, r.part, r.whole} {
		b.Free()
	}
}

// begin computes the logits of a decode step.
func (r *rig) begin(ids []int32) {
	batch := &tensor.Batch{IDs: ids, Pos: make([]int32, len(ids))}
	for i := range ids {
		batch.Seqs = append(batch.Seqs, tensor.Seq{QStart: i, QLen: 1, CtxLen: 1})
	}
	r.s.Begin(batch)
	r.s.Embed(r.x, r.table, nil)
	r.s.AllReduce(r.x)
	r.s.RMSNorm(r.h, r.x, r.norm, 1e-5)
	r.s.Linear(r.part, r.h, r.head, nil, nil)
}

// logits are a step's, whole, checked against float64.
func (r *rig) logits(ids []int32) ([]float32, error) {
	r.begin(ids)
	r.s.AllGather(r.whole, r.part)
	stats := make([]tensor.LogitStat, len(ids))
	r.s.LogitStats(stats, r.part)
	x := slices.Clone(r.s.Host(r.x))
	all := r.s.Host(r.whole)
	if err := r.s.Finish(); err != nil {
		return nil, err
	}
	out := make([]float32, 0, len(ids)*rigVocab)
	for i, id := range ids {
		if !slices.Equal(x[i*rigHidden:(i+1)*rigHidden], r.embedding[id*rigHidden:(id+1)*rigHidden]) {
			return nil, fmt.Errorf("row %d, token %d: its embedding is not the sum over ranks", i, id)
		}
		row := all[i*r.n*r.b.Group().Size():][:rigVocab]
		if err := r.check(row, int(id)); err != nil {
			return nil, err
		}
		if best := sample.ArgMax(row); stats[i].ArgMax != best || stats[i].Max != row[best] {
			return nil, fmt.Errorf("row %d: largest %+v, want %d", i, stats[i], best)
		}
		out = append(out, row...)
	}
	return out, nil
}

func (r *rig) check(row []float32, id int) error {
	x := r.embedding[id*rigHidden : (id+1)*rigHidden]
	ss := 0.0
	for _, v := range x {
		ss += float64(v) * float64(v)
	}
	inv := 1 / math.Sqrt(ss/rigHidden+1e-5)
	for t, got := range row {
		want, size := 0.0, 0.0
		for j, v := range x {
			p := float64(v) * inv * float64(r.w[t*rigHidden+j])
			want, size = want+p, size+math.Abs(p)
		}
		if d := math.Abs(float64(got) - want); d > size/256+1e-6 {
			return fmt.Errorf("token %d: logit %v, want %v", t, got, want)
		}
	}
	return nil
}

// askedRow makes random parameters.
func askedRow(rng *rand.Rand) tensor.SampleRow {
	one := func(v ...float64) float64 { return v[rng.IntN(len(v))] }
	r := tensor.SampleRow{
		Temperature: one(0, 0.3, 1, 1, 1.3), TopP: one(1, 1, 0.9, 0.3), TopK: int(one(0, 0, 2, 40)), MinP: one(0, 0, 0.1),
		U: rng.Float64(), Repetition: float32(one(1, 1.3)), Frequency: float32(one(0, 0.4)), Top: int(one(0, 0, 5, 20)),
	}
	for range rng.IntN(4) {
		id := int32(rng.IntN(rigVocab))
		if !slices.ContainsFunc(r.Adjust, func(a tensor.Adjust) bool { return a.ID == id }) {
			r.Adjust = append(r.Adjust, tensor.Adjust{ID: id, Bias: float32(one(0, 3)), Count: 1, Seen: true})
		}
		r.IDs = append(r.IDs, int32(rng.IntN(rigVocab)))
	}
	return r
}

// compare counts tokens that are not the host's, and refuses other differences.
func compare(rep *report, logits []float32, rows []tensor.SampleRow, got []tensor.Sampled) error {
	for i := range rows {
		row := logits[i*rigVocab : (i+1)*rigVocab]
		var s sample.Sampler
		want := s.Sample(slices.Clone(row), got[i].Stat, &rows[i], -1)
		if !rows[i].Greedy() {
			rep.Drawn++
		}
		if got[i].Token != want.Token {
			if rows[i].Greedy() {
				return fmt.Errorf("row %d: token %d, want %d of %+v", i, got[i].Token, want.Token, rows[i])
			}
			rep.Near++
			continue
		}
		if math.Abs(got[i].Logprob-want.Logprob) > 1e-5 || len(got[i].Top) != len(want.Top) || len(got[i].Requested) != len(want.Requested) {
			return fmt.Errorf("row %d: %+v, want %+v", i, got[i], want)
		}
		for j := range want.Top {
			if got[i].Top[j].ID != want.Top[j].ID || math.Abs(got[i].Top[j].Logprob-want.Top[j].Logprob) > 1e-5 {
				return fmt.Errorf("row %d: most likely %+v, want %+v", i, got[i].Top[j], want.Top[j])
			}
		}
		for j := range want.Requested {
			if math.Abs(got[i].Requested[j].Logprob-want.Requested[j].Logprob) > 1e-5 {
				return fmt.Errorf("row %d: requested %+v, want %+v", i, got[i].Requested[j], want.Requested[j])
			}
		}
	}
	return nil
}

// steps runs decode steps that are recorded and replayed, and checks each against
// the logits that all see.
func (r *rig) steps(rep *report, count int) error {
	rng := rand.New(rand.NewPCG(3, 4))
	ids := make([]int32, rigRows)
	for i := range ids {
		ids[i] = int32(rng.IntN(rigVocab))
	}
	logits, err := r.logits(ids)
	if err != nil {
		return err
	}
	digest := fnv.New64a()
	before := r.b.Group().Counts()
	start := time.Now()
	for range count {
		rows, got := make([]tensor.SampleRow, rigRows), make([]tensor.Sampled, rigRows)
		for i := range rows {
			rows[i] = askedRow(rng)
		}
		r.begin(ids)
		r.s.Sample(got, r.part, rows)
		if err := r.s.Finish(); err != nil {
			return err
		}
		if err := compare(rep, logits, rows, got); err != nil {
			return err
		}
		for i := range got {
			fmt.Fprint(digest, got[i].Token, " ")
		}
	}
	rep.PerSteps = time.Since(start) / time.Duration(count)
	after := r.b.Group().Counts()
	rep.Counts = collective.Counts{AllReduce: after.AllReduce - before.AllReduce, AllGather: after.AllGather - before.AllGather}
	rep.Steps, rep.Tokens = count, digest.Sum64()
	return r.ahead(ids, rng)
}

// ahead launches a step on tokens that only the device knows.
func (r *rig) ahead(ids []int32, rng *rand.Rand) error {
	drawn := func() []tensor.SampleRow {
		rows := make([]tensor.SampleRow, rigRows)
		for i := range rows {
			rows[i] = tensor.SampleRow{Temperature: 1, TopP: 1, U: rng.Float64()}
		}
		return rows
	}
	first, second, again := make([]tensor.Sampled, rigRows), make([]tensor.Sampled, rigRows), make([]tensor.Sampled, rigRows)
	next, rows := make([]int32, rigRows), drawn()
	for i := range next {
		next[i] = int32(-1 - i)
	}
	r.begin(ids)
	r.s.Sample(first, r.part, drawn())
	r.s.Launch()
	r.begin(next)
	r.s.Sample(second, r.part, rows)
	if err := r.s.Finish(); err != nil {
		return err
	}
	for i := range next {
		next[i] = first[i].Token
	}
	r.begin(next)
	r.s.Sample(again, r.part, rows)
	if err := r.s.Finish(); err != nil {
		return err
	}
	for i := range again {
		if again[i].Token != second[i].Token {
			return fmt.Errorf("row %d: token %d after one that the device knew, %d after the same told", i, second[i].Token, again[i].Token)
		}
	}
	return nil
}

func playSteps(m collective.Member, args []byte) (any, error) {
	var w way
	if err := json.Unmarshal(args, &w); err != nil {
		return nil, err
	}
	return runSteps(w, m)
}

func runSteps(w way, g collective.Group) (*report, error) {
	b, err := w.open(g)
	if err != nil {
		return nil, err
	}
	r, err := newRig(b)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	rep := &report{Sums: b.Sums()}
	rep.Times, rep.Peers = b.PeerTimes()
	err = r.steps(rep, 40)
	if err == nil {
		rep.Stats, err = StreamStatistics(r.s)
	}
	r.free()
	return rep, errors.Join(err, b.Close())
}

// playFault steps until the last rank is gone.
func playFault(m collective.Member, args []byte) (any, error) {
	var w way
	if err := json.Unmarshal(args, &w); err != nil {
		return nil, err
	}
	b, err := w.open(m)
	if err != nil {
		return nil, err
	}
	r, err := newRig(b)
	if err != nil {
		return nil, err
	}
	rep := &report{Sums: b.Sums()}
	ids := make([]int32, rigRows)
	last := time.Now()
	for step := 0; ; step++ {
		out := make([]tensor.Sampled, rigRows)
		r.begin(ids)
		r.s.Sample(out, r.part, make([]tensor.SampleRow, rigRows))
		if err = r.s.Finish(); err != nil {
			break
		}
		last, rep.Steps = time.Now(), step
		if step == 30 && m.Rank() == m.Size()-1 {
			leave(w.Mode)
		}
	}
	rep.Took, rep.Fault, rep.Blamed = time.Since(last), err.Error(), -1
	var a *collective.AbortError
	if errors.As(err, &a) {
		rep.Blamed = a.Rank
	}
	closing := time.Now()
	r.free()
	err = b.Close()
	rep.Closed = time.Since(closing)
	if err != nil {
		rep.Fault += "; closing: " + err.Error()
	}
	text, _ := json.Marshal(rep)
	return nil, fmt.Errorf("%s", text) // the group is over: by standard error
}

// leave ends or stops this process; one that stopped is killed later.
func leave(mode string) {
	if mode == "exit" {
		os.Exit(3)
	}
	pid := os.Getpid()
	if err := exec.Command("sh", "-c", fmt.Sprintf("(sleep 6; kill -9 %d) >/dev/null 2>&1 &", pid)).Run(); err == nil {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
}

// ranksRun runs the steps on processes and compares them.
func ranksRun(t *testing.T, w way, sums string) {
	t.Helper()
	var digest uint64
	for rank, res := range processes.Run(t, "steps", len(w.Devices), inprocess.Patient, w) {
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		var rep report
		if err := json.Unmarshal(res.Out, &rep); err != nil {
			t.Fatal(err)
		}
		t.Logf("rank %d: %+v", rank, rep)
		if rank == 0 {
			digest = rep.Tokens
		}
		if rep.Sums != sums || rep.Tokens != digest || rep.Stats.Replayed < 10 {
			t.Errorf("rank %d: sums by %q, digest %x of %x, %+v", rank, rep.Sums, rep.Tokens, digest, rep.Stats)
		}
		if rep.Near > 1+rep.Drawn/50 {
			t.Errorf("rank %d: %d of %d draws are not those of the host", rank, rep.Near, rep.Drawn)
		}
		if w.Peers == PeersOff && sums == "host" && rep.Counts.AllReduce != int64(rep.Steps) {
			t.Errorf("rank %d: %+v in %d steps", rank, rep.Counts, rep.Steps)
		}
	}
}

// faultRun has the last rank leave and looks when the first notices.
func faultRun(t *testing.T, w way) {
	t.Helper()
	res := processes.Run(t, "fault", len(w.Devices), collective.Options{Timeout: 20 * time.Second}, w)
	var rep report
	at := max(strings.Index(res[0].Log, "{"), 0)
	if err := json.NewDecoder(strings.NewReader(res[0].Log[at:])).Decode(&rep); err != nil {
		t.Fatalf("%v: %s", err, res[0].Log)
	}
	t.Logf("%s: noticed after %v, closed in %v: %s", w.Mode, rep.Took, rep.Closed, rep.Fault)
	if rep.Took > 4*time.Second || rep.Closed > 10*time.Second || rep.Blamed != len(w.Devices)-1 || rep.Steps < 29 {
		t.Errorf("%s: %+v", w.Mode, rep)
	}
}

// TestGPURanksShareCard: two ranks on one GPU, whose sums go through the host, or
// through each other's memory.
func TestGPURanksShareCard(t *testing.T) {
	ranksRun(t, way{Devices: []int{0, 0}, Peers: PeersOff}, "host")
	ranksRun(t, way{Devices: []int{0, 0}, Peers: PeersAlways}, "host")
	for _, mode := range []string{"exit", "stop"} {
		faultRun(t, way{Devices: []int{0, 0}, Peers: PeersOff, Mode: mode})
		faultRun(t, way{Devices: []int{0, 0}, Peers: PeersAlways, Mode: mode})
	}
}

// TestGPUNCCLAlone: a communicator of one rank, inside recorded graphs.
func TestGPUNCCLAlone(t *testing.T) {
	for _, sums := range []Sums{SumsNCCL, SumsHost} {
		rep, err := runSteps(way{Devices: []int{0}, Sums: sums}, new(collective.Solo))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", rep)
		if want := map[Sums]string{SumsNCCL: "nccl", SumsHost: "host"}[sums]; rep.Sums != want || rep.Stats.Replayed < 10 {
			t.Errorf("sums by %q, %+v", rep.Sums, rep.Stats)
		}
	}
}
