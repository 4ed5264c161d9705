package assemble

import (
	"context"
	"fmt"
	"net"

	"chorale/worker/collective"
	"chorale/worker/collective/rendezvous"
	"chorale/worker/collective/shm"
	"chorale/worker/collective/tcp"
)

// Config is what a rank knows before it meets the others.
type Config struct {
	Rank    int
	Session rendezvous.Session
	Options collective.Options
	// Host is where this rank listens for the others, when they use TCP. Empty
	// is everywhere, and the others use the address they see.
	Host string
	// Message is the leader's to all.
	Message []byte
}

// Team is a group whose ranks are processes.
type Team struct {
	collective.Member
	// Message is the leader's.
	Message []byte
	links   *rendezvous.Links
}

// Close leaves the group.
func (t *Team) Close() error {
	err := t.Member.Close()
	t.links.Close()
	return err
}

// session adds what this package needs to be equal.
func (c Config) session() rendezvous.Session {
	s := c.Session
	s.Digest = fmt.Sprintf("%s plans=%d", s.Digest, c.Options.Fill().PlanBytes)
	return s
}

// Lead waits for the followers at the listener, which stays open, and gives rank
// 0's end.
func Lead(ctx context.Context, l *rendezvous.Listener, c Config) (*Team, error) {
	if c.Rank != 0 {
		return nil, fmt.Errorf("assemble: rank %d leads: %w", c.Rank, collective.ErrRole)
	}
	if network, _ := rendezvous.Split(l.Address()); network == "unix" {
		return leadShared(ctx, l, c)
	}
	own, err := c.listen()
	if err != nil {
		return nil, err
	}
	links, w, err := l.Meet(ctx, c.session(), rendezvous.Offer{Address: c.place(own), Message: c.Message})
	if err != nil {
		own.Close()
		return nil, err
	}
	return connect(ctx, c, links, w, own)
}

func leadShared(ctx context.Context, l *rendezvous.Listener, c Config) (*Team, error) {
	f, err := shm.Create(c.Session.Size, c.Options)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := shm.Open(f, 0, c.Options)
	if err != nil {
		return nil, err
	}
	links, w, err := l.Meet(ctx, c.session(), rendezvous.Offer{Message: c.Message, File: f})
	if err != nil {
		m.Close()
		return nil, err
	}
	return guarded(m, links, w), nil
}

// Follow joins the leader at its listener's address and gives c.Rank's end.
func Follow(ctx context.Context, address string, c Config) (*Team, error) {
	if network, _ := rendezvous.Split(address); network == "unix" {
		links, w, f, err := rendezvous.Join(ctx, address, c.Rank, c.session(), "")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		m, err := shm.Open(f, c.Rank, c.Options)
		if err != nil {
			links.Close()
			return nil, err
		}
		return guarded(m, links, w), nil
	}
	own, err := c.listen()
	if err != nil {
		return nil, err
	}
	links, w, _, err := rendezvous.Join(ctx, address, c.Rank, c.session(), c.place(own))
	if err != nil {
		own.Close()
		return nil, err
	}
	return connect(ctx, c, links, w, own)
}

// guarded ends a group over shared memory when the kernel says that a process
// has gone.
func guarded(m shm.Member, links *rendezvous.Links, w *rendezvous.Welcome) *Team {
	links.Watch(func(rank int) { m.Blame(rank, "its process has gone") })
	return &Team{m, w.Message, links}
}

func (c Config) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(c.Host, "0"))
	if err != nil {
		return nil, fmt.Errorf("assemble: %w", err)
	}
	return l, nil
}

// place is where others reach the listener, without a host when it is
// everywhere.
func (c Config) place(l net.Listener) string {
	if c.Host != "" {
		return l.Addr().String()
	}
	return fmt.Sprintf(":%d", l.Addr().(*net.TCPAddr).Port)
}

func connect(ctx context.Context, c Config, links *rendezvous.Links, w *rendezvous.Welcome, own net.Listener) (*Team, error) {
	m, err := tcp.Connect(ctx, tcp.Way{Rank: c.Rank, Addresses: w.Addresses, Nonce: c.Session.Nonce, Listener: own}, c.Options)
	if err != nil {
		links.Close()
		return nil, err
	}
	return &Team{m, w.Message, links}, nil
}
