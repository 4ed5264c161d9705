package group

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"chorale/worker/collective"
	"chorale/worker/collective/assemble"
	"chorale/worker/collective/rendezvous"
	"chorale/worker/lora"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
)

// ErrOptions reports ranks that were started with different options.
var ErrOptions = errors.New("ranks differ")

// Fact is something that must be the same on all ranks, as they say it.
type Fact struct{ Name, Value string }

// Options are a rank's. All but Rank and Facts are the same on all ranks.
type Options struct {
	Rank, Size int
	// Address is where the leader meets the others: see rendezvous.Split.
	Address string
	// Token is a secret of the group's: who does not know it does not get in.
	Token string
	// Facts are compared with the leader's when ranks meet.
	Facts []Fact
	// DigestSteps is how many steps' digests a follower sends at once; 0: none.
	DigestSteps int
	Collective  collective.Options
}

// offer is what the leader tells those that have come.
type offer struct {
	Lanes string // where their lanes go
	Token string
	Facts []Fact
}

func (o *Options) config() assemble.Config {
	return assemble.Config{
		Rank: o.Rank, Options: o.Collective,
		Session: rendezvous.Session{Size: o.Size, Nonce: o.Token, Digest: fmt.Sprintf("digest every %d steps", o.DigestSteps)},
	}
}

// lanesTime is how long followers that have come may take to open their lanes.
const lanesTime = 10 * time.Second

// Lead waits until all ranks are there and makes this one their leader. The
// group becomes late's, the Leader's to close.
func Lead(ctx context.Context, o Options, late *Late) (_ *Leader, err error) {
	meet, err := rendezvous.Listen(o.Address)
	if err != nil {
		return nil, err
	}
	defer meet.Close() // who comes later is told nothing and tries again
	doors, address, err := openLanes(meet.Address())
	if err != nil {
		return nil, err
	}
	defer doors.Close()
	token := secret()
	c := o.config()
	c.Message = pack(offer{Lanes: address, Token: token, Facts: o.Facts})
	team, err := assemble.Lead(ctx, meet, c)
	if err != nil {
		return nil, err
	}
	two, err := acceptLanes(ctx, doors, team, token)
	if err != nil {
		team.Abort(err.Error())
		return nil, errors.Join(err, team.Close())
	}
	if err := late.Set(team); err != nil {
		return nil, errors.Join(err, team.Close())
	}
	return newLeader(team, o, two), nil
}

// secret is what nobody can guess.
func secret() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// openLanes listens beside the rendezvous: on its network, and on its host where
// that has one.
func openLanes(beside string) (net.Listener, string, error) {
	network, where := rendezvous.Split(beside)
	if network == "unix" {
		l, err := net.Listen("unix", "@chorale-"+secret())
		if err != nil {
			return nil, "", fmt.Errorf("lanes: %w", err)
		}
		return l, "unix:" + l.Addr().String(), nil
	}
	host, _, err := net.SplitHostPort(where)
	if err != nil {
		return nil, "", fmt.Errorf("lanes: %w", err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, "", fmt.Errorf("lanes: %w", err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return l, ":" + port, err // a host is what followers reach the leader by
}

// acceptLanes takes every follower's lanes.
func acceptLanes(ctx context.Context, l net.Listener, g collective.Group, token string) ([][lanes]*lane, error) {
	a := &arrivals{two: make([][lanes]*lane, g.Size()-1), missing: lanes * (g.Size() - 1), done: make(chan struct{})}
	go a.accept(l, token)
	defer l.Close()
	end := time.NewTimer(lanesTime)
	defer end.Stop()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-a.done:
			return a.two, a.err
		case <-ctx.Done():
			return nil, a.giveUp(context.Cause(ctx))
		case <-end.C:
			return nil, a.giveUp(fmt.Errorf("%d connections of followers are missing after %v", a.left(), lanesTime))
		case <-tick.C:
			if err := g.Ended(); err != nil {
				return nil, a.giveUp(err)
			}
		}
	}
}

// arrivals collects lanes.
type arrivals struct {
	mu      sync.Mutex
	two     [][lanes]*lane
	missing int
	err     error
	over    bool
	done    chan struct{}
}

func (a *arrivals) left() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.missing
}

func (a *arrivals) accept(l net.Listener, token string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_ = c.SetDeadline(time.Now().Add(lanesTime))
			ln := newLane(c)
			m, err := ln.read()
			if err != nil || m.verb != verbHello || !a.seat(ln, &m, token) {
				c.Close()
			}
		}()
	}
}

// seat takes a lane in, if it is one.
func (a *arrivals) seat(ln *lane, m *message, token string) bool {
	h, err := unpack[hello](m)
	if err != nil || subtle.ConstantTimeCompare([]byte(h.Token), []byte(token)) != 1 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || h.Rank < 1 || h.Rank > len(a.two) || h.Lane < 0 || h.Lane >= lanes || a.two[h.Rank-1][h.Lane] != nil {
		return false
	}
	if h.Refused != "" {
		a.end(fmt.Errorf("%w: %s", ErrOptions, h.Refused))
		return false
	}
	_ = ln.c.SetDeadline(time.Time{}) // a dead connection shows when it is read
	a.two[h.Rank-1][h.Lane] = ln
	if a.missing--; a.missing == 0 {
		a.end(nil)
	}
	return true
}

// end is the last word. mu is held.
func (a *arrivals) end(err error) {
	a.over, a.err = true, err
	close(a.done)
	if err != nil {
		for _, two := range a.two {
			for _, ln := range two {
				if ln != nil {
					ln.c.Close()
				}
			}
		}
	}
}

func (a *arrivals) giveUp(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over {
		a.end(err)
	}
	if a.err == nil { // all have come this very moment; they see the group end
		for _, two := range a.two {
			for _, ln := range two {
				ln.c.Close()
			}
		}
	}
	return err
}

// Follow meets the leader and makes this rank one of its followers: Run does the
// work. The model is this rank's slice; measure tells how many bytes of memory
// are left for a layout's pool, 0 where nobody counts. steps is the most rows of
// a step. The group becomes late's, the Follower's to close.
func Follow(ctx context.Context, o Options, late *Late, m *decoder.Model, rows int, measure func(tensor.MemoryLayout) (int64, error)) (_ *Follower, err error) {
	team, err := assemble.Follow(ctx, o.Address, o.config())
	if err != nil {
		return nil, err
	}
	f := &Follower{member: team, o: o, model: m, measure: measure, images: map[uint64]*model.Image{}, packed: map[uint32]lora.Packed{}}
	f.moved = sync.NewCond(&f.mu)
	defer func() {
		if err != nil {
			f.abandon(err)
		}
	}()
	var with offer
	if err := json.Unmarshal(team.Message, &with); err != nil {
		return nil, fmt.Errorf("the leader's offer: %w", err)
	}
	refused := differ(o.Rank, o.Facts, with.Facts)
	if err := f.openLanes(ctx, &with, refused); err != nil || refused != nil {
		return nil, errors.Join(refused, err)
	}
	if err := late.Set(team); err != nil {
		return nil, err
	}
	if f.runner, err = m.NewRunner(nil, rows); err != nil {
		return nil, err
	}
	for range f.runner.Depth() + 1 {
		f.frames = append(f.frames, &frame{})
	}
	return f, nil
}

// abandon ends what was begun of a follower.
func (f *Follower) abandon(err error) {
	f.member.Abort(err.Error())
	for _, ln := range f.lanes {
		if ln != nil {
			ln.c.Close()
		}
	}
	_ = f.member.Close() // the cause is told
}

// Close leaves the group, after Run.
func (f *Follower) Close() error { return f.member.Close() }

// openLanes opens both, on which a refusal is told.
func (f *Follower) openLanes(ctx context.Context, with *offer, refused error) error {
	network, where := rendezvous.Split(with.Lanes)
	if network == "tcp" {
		_, leader := rendezvous.Split(f.o.Address)
		host, _, err := net.SplitHostPort(leader)
		if err != nil {
			return err
		}
		where = net.JoinHostPort(host, where[1:])
	}
	for i := range f.lanes {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, where)
		if err != nil {
			return fmt.Errorf("lanes: %w", err)
		}
		f.lanes[i] = newLane(c)
		h := hello{Rank: f.o.Rank, Lane: i, Token: with.Token}
		if refused != nil {
			h.Refused = refused.Error()
		}
		if err := f.lanes[i].write(&message{verb: verbHello, head: pack(h)}); err != nil {
			return fmt.Errorf("lanes: %w", err)
		}
	}
	return nil
}

// differ tells in what a rank differs from its leader.
func differ(rank int, own, leader []Fact) error {
	want := map[string]string{}
	for _, f := range leader {
		want[f.Name] = f.Value
	}
	var errs []error
	for _, f := range own {
		if v, ok := want[f.Name]; v != f.Value {
			if !ok {
				v = "nothing"
			}
			errs = append(errs, fmt.Errorf("%w: %s is %s on rank %d and %s on the leader", ErrOptions, f.Name, f.Value, rank, v))
		}
	}
	return errors.Join(errs...)
}
