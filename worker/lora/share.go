package lora

import (
	"fmt"
	"slices"

	"chorale/worker/memory"
)

// Room is the device memory that adapters share with the cache (memory.Pool).
type Room interface {
	// Step is the scheduler's, by which both sides tell what was used when.
	Step() uint64
	// Chunks is how much an adapter of bytes takes.
	Chunks(bytes int64) int
	// Fits tells whether it ever could, beside chunks that are pinned.
	Fits(bytes int64, pinned int) error
	// Could tells whether Adapter would succeed, which takes chunks and makes
	// room for them, with Evict if need be. Return gives them back.
	Could(chunks int, ahead bool) bool
	Adapter(chunks int, ahead bool) bool
	Return(chunks int)
}

// sharing is the store's side of a shared memory.
type sharing struct {
	room Room // nil: only capacity counts
	// idleChunks are the chunks of idle adapters, without and with those that are
	// awaited, while known is true.
	idleChunks [2]int
	known      bool
}

var _ memory.Adapters = (*Store)(nil)

// Share makes the store take device memory of a room. It precedes Add.
func (s *Store) Share(r Room) { s.room = r }

// stale forgets what is known of the idle ones.
func (s *sharing) stale() { s.known = false }

// IdleChunks adds up the chunks of the adapters that Idle would list.
func (s *Store) IdleChunks(awaited bool) int {
	if !s.known {
		s.idleChunks = [2]int{}
		for e := range s.device {
			if e.idle(true) {
				s.idleChunks[0] += e.chunks
			}
			if e.idle(false) {
				s.idleChunks[1] += e.chunks
			}
		}
		s.known = true
	}
	if awaited {
		return s.idleChunks[1]
	}
	return s.idleChunks[0]
}

// Idle lists the adapters that may be put out, in that order.
func (s *Store) Idle() []memory.Idle {
	var idle []*entry
	for e := range s.device {
		if e.idle(false) {
			idle = append(idle, e)
		}
	}
	slices.SortFunc(idle, func(a, b *entry) int {
		if s.sooner(a, b) {
			return -1
		}
		return 1
	})
	out := make([]memory.Idle, len(idle))
	for i, e := range idle {
		out[i] = memory.Idle{Digest: e.Digest, Chunks: e.chunks, Used: e.usedAt, Arrived: e.arrived, Awaited: e.claim() == awaited, Hinted: e.claim() == hinted}
	}
	return out
}

// Evict puts an idle adapter out.
func (s *Store) Evict(digest string) { s.putOut(s.entries[digest]) }

// makeRoom gets a place and memory for an adapter. Nothing is put out unless
// both can be had.
func (s *Store) makeRoom(e *entry, ahead bool) bool {
	n := 0
	if s.room != nil {
		if n = s.room.Chunks(e.Device); !s.room.Could(n, ahead) {
			return false
		}
	}
	if s.capacity > 0 && len(s.device) >= s.capacity && !s.evict(ahead) {
		return false
	}
	if s.room != nil && !s.room.Adapter(n, ahead) {
		return false
	}
	e.chunks = n
	s.stale()
	return true
}

// giveRoom gives an adapter's memory back.
func (s *Store) giveRoom(e *entry) {
	s.stale()
	if s.room != nil {
		s.room.Return(e.chunks)
	}
	e.chunks = 0
}

// fit checks that an adapter, and every other one beside it, could come onto the
// device once nothing runs: what is pinned never leaves.
func (s *Store) fit(digest string, bytes int64, pin bool) error {
	if s.room == nil {
		return nil
	}
	pinned, places, others, largest := 0, 0, 0, int64(0) // of all but this one
	for _, e := range s.entries {
		switch {
		case e.Digest == digest:
		case e.Pinned:
			places++
			pinned += s.room.Chunks(e.Device)
		default:
			others++
			largest = max(largest, e.Device)
		}
	}
	if pin {
		places++
	} else {
		others++
	}
	if s.capacity > 0 && places >= s.capacity && others > 0 {
		return fmt.Errorf("%w: all %d places on the device would be pinned, a starvation of the others", memory.ErrTooLarge, s.capacity)
	}
	if err := s.room.Fits(bytes, pinned); err != nil || !pin || others == 0 {
		return err
	}
	if err := s.room.Fits(largest, pinned+s.room.Chunks(bytes)); err != nil {
		return fmt.Errorf("pinned, it would keep another adapter out: %w", err)
	}
	return nil
}
