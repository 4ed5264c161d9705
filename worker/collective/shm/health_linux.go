package shm

import (
	"fmt"
	"time"
)

// beats is how often a rank shows life within Options.Stall.
const beats = 10

// watch shows this rank's life and looks for that of the others.
//
// It counts its own looks, not time: who was stopped itself, or starved by a
// busy machine, has looked as seldom as it has beaten.
func (g *Group) watch() {
	defer g.health.Done()
	every := time.NewTicker(max(g.o.Stall/beats, time.Millisecond))
	defer every.Stop()
	type view struct {
		beat  uint64
		still int
	}
	seen := make([]view, g.n)
	mine := g.s.word(g.s.of(g.rank, atBeat))
	for {
		mine.Add(1)
		for q := range seen {
			beat := g.s.word(g.s.of(q, atBeat)).Load()
			switch v := &seen[q]; {
			case q == g.rank || beat == 0: // not here yet
			case beat != v.beat:
				*v = view{beat, 0}
			default:
				if v.still++; v.still >= beats {
					g.s.end(q, fmt.Sprintf("has shown no life for %v", g.o.Stall))
				}
			}
		}
		select {
		case <-g.stop:
			return
		case <-every.C:
		}
	}
}
