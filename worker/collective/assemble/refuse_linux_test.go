package assemble_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"chorale/worker/collective"
	"chorale/worker/collective/assemble"
	"chorale/worker/collective/conformance"
	"chorale/worker/collective/rendezvous"
)

func config(rank int) assemble.Config {
	return assemble.Config{Rank: rank, Session: rendezvous.Session{Size: 2, Nonce: "n", Digest: "d"}, Options: conformance.Patient, Message: []byte("an id")}
}

// TestTeam: a leader's message comes along, other settings do not, and an end
// that closes ends the other's.
func TestTeam(t *testing.T) {
	for name, address := range places() {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			l, err := rendezvous.Listen(address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			lead := make(chan *assemble.Team, 1)
			go func() {
				team, err := assemble.Lead(ctx, l, config(0))
				if err != nil {
					t.Error(err)
				}
				lead <- team
			}()
			other := config(1)
			other.Options.PlanBytes = 1 << 20
			if _, err := assemble.Follow(ctx, l.Address(), other); !errors.Is(err, rendezvous.ErrDigest) {
				t.Errorf("another plan ring: %v", err)
			}
			b, err := assemble.Follow(ctx, l.Address(), config(1))
			if err != nil {
				t.Fatal(err)
			}
			a := <-lead
			if string(a.Message) != "an id" || string(b.Message) != "an id" {
				t.Errorf("messages %q, %q", a.Message, b.Message)
			}
			for rank, err := range conformance.Each([]collective.Member{a, b}, func(m collective.Member) error { return m.Barrier() }) {
				if err != nil {
					t.Errorf("rank %d: %v", rank, err)
				}
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			var e *collective.AbortError
			if _, err := b.Next(nil); !errors.As(err, &e) || e.Rank != 0 {
				t.Errorf("the other: %v", err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			if _, err := assemble.Follow(ctx, l.Address(), config(1)); !errors.Is(err, rendezvous.ErrLate) {
				t.Errorf("after the meeting: %v", err)
			}
		})
	}
}

// TestMissing: a leader alone says who did not come, and leaves nothing behind.
func TestMissing(t *testing.T) {
	for name, address := range places() {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			l, err := rendezvous.Listen(address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var m *rendezvous.MissingError
			if _, err := assemble.Lead(ctx, l, config(0)); !errors.As(err, &m) || len(m.Ranks) != 1 || m.Ranks[0] != 1 {
				t.Error(err)
			}
			if _, err := assemble.Lead(ctx, l, config(1)); !errors.Is(err, collective.ErrRole) {
				t.Error(err)
			}
		})
	}
}
