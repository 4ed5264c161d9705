package cuda

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// Sums says how the ranks of a group sum and copy.
type Sums uint8

const (
	// SumsAuto takes NCCL when every rank has it and a GPU of its own, else the host.
	SumsAuto Sums = iota
	// SumsNCCL takes NCCL, or fails.
	SumsNCCL
	// SumsHost takes what the group itself does: data goes through host memory.
	SumsHost
)

// Peers says whether small messages go through memory that the ranks' GPUs see of
// each other.
type Peers uint8

const (
	// PeersAuto measures, where NCCL sums, up to which size that is faster.
	PeersAuto Peers = iota
	// PeersOff leaves everything to NCCL or the host.
	PeersOff
	// PeersAlways takes it for whatever fits, or fails.
	PeersAlways
)

// joining is how long all ranks may take to set NCCL up.
const joining = 20 * time.Second

// watching is how often a group is asked whether it lives while a rank waits for
// its device, which may wait for another rank's.
const watching = 20 * time.Millisecond

// ranks is a backend's part in its group. It is connected when the first stream
// is made: by then the ranks have met.
type ranks struct {
	g    collective.Group
	o    groupOptions
	comm driverComm // nil when the host sums
	// peers take messages of some sizes, bit n for those up to 2^n bytes; nil for
	// none.
	peers     driverPeers
	peerSizes uint64
	times     []PeerTime
	// token is the driver's name for it, where there is one.
	token  uint64
	forget func()

	connected bool
	failed    atomic.Pointer[error] // the first fault
	stop      chan struct{}
	watcher   sync.WaitGroup
}

// groupOptions are those of Options that concern groups.
type groupOptions struct {
	sums  Sums
	nccl  string
	peers Peers
	half  bool
	alone bool
}

// Join makes the backend one rank of g, each a process of its own. The group is
// used from the first NewStream on.
func (b *Backend) Join(g collective.Group) error {
	if g == nil {
		return fmt.Errorf("cuda: joining no group: %w", tensor.ErrUnsupported)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ranks != nil || len(b.streams) > 0 {
		return fmt.Errorf("cuda: joining a group a second time, or after streams were made: %w", tensor.ErrUnsupported)
	}
	b.group = g
	if g.Size() == 1 && !b.sums.alone {
		return nil
	}
	b.ranks = &ranks{g: g, o: b.sums, stop: make(chan struct{})}
	if b.sums.sums != SumsHost { // loading takes its time, and ranks wait for one another later
		_, err := b.d.ncclVersion(b.sums.nccl)
		if err != nil && b.sums.sums == SumsNCCL {
			return fmt.Errorf("cuda: joining a group: %w", err)
		}
	}
	return nil
}

// Group is what was joined.
func (b *Backend) Group() collective.Group { return b.group }

// Sums tells how the backend's group sums: "nccl", "host", or "" before the first
// stream and in a group of one.
func (b *Backend) Sums() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch r := b.ranks; {
	case r == nil || !r.connected:
		return ""
	case r.comm != nil:
		return "nccl"
	default:
		return "host"
	}
}

// connect sets the group up, once.
func (r *ranks) connect(d driver) error {
	if r.connected {
		return nil
	}
	nccl, err := r.agree(d)
	if err != nil {
		return fmt.Errorf("choosing how ranks sum: %w", err)
	}
	if nccl {
		if err := r.openComm(d); err != nil {
			return err
		}
	}
	if err := r.openPeers(d); err != nil {
		return err
	}
	if r.comm != nil || r.peers != nil {
		r.watcher.Go(r.watch)
	}
	r.connected = true
	return nil
}

// vote is what a rank tells the others: whether it can have NCCL, and its GPU.
type vote struct {
	nccl [16]byte
	uuid [16]byte
}

// agree finds whether the group takes NCCL.
func (r *ranks) agree(d driver) (bool, error) {
	var own vote
	var why error
	if r.o.sums == SumsHost {
		why = errors.New("the host was asked to sum")
	} else if _, why = d.ncclVersion(r.o.nccl); why == nil {
		own.nccl[0] = 1
	}
	var err error
	if own.uuid, err = d.uuid(); err != nil {
		return false, err
	}
	const size = int(unsafe.Sizeof(own))
	all := make([]byte, size*r.g.Size())
	if err := r.g.AllGather(all, append(own.nccl[:], own.uuid[:]...)); err != nil {
		return false, err
	}
	seen := map[string]int{}
	for rank := range r.g.Size() {
		v := all[rank*size : (rank+1)*size]
		if why == nil && v[0] == 0 {
			why = fmt.Errorf("rank %d has no NCCL", rank)
		}
		uuid := string(bytes.Clone(v[16:]))
		if other, ok := seen[uuid]; ok && why == nil {
			why = fmt.Errorf("ranks %d and %d share a GPU", other, rank)
		}
		seen[uuid] = rank
	}
	if why != nil && r.o.sums == SumsNCCL {
		return false, &reason{"NCCL: " + why.Error(), tensor.ErrUnsupported}
	}
	return why == nil, nil
}

// openComm hands rank 0's id to all and opens the communicator.
func (r *ranks) openComm(d driver) error {
	id := make([]byte, idBytes)
	var failed error
	if r.g.Rank() == 0 {
		id, failed = d.ncclID(r.o.nccl)
	}
	if failed != nil {
		r.g.Abort(failed.Error()) // the others wait for the id
		return failed
	}
	if err := r.g.Broadcast(id, 0); err != nil {
		return err
	}
	comm, err := d.openComm(r.o.nccl, id, r.g.Rank(), r.g.Size(), joining)
	if err != nil {
		return r.fail(err)
	}
	r.comm = comm
	return nil
}

// watch frees whoever waits for the device when the group is over: NCCL alone
// would wait for a dead rank forever.
func (r *ranks) watch() {
	every := time.NewTicker(watching)
	defer every.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-every.C:
		}
		err := r.g.Ended()
		if err == nil && r.comm != nil {
			err = r.comm.check()
		}
		if err != nil {
			_ = r.fail(err)
			r.abort()
			return
		}
	}
}

// abort ends what runs on the device.
func (r *ranks) abort() {
	if r.comm != nil {
		_ = r.comm.abort() // nothing is left to be told
	}
	if r.peers != nil {
		r.peers.abort()
	}
}

// fail ends the group by an error of this rank's, unless it is over already, and
// gives the error that says whose fault it was.
func (r *ranks) fail(err error) error {
	if known := r.failed.Load(); known != nil {
		return *known
	}
	r.g.Abort(err.Error())
	if end := r.g.Ended(); end != nil && !errors.Is(err, collective.ErrTimeout) && !errors.Is(err, collective.ErrMismatch) {
		err = end
	}
	r.failed.CompareAndSwap(nil, &err)
	return *r.failed.Load()
}

// err is the fault that makes the results of steps worthless.
func (r *ranks) err() error {
	if r == nil {
		return nil
	}
	if err := r.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// operate does one of the device's operations on the host. After a fault nothing
// is done: the stream runs out, and its user is told.
func (r *ranks) operate(operation int32, dst, src unsafe.Pointer, count int) {
	if r.err() != nil {
		return
	}
	var err error
	switch operation {
	case hostReduce:
		err = r.g.AllReduce(unsafe.Slice((*float32)(dst), count))
	case hostGather:
		err = r.g.AllGather(unsafe.Slice((*byte)(dst), count*r.g.Size()), unsafe.Slice((*byte)(src), count))
	default:
		err = fmt.Errorf("operation %d of the host is unknown: %w", operation, tensor.ErrUnsupported)
	}
	if err != nil {
		_ = r.fail(err) // err tells
	}
}

// close leaves NCCL, after the streams.
func (r *ranks) close() error {
	if r == nil {
		return nil
	}
	close(r.stop)
	r.watcher.Wait()
	var err error
	if r.comm != nil {
		err = r.comm.close()
	}
	if r.peers != nil {
		r.peers.close()
	}
	if r.forget != nil {
		r.forget()
	}
	return err
}

// SplitVocab shares a vocabulary out.
func (s *stream) SplitVocab(total int) {
	if total <= 0 {
		s.fail("SplitVocab", "%d tokens", total)
		return
	}
	s.vocab = total
}

// split tells where n rows of a table, or columns of logits, lie in the
// vocabulary: whole tells that they are all of it.
func (s *stream) split(op string, n int) (first, vocab int, whole, ok bool) {
	if s.vocab == 0 || s.b.ranks == nil || s.b.ranks.g.Size() == 1 {
		return 0, n, true, true
	}
	g := s.b.ranks.g
	if n*g.Size() < s.vocab {
		return 0, 0, false, s.fail(op, "%d tokens on each of %d ranks, the vocabulary has %d", n, g.Size(), s.vocab)
	}
	return g.Rank() * n, s.vocab, false, true
}

// AllReduce sums x over ranks.
func (s *stream) AllReduce(x tensor.Buffer) {
	const name = "AllReduce"
	if s.b.ranks == nil || !s.ready(name) {
		return
	}
	b := s.buf(name, "operand", x)
	if b == nil {
		return
	}
	if b.kind != tensor.Wide {
		s.fail(name, "the operand must be a buffer of kind Wide")
		return
	}
	if b.fresh = false; b.rows > 0 {
		s.record(op{kind: opAllReduce, rows: int32(bucket(b.rows)), dst: b.view()})
	}
}

// AllGather puts all ranks' columns side by side.
func (s *stream) AllGather(dst, src tensor.Buffer) {
	const name = "AllGather"
	if !s.ready(name) {
		return
	}
	d, x := s.buf(name, "destination", dst), s.buf(name, "source", src)
	if s.err != nil {
		return
	}
	if d == x || d.kind != tensor.Wide || x.kind != tensor.Wide {
		s.fail(name, "destination and source must differ and be buffers of kind Wide")
		return
	}
	if s.size(name, d, x.rows, s.b.group.Size()*x.cols) && x.rows > 0 {
		s.record(op{kind: opAllGather, rows: int32(bucket(x.rows)), dst: d.view(), x: x.view()})
	}
}
