package lora

import (
	"fmt"
	"slices"
)

// preload brings adapters onto the device before anybody asks for them.
type preload struct {
	// missing have not come yet; all of them stay on the device until none is.
	missing map[string]struct{}
	all     []*entry
	err     error
	done    func(error)
}

// Preload brings adapters of host memory onto the device together and calls
// done when all have come, or with the first error. Until then none of them
// makes room for another one that is fetched ahead; then they are like any. What
// could not be there at once beside the pinned ones is ErrTogether.
func (s *Store) Preload(digests []string, done func(error)) {
	p := &preload{missing: map[string]struct{}{}, done: done}
	for _, d := range digests {
		if !s.Has(d) {
			done(fmt.Errorf("%w: %s", ErrNotLoaded, d))
			return
		}
		e := s.entries[d]
		if e.failed != nil {
			done(e.failed)
			return
		}
		if slices.Contains(p.all, e) {
			continue
		}
		p.all = append(p.all, e)
		if e.packed == nil {
			p.missing[d] = struct{}{}
		}
	}
	if err := s.together(p.all); err != nil {
		done(err)
		return
	}
	for _, e := range p.all {
		e.early++
	}
	s.stale()
	s.preloads = append(s.preloads, p)
	s.finish()
	s.Ahead(nil)
}

// together checks that adapters can be on the device at once, beside those that
// never leave it and those of other preloads.
func (s *Store) together(all []*entry) error {
	places, chunks := 0, 0
	for _, e := range s.entries {
		if !e.Pinned && e.early == 0 && !slices.Contains(all, e) {
			continue
		}
		places++
		if s.room != nil {
			chunks += s.room.Chunks(e.Device)
		}
	}
	if s.capacity > 0 && places > s.capacity {
		return fmt.Errorf("%w: %d are preloaded or pinned, and there are %d places", ErrTogether, places, s.capacity)
	}
	if s.room == nil {
		return nil
	}
	// What remains is asked for by an adapter that takes nothing.
	if err := s.room.Fits(0, chunks); err != nil {
		return fmt.Errorf("%w: %d are preloaded or pinned: %w", ErrTogether, places, err)
	}
	return nil
}

// Hint names adapters of sequences that have not come yet, those first whose turn
// comes first, instead of those that were named before. Until the next Hint they
// make no room for what is fetched ahead of need. What is not in host memory is
// passed over.
func (s *Store) Hint(digests []string) {
	for _, e := range s.hints {
		e.hinted = false
	}
	s.hints = nil
	for _, d := range digests {
		if e, ok := s.entries[d]; ok && !e.hinted {
			e.hinted = true
			s.hints = append(s.hints, e)
		}
	}
	s.stale()
}

// Ahead is called between steps with adapters of waiting sequences, those first
// that come first: what is not on the device yet is fetched as Prefetch does it,
// then what Hint named, and then what is missing of preloads.
func (s *Store) Ahead(waiting []string) {
	for _, d := range waiting {
		s.Prefetch(d)
	}
	for _, e := range s.hints {
		s.Prefetch(e.Host.Digest)
	}
	for _, p := range s.preloads {
		// Others may have been pinned since.
		p.err = s.together(p.all)
		for _, e := range p.all {
			if _, missing := p.missing[e.Host.Digest]; missing {
				s.Prefetch(e.Host.Digest)
			}
		}
	}
	s.finish()
}

// preloaded notes in the preloads that an adapter has come, or never will.
func (s *Store) preloaded(e *entry, err error) {
	if e.early == 0 {
		return
	}
	for _, p := range s.preloads {
		if _, missing := p.missing[e.Host.Digest]; !missing {
			continue
		}
		delete(p.missing, e.Host.Digest)
		if p.err == nil {
			p.err = err
		}
	}
	s.finish()
}

// finish ends the preloads that miss nothing, or fail.
func (s *Store) finish() {
	if len(s.preloads) == 0 {
		return
	}
	var over []*preload
	s.preloads = slices.DeleteFunc(s.preloads, func(p *preload) bool {
		if len(p.missing) > 0 && p.err == nil {
			return false
		}
		for _, e := range p.all {
			e.early--
		}
		over = append(over, p)
		return true
	})
	if len(over) > 0 {
		s.stale()
	}
	for _, p := range over {
		p.done(p.err)
	}
}
