package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// errSilent marks a worker group that neither takes an adapter nor refuses it.
var errSilent = errors.New("it has not acknowledged the adapter")

// silence is errSilent with how long it was waited for.
func (m *Manager) silence() error {
	return fmt.Errorf("%w for %v; it is asked again", errSilent, m.o.AckTimeout)
}

// isSilent tells whether nothing has come of the group since begun for longer
// than it may take. m.mu is held.
func (g *group) isSilent(begun time.Time) bool {
	if g.moved.After(begun) {
		begun = g.moved
	}
	return time.Since(begun) >= g.m.o.AckTimeout
}

// moves notes that the group takes part.
func (g *group) moves() {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.moved = time.Now()
}

// watch ends a push, or a drop that aborts sequences, when the group has said
// nothing for AckTimeout; heard puts that off. A drop that does not abort them
// lasts as long as they do.
func (g *group) watch(o *op, end context.CancelCauseFunc) (heard, stop func()) {
	if !o.push && !o.force {
		return func() {}, func() {}
	}
	t := time.AfterFunc(g.m.o.AckTimeout, func() { end(g.m.silence()) })
	return func() {
		t.Reset(g.m.o.AckTimeout)
		g.moves()
	}, func() { t.Stop() }
}

// awaitDrop waits until done, which is called with mu held: until no group has
// the digests any more. Groups that do not let go although their sequences were
// aborted (force, or drain is over) are named after AckTimeout, and go on being
// asked.
func (m *Manager) awaitDrop(ctx context.Context, force bool, drain time.Duration, digests []string, done func() bool) error {
	late := false
	var limit time.Time // monotonic, zero for none
	if force || drain > 0 {
		if force {
			drain = 0
		}
		limit = time.Now().Add(drain + m.o.AckTimeout)
	}
	tick := time.NewTicker(m.ackTick())
	defer tick.Stop()
	err := m.awaitTick(ctx, 0, tick.C, func() (bool, bool) {
		if done() {
			late = false
			return true, true
		}
		late = !limit.IsZero() && !time.Now().Before(limit)
		return late, true
	})
	if err == nil && !late {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var holders []string
	for _, g := range m.groups {
		if slices.ContainsFunc(digests, func(d string) bool { _, held := g.held[d]; return held }) {
			holders = append(holders, g.w.Address())
		}
	}
	on := strings.Join(holders, ", ")
	switch {
	case late:
		return fmt.Errorf("%w: new requests are refused, but %s has not let go of it within %v; it is asked again", ErrUnavailable, on, m.o.AckTimeout)
	case len(holders) > 0 && ctx.Err() != nil:
		return fmt.Errorf("%w; new requests are refused, and it leaves %s when its sequences have ended", err, on)
	}
	return err
}

// ackTick is how often waits look at how long groups have been silent.
func (m *Manager) ackTick() time.Duration { return max(m.o.AckTimeout/8, time.Millisecond) }
