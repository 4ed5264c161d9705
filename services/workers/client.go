package workers

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	pb "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/services/status"
	"chorale/worker/kv"
)

const pageSize = kv.PageSize

// Dialer reaches a worker group for the router.
type Dialer struct {
	address string
	client  pb.WorkerServiceClient
}

var _ router.Dialer = (*Dialer)(nil)

// NewDialer makes a dialer over a client connection; address names the group.
func NewDialer(address string, cc grpc.ClientConnInterface) *Dialer {
	return &Dialer{address: address, client: pb.NewWorkerServiceClient(cc)}
}

// Address names the group.
func (d *Dialer) Address() string { return d.address }

// Describe asks the group what it is.
func (d *Dialer) Describe(ctx context.Context) (router.GroupInfo, error) {
	r, err := d.client.DescribeWorker(ctx, &pb.DescribeWorkerRequest{})
	if err != nil {
		return router.GroupInfo{}, typed(err)
	}
	return router.GroupInfo{
		Incarnation: r.GetIncarnation(), Version: r.GetVersion(), Device: r.GetDevice(), ModelDigest: r.GetModelDigest(),
		ModelType: r.GetModelType(), Architectures: r.GetArchitectures(), ContextLength: int(r.GetContextLength()),
		VocabSize: int(r.GetVocabSize()), Parameters: r.GetParameters(), DType: r.GetDtype(), EOS: r.GetEosTokenIds(),
		Modules: moduleKinds(r.GetModules()), MaxLoRAsPerBatch: int(r.GetMaxLorasPerBatch()),
		MaxResidentLoRAs: int(r.GetMaxResidentLoras()), MaxLoRARank: int(r.GetMaxLoraRank()), MaxRunning: int(r.GetMaxRunning()),
		KVPages: int(r.GetKvPages()), PageSize: int(r.GetPageSize()), LoRAEnabled: r.GetLoraEnabled(),
		Ranks: max(1, int(r.GetRanks())), Restarts: int(r.GetRestarts()),
	}, nil
}

// typed gives what a group says of itself as the router's errors.
func typed(err error) error {
	for _, e := range []error{router.ErrGroupLost, router.ErrGroupRestarting} {
		if status.Reason(err) == status.Reason(e) {
			return fmt.Errorf("%w (%w)", e, err)
		}
	}
	return err
}

// moduleKinds lists the last parts of the modules' names, each once.
func moduleKinds(ms []*pb.ModelModule) []string {
	var out []string
	seen := map[string]bool{}
	for _, m := range ms {
		name := m.GetName()
		for i := len(name) - 1; i >= 0; i-- {
			if name[i] == '.' {
				name = name[i+1:]
				break
			}
		}
		if !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out
}

// Flush forgets all prefixes that the group has cached.
func (d *Dialer) Flush(ctx context.Context) error {
	_, err := d.client.FlushWorkerCache(ctx, &pb.FlushWorkerCacheRequest{})
	return err
}

// Connect opens the group's stream.
func (d *Dialer) Connect(ctx context.Context) (router.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := d.client.Connect(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	c := &conn{stream: s, cancel: cancel, requested: map[uint64][]int32{}, out: make(chan *pb.ConnectRequest, 1024), done: ctx.Done()}
	go c.send()
	return c, nil
}

// conn is a live stream.
type conn struct {
	stream grpc.BidiStreamingClient[pb.ConnectRequest, pb.ConnectResponse]
	cancel context.CancelFunc
	out    chan *pb.ConnectRequest
	done   <-chan struct{}

	mu sync.Mutex
	// requested remembers which token ids a sequence wants log probabilities
	// of: the wire carries only their values.
	requested map[uint64][]int32
}

// send is the one goroutine that writes to the stream, so that nobody in the
// router ever waits for a worker's flow control.
func (c *conn) send() {
	for {
		select {
		case m := <-c.out:
			if c.stream.Send(m) != nil {
				c.cancel() // Recv tells why
				return
			}
		case <-c.done:
			return
		}
	}
}

// post queues a message. A worker that lets a thousand of them pile up is as
// good as dead.
func (c *conn) post(m *pb.ConnectRequest) error {
	select {
	case c.out <- m:
		return nil
	case <-c.done:
		return context.Canceled
	default:
		c.cancel()
		return router.ErrWorkerLost
	}
}

// Submit hands over sequences.
func (c *conn) Submit(seqs []router.Sequence) error {
	m := &pb.SubmitSequences{Sequences: make([]*pb.Sequence, len(seqs))}
	c.mu.Lock()
	for i := range seqs {
		m.Sequences[i] = sequenceProto(&seqs[i])
		if lp := seqs[i].Logprobs; lp != nil && len(lp.TokenIDs) > 0 {
			c.requested[seqs[i].ID] = lp.TokenIDs
		}
	}
	c.mu.Unlock()
	return c.post(&pb.ConnectRequest{Message: &pb.ConnectRequest_Submit{Submit: m}})
}

// Abort ends sequences.
func (c *conn) Abort(ids []uint64) error {
	c.forget(ids...)
	return c.post(&pb.ConnectRequest{Message: &pb.ConnectRequest_Abort{Abort: &pb.AbortSequences{Ids: ids}}})
}

// Prefetch names adapters that are to come.
func (c *conn) Prefetch(digests []string) error {
	return c.post(&pb.ConnectRequest{Message: &pb.ConnectRequest_Prefetch{Prefetch: &pb.PrefetchAdapters{Digests: digests}}})
}

func (c *conn) forget(ids ...uint64) {
	c.mu.Lock()
	for _, id := range ids {
		delete(c.requested, id)
	}
	c.mu.Unlock()
}

// Recv waits for the next step's outputs.
func (c *conn) Recv() (router.StepOutputs, error) {
	m, err := c.stream.Recv()
	if err != nil {
		return router.StepOutputs{}, typed(err)
	}
	out := routerOutputs(m, func(id uint64) []int32 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.requested[id]
	})
	for i := range out.Outputs {
		if o := &out.Outputs[i]; o.Finish != router.FinishNone {
			c.forget(o.ID)
		}
	}
	return out, nil
}

// Close ends the stream.
func (c *conn) Close() error {
	c.cancel()
	return nil
}
