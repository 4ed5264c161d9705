package rendezvous

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"
)

// Join meets the leader at the address, as one rank, and waits for the others
// until ctx ends; also for a leader that does not listen yet. self is this
// rank's own address for Welcome; in ":port" the others fill in where they see
// it. The file is nil unless the leader sent one;
// it is the caller's to close.
func Join(ctx context.Context, address string, rank int, s Session, self string) (*Links, *Welcome, *os.File, error) {
	c, err := dial(ctx, address)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("rendezvous: rank %d: %w", rank, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	w, f, err := introduce(c, hello{version, rank, s.Size, s.Nonce, s.Digest, self})
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		if f != nil {
			f.Close()
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, nil, nil, fmt.Errorf("rendezvous: rank %d: %w", rank, err)
	}
	w.Addresses[0] = place(w.Addresses[0], c)
	conns := make([]net.Conn, s.Size)
	conns[0] = c
	return &Links{Rank: rank, Conns: conns}, w, f, nil
}

// attempt is how long one attempt to reach the leader may take: the system's own
// grow to minutes while a network is cut, and would miss that it is back.
const attempt = 3 * time.Second

// dial waits for the leader to listen.
func dial(ctx context.Context, address string) (net.Conn, error) {
	network, where := Split(address)
	d := net.Dialer{Timeout: attempt}
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		c, err := d.DialContext(ctx, network, where)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no leader: %w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}

// introduce says who this is and waits for the answer.
func introduce(c net.Conn, h hello) (*Welcome, *os.File, error) {
	if err := write(c, kindHello, h); err != nil {
		return nil, nil, err
	}
	k, body, f, err := readWithFile(c)
	if err != nil {
		return nil, nil, fmt.Errorf("the leader has gone: %w", err)
	}
	switch k {
	case kindRefusal:
		var r refusal
		if err := decode(body, &r); err != nil {
			return nil, f, err
		}
		rule := rules[r.Rule]
		if rule == nil {
			rule = ErrProtocol
		}
		return nil, f, &RefusedError{r.Text, rule}
	case kindWelcome:
		w := &Welcome{}
		if err := decode(body, w); err != nil {
			return nil, f, err
		}
		if w.File != (f != nil) || len(w.Addresses) != h.Size {
			return nil, f, fmt.Errorf("a welcome of %d ranks: %w", len(w.Addresses), ErrProtocol)
		}
		return w, f, nil
	}
	return nil, f, fmt.Errorf("message %d instead of a welcome: %w", k, ErrProtocol)
}

// place completes an address ":port" by where its owner's connection comes from.
func place(address string, c net.Conn) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "" {
		return address
	}
	from, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return address
	}
	at := net.TCPAddr{IP: from.IP, Zone: from.Zone}
	host, _, _ = net.SplitHostPort(at.String())
	return net.JoinHostPort(host, port)
}

// RefusedError is the leader's answer to a rank that broke a rule.
type RefusedError struct {
	Text string
	Rule error
}

func (e *RefusedError) Error() string { return "the leader refuses: " + e.Text }

// Unwrap gives the rule.
func (e *RefusedError) Unwrap() error { return e.Rule }
