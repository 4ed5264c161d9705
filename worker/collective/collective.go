package collective

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// Group is one rank's end of a group. Operations are called by one goroutine at
// a time; Abort, Ended, Counts and Close by any. Operations fail with ErrAborted,
// ErrTimeout, ErrMismatch or ErrShape, and after the first two or three nothing
// works any more: what the arguments then hold is undefined.
type Group interface {
	Rank() int
	Size() int

	// AllReduce replaces x [n] on every rank by the sum over ranks, added in
	// the order of ranks.
	AllReduce(x []float32) error
	// ReduceScatter puts the sum of all ranks' src[rank*n : (rank+1)*n] into
	// dst [n]; src is [Size*n]. It destroys nothing of src.
	ReduceScatter(dst, src []float32) error
	// AllGather puts all ranks' src [n] into dst [Size*n], by rank. See Bytes.
	AllGather(dst, src []byte) error
	// Broadcast copies root's x [n] to all ranks.
	Broadcast(x []byte, root int) error
	// Barrier returns when all ranks have called it.
	Barrier() error

	// Abort ends the group for everybody, by this rank's fault.
	Abort(reason string)
	// Ended tells why the group is over, nil while it lives. It waits for nobody:
	// for those who wait for a device that waits for another rank's.
	Ended() error
	// Counts tells how many operations of each kind were begun.
	Counts() Counts
	// Close leaves the group, which ends it for the others too. Those inside an
	// operation that needs nothing more of this rank still finish it; whoever
	// wants all to have begun it calls Barrier before.
	Close() error
}

// Plans is the way of step plans from the leader, rank 0, to all others, which
// get every record, whole and in order.
type Plans interface {
	// Publish is the leader's. It waits, at most Options.Timeout, for room
	// when a follower is behind by the whole ring; then it fails with ErrLag
	// and the group is over.
	Publish(record []byte) error
	// Next is a follower's. It waits for the next record and appends it to
	// buf[:0]. It waits for as long as the group lives.
	Next(buf []byte) ([]byte, error)
}

// Member is a Group with its Plans. Next may be called beside an operation.
type Member interface {
	Group
	Plans
}

// Options are the same on all ranks.
type Options struct {
	// Timeout is how long an operation waits for the other ranks.
	Timeout time.Duration
	// Stall is how long a rank may show no life before the others give it up.
	Stall time.Duration
	// Spin is how long a wait asks again before it sleeps; PlanSpin that of
	// Next. Zero chooses by the number of cores, less than zero never spins.
	Spin, PlanSpin time.Duration
	// PlanBytes is how much of plans may be under way: a record is shorter.
	PlanBytes int
}

// Fill puts defaults where there are zeros.
func (o Options) Fill() Options {
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.Stall == 0 {
		o.Stall = 1500 * time.Millisecond
	}
	if o.PlanBytes == 0 {
		o.PlanBytes = 4 << 20
	}
	return o
}

// Counts are numbers of operations by kind.
type Counts struct {
	AllReduce, ReduceScatter, AllGather, Broadcast, Barrier int64
}

// Kind names an operation.
type Kind uint8

const (
	KindAllReduce Kind = iota + 1
	KindReduceScatter
	KindAllGather
	KindBroadcast
	KindBarrier
	kinds
)

func (k Kind) String() string {
	return [kinds]string{"no operation", "all-reduce", "reduce-scatter", "all-gather", "broadcast", "barrier"}[k]
}

// Counter counts operations for a transport.
type Counter struct{ n [kinds]atomic.Int64 }

func (c *Counter) Count(k Kind) { c.n[k].Add(1) }

func (c *Counter) Counts() Counts {
	return Counts{
		AllReduce:     c.n[KindAllReduce].Load(),
		ReduceScatter: c.n[KindReduceScatter].Load(),
		AllGather:     c.n[KindAllGather].Load(),
		Broadcast:     c.n[KindBroadcast].Load(),
		Barrier:       c.n[KindBarrier].Load(),
	}
}

// Bytes shows the memory of s, for AllGather and Broadcast. T has no pointers.
func Bytes[T ~float32 | ~int32 | ~uint32 | ~int64 | ~uint64 | ~uint16](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}
