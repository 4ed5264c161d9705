package tcp

import (
	"fmt"
	"time"

	"chorale/worker/collective"
)

// begin locks the group for an operation over so many bytes.
func (g *Group) begin(k collective.Kind, bytes, root int) error {
	g.mu.Lock()
	if err := g.alive(); err != nil {
		g.mu.Unlock()
		return err
	}
	g.Count(k)
	g.kind = k
	g.sign = uint64(k)<<56 | uint64(root)<<44 | uint64(bytes)&(1<<44-1)
	return nil
}

// failed is why something with a rank did not work: what the end of the group
// says, or that this rank left.
func (g *Group) failed(p *peer) error {
	if why := g.why.Load(); why != nil {
		return why
	}
	if p.left.Load() {
		return &collective.AbortError{Rank: p.rank, Reason: "left the group"}
	}
	return nil
}

// tell sends a rank a message of this operation.
func (g *Group) tell(p *peer, kind byte, piece uint64, payload []byte) error {
	err := p.send(message{kind: kind, piece: piece, sign: g.sign, payload: payload})
	if err == nil {
		return nil
	}
	g.lost(p, err)
	if err := g.failed(p); err != nil {
		return err
	}
	return fmt.Errorf("to rank %d: %w", p.rank, err)
}

// from waits for a rank's next message, which must be of the kind and piece.
func (g *Group) from(p *peer, kind byte, piece uint64) (message, error) {
	m, err := g.wait(p)
	if err != nil {
		return m, err
	}
	if m.kind == kind && m.piece == piece && m.sign == g.sign {
		return m, nil
	}
	err = fmt.Errorf("rank %d: %s of %d bytes; rank %d: %s of %d bytes: %w", g.rank, g.kind, g.sign&(1<<44-1),
		p.rank, collective.Kind(m.sign>>56&7), m.sign&(1<<44-1), collective.ErrMismatch)
	g.end(g.rank, err.Error())
	return m, err
}

// wait takes a rank's next message. What has come counts even when the group is
// over.
func (g *Group) wait(p *peer) (message, error) {
	select {
	case m := <-p.in:
		return m, nil
	default:
	}
	g.timer.Reset(g.o.Timeout)
	select {
	case m := <-p.in:
		return m, nil
	case <-g.over:
	case <-p.gone:
	case <-g.timer.C:
		return message{}, g.late(p.rank)
	}
	select {
	case m := <-p.in:
		return m, nil
	default:
		return message{}, g.failed(p)
	}
}

func (g *Group) late(rank int) error {
	g.end(rank, fmt.Sprintf("did not arrive at %s within %v", g.kind, g.o.Timeout))
	return &collective.TimeoutError{Op: g.kind.String(), Rank: rank, After: g.o.Timeout}
}

// window waits until a rank has all but a few pieces of broadcasts.
func (g *Group) window(p *peer) error {
	const pieces = 8
	end := time.Now().Add(g.o.Timeout)
	for p.sent-p.acks.Load() >= pieces {
		g.timer.Reset(time.Until(end))
		select {
		case <-p.acked:
		case <-g.over:
			return g.failed(p)
		case <-p.gone:
			return g.failed(p)
		case <-g.timer.C:
			return g.late(p.rank)
		}
	}
	return nil
}

// done gives back the memory of messages that parts showed.
func (g *Group) done() {
	for i, m := range g.used {
		if m.payload != nil {
			g.peers[int(m.piece)].recycle(m.payload)
		}
		g.used[i] = message{}
	}
	g.used = g.used[:0]
}
