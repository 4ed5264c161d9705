package tests

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"chorale/internal/adapterref"
	pb "chorale/proto/gen/chorale/v1"
)

// picture is what an adapter should be, by what was acknowledged.
type picture struct {
	there    bool
	pinned   bool
	label    string
	current  uint64
	last     uint64 // number ever given, also while it is not there
	line     []uint64
	versions map[uint64]share
	etag     string
}

type share struct {
	digest string
	weight int
}

func (p picture) clone() picture {
	p.line, p.versions = slices.Clone(p.line), maps.Clone(p.versions)
	return p
}

func (p *picture) weights() (sum int) {
	for _, v := range p.versions {
		sum += v.weight
	}
	return sum
}

// current answers alone from now on.
func (p *picture) makeCurrent(n uint64) {
	for i, v := range p.versions {
		v.weight = 0
		p.versions[i] = v
	}
	if p.current == n {
		return
	}
	if at := slices.Index(p.line, n); at >= 0 {
		p.line = p.line[:at]
	} else if p.current != 0 {
		p.line = append(p.line, p.current)
	}
	p.current = n
}

// String is what is compared with the manager's picture.
func (p *picture) String() string {
	if !p.there {
		return "not there"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version %d, pinned %v, label %q:", p.current, p.pinned, p.label)
	for _, n := range slices.Sorted(maps.Keys(p.versions)) {
		w := p.versions[n].weight
		if n == p.current {
			w = 100 - p.weights()
		}
		fmt.Fprintf(&b, " %d=%s %d%%", n, p.versions[n].digest, w)
	}
	return b.String()
}

// told is String of the manager's picture; an adapter whose load was cut short is
// not there.
func told(a *pb.Adapter) string {
	if a == nil || len(a.Versions) == 0 || a.State == pb.AdapterState_ADAPTER_STATE_REMOVED {
		return "not there"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version %d, pinned %v, label %q:", a.Version, a.Pinned, a.Labels["mark"])
	for _, v := range a.Versions {
		fmt.Fprintf(&b, " %d=%s %d%%", v.Number, v.Digest, v.Weight)
	}
	return b.String()
}

// named is an adapter of the model. One administrator changes it at a time.
type named struct {
	name string
	mu   sync.Mutex
	now  picture
	// maybe is what it may have become by a change that was given up.
	maybe *picture
}

// change is one that an administrator makes.
type change struct {
	what  string
	after picture
	call  func(ctx context.Context, etag, id string) (*pb.Adapter, error)
}

// administer changes a random adapter once.
func (c *chaos) administer(r *rand.Rand) {
	n := c.names[r.IntN(len(c.names))]
	if !n.mu.TryLock() {
		c.roughly(c.ctx, r.IntN)
		return
	}
	defer n.mu.Unlock()
	ch := c.draw(n, r)
	id := fmt.Sprintf("change-%d-%d", c.seed, c.changed.Add(1))
	stubborn := r.IntN(2) == 0
	began := time.Now()
	for try := 0; ; try++ {
		a, err := c.try(ch, n, id)
		switch code := status.Code(err); {
		case err == nil:
			c.acknowledged(n, ch, a, try)
			return
		case code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled:
			c.ledger.add("changes not acknowledged", 1)
			if !stubborn && try > 0 || c.ctx.Err() != nil {
				c.giveUp(n, ch)
				return
			}
			time.Sleep(100 * time.Millisecond)
		case n.maybe != nil && (code == codes.Aborted || code == codes.AlreadyExists || code == codes.NotFound || code == codes.FailedPrecondition):
			// What was given up has been made after all, later.
			c.ledger.add("changes made after they were given up", 1)
			n.now, n.maybe = *n.maybe, nil
			c.look(n)
			return
		default:
			c.t.Errorf("%s of %s (%s), try %d: %v", ch.what, n.name, &n.now, try, err)
			c.look(n)
			return
		}
		if time.Since(began) > 2*chaosLimit {
			c.ledger.add("stuck", 1)
			c.t.Errorf("%s of %s is not acknowledged after %v", ch.what, n.name, time.Since(began))
			return
		}
	}
}

func (c *chaos) try(ch *change, n *named, id string) (*pb.Adapter, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
	defer cancel()
	return ch.call(ctx, n.now.etag, id)
}

// acknowledged takes a change into the model, and compares.
func (c *chaos) acknowledged(n *named, ch *change, a *pb.Adapter, tries int) {
	c.ledger.add("changes: "+ch.what, 1)
	if tries > 0 {
		c.ledger.add("changes acknowledged when asked again", 1)
	}
	after := ch.after
	switch {
	case ch.what == "unload":
		a = nil // the answer tells how it was
	case a.GetState() == pb.AdapterState_ADAPTER_STATE_REMOVED: // a version, and asked again
		n.now, n.maybe = after, nil
		c.look(n)
		return
	}
	if got, want := told(a), after.String(); got != want {
		c.t.Errorf("after %s of %s (%s), try %d: %s, want %s", ch.what, n.name, &n.now, tries, got, want)
	}
	after.etag = a.GetEtag()
	n.now, n.maybe = after, nil
	c.note(n)
}

// note remembers whose content the versions' numbers are, for good.
func (c *chaos) note(n *named) {
	for i, v := range n.now.versions {
		c.numbers.Store(adapterref.Format(n.name, i), v.digest)
	}
}

// giveUp asks what has become of a change instead of making it again.
func (c *chaos) giveUp(n *named, ch *change) {
	if n.maybe != nil { // was not so sure before, and this one has the same etag
		after := ch.after
		c.settle(n, []*picture{&n.now, n.maybe, &after})
		return
	}
	after := ch.after
	n.maybe = &after
	c.look(n)
}

// look compares with what the manager says now, once it says something.
func (c *chaos) look(n *named) {
	candidates := []*picture{&n.now}
	if n.maybe != nil {
		candidates = append(candidates, n.maybe)
	}
	c.settle(n, candidates)
}

// settle finds which of the pictures is right. What was given up and is not so
// may still come, until something else is acknowledged.
func (c *chaos) settle(n *named, candidates []*picture) {
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		a, err := c.get(n.name)
		said := told(a)
		steady := err == nil && (a == nil || a.Loading == nil && a.State != pb.AdapterState_ADAPTER_STATE_DRAINING)
		for _, p := range candidates {
			if !steady || said != p.String() {
				continue
			}
			if p != &n.now {
				n.now, n.maybe = *p, nil
				c.ledger.add("changes made, and not acknowledged", 1)
			}
			n.now.etag = a.GetEtag()
			c.note(n)
			return
		}
		if time.Since(began) > chaosLimit {
			c.t.Errorf("%s is %s (%v %v), the model says %v", n.name, said, a, err, candidates)
			return
		}
	}
}

// get is what the manager knows of a name, nil for nothing.
func (c *chaos) get(name string) (*pb.Adapter, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := c.site.admin.GetAdapter(ctx, &pb.GetAdapterRequest{Name: name})
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	return r.GetAdapter(), err
}

// draw chooses a change that must succeed.
func (c *chaos) draw(n *named, r *rand.Rand) *change {
	p := n.now.clone()
	if !p.there {
		return c.load(n.name, p, r, "load")
	}
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(p.versions)), func(v uint64) bool { return v == p.current })
	switch k := r.IntN(12); {
	case k < 3 || k < 10 && len(p.versions) == 1:
		return c.load(n.name, p, r, []string{"replace", "canary of new content"}[k%2])
	case k < 6:
		return c.canary(n.name, p, others[r.IntN(len(others))], r)
	case k == 6:
		return c.dropVersion(n.name, p, others[r.IntN(len(others))])
	case k < 9 && (p.weights() > 0 || len(p.line) > 0):
		return c.rollBack(n.name, p)
	case k < 11:
		return c.update(n.name, p, r)
	default:
		return c.unload(n.name, p, r)
	}
}

func (c *chaos) load(name string, p picture, r *rand.Rand, what string) *change {
	k := r.IntN(chaosContents)
	for p.there && c.site.digests[k] == p.versions[p.current].digest {
		k = r.IntN(chaosContents)
	}
	req := &pb.LoadAdapterRequest{Name: name, Source: c.site.contents[k], Replace: what == "replace", MustBeNew: what == "load"}
	left := 100 - p.weights()
	p.last++
	if !p.there {
		p = picture{there: true, last: p.last, versions: map[uint64]share{}}
	}
	p.versions[p.last] = share{digest: c.site.digests[k]}
	if what == "canary of new content" {
		w := r.IntN(min(left, 60) + 1)
		req.Weight = proto.Int32(int32(w))
		p.versions[p.last] = share{c.site.digests[k], w}
	} else {
		req.Pinned, p.label = r.IntN(4) == 0, ""
		p.pinned = req.Pinned
		p.makeCurrent(p.last)
	}
	return &change{what, p, func(ctx context.Context, etag, id string) (*pb.Adapter, error) {
		req.RequestId = id
		if what != "load" {
			req.Etag = etag
		}
		resp, err := c.site.admin.LoadAdapter(ctx, req)
		return resp.GetAdapter(), err
	}}
}

func (c *chaos) canary(name string, p picture, version uint64, r *rand.Rand) *change {
	v := p.versions[version]
	w := r.IntN(100 - p.weights() + v.weight + 1)
	if r.IntN(4) == 0 {
		w = []int{0, 100}[r.IntN(2)]
	}
	if w == 100 {
		p.makeCurrent(version)
	} else {
		v.weight = w
		p.versions[version] = v
	}
	req := &pb.CanaryAdapterRequest{Name: name, Version: version, Weight: int32(w)}
	return &change{"canary", p, func(ctx context.Context, etag, id string) (*pb.Adapter, error) {
		req.Etag, req.RequestId = etag, id
		resp, err := c.site.admin.CanaryAdapter(ctx, req)
		return resp.GetAdapter(), err
	}}
}

func (c *chaos) rollBack(name string, p picture) *change {
	to := p.current
	if p.weights() == 0 {
		to = p.line[len(p.line)-1]
	}
	p.makeCurrent(to)
	req := &pb.RollbackAdapterRequest{Name: name}
	return &change{"roll back", p, func(ctx context.Context, etag, id string) (*pb.Adapter, error) {
		req.Etag, req.RequestId = etag, id
		resp, err := c.site.admin.RollbackAdapter(ctx, req)
		return resp.GetAdapter(), err
	}}
}

func (c *chaos) update(name string, p picture, r *rand.Rand) *change {
	p.pinned, p.label = r.IntN(3) == 0, fmt.Sprint(r.IntN(1000))
	req := &pb.UpdateAdapterRequest{Name: name, Pinned: proto.Bool(p.pinned), Labels: map[string]string{"mark": p.label}}
	return &change{"pin or unpin", p, func(ctx context.Context, etag, id string) (*pb.Adapter, error) {
		req.Etag, req.RequestId = etag, id
		resp, err := c.site.admin.UpdateAdapter(ctx, req)
		return resp.GetAdapter(), err
	}}
}

func (c *chaos) dropVersion(name string, p picture, version uint64) *change {
	delete(p.versions, version)
	p.line = slices.DeleteFunc(p.line, func(v uint64) bool { return v == version })
	req := &pb.UnloadAdapterRequest{Name: adapterref.Format(name, version)}
	return c.drop("unload of a version", p, req)
}

func (c *chaos) unload(name string, p picture, r *rand.Rand) *change {
	req := &pb.UnloadAdapterRequest{Name: name, Force: r.IntN(3) == 0}
	if !req.Force && r.IntN(2) == 0 {
		req.DrainTimeout = durationpb.New(time.Duration(r.IntN(2000)) * time.Millisecond)
	}
	return c.drop("unload", picture{last: p.last}, req)
}

func (c *chaos) drop(what string, p picture, req *pb.UnloadAdapterRequest) *change {
	return &change{what, p, func(ctx context.Context, etag, id string) (*pb.Adapter, error) {
		req.Etag, req.RequestId = etag, id
		resp, err := c.site.admin.UnloadAdapter(ctx, req)
		return resp.GetAdapter(), err
	}}
}
