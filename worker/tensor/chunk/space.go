package chunk

import (
	"fmt"

	"chorale/worker/tensor"
)

// Space is a run of addresses in which groups of chunks come and go: a paged
// cache.
type Space struct {
	p      *Pool
	at     uintptr
	per    int // chunks of a group
	groups []spaceGroup
}

type spaceGroup struct {
	hs []Handle // nil when the group is not there
	// going is true while the group waits to be unmapped.
	going bool
}

// NewSpace reserves addresses for groups groups of per chunks. None is there
// before Grow brings it.
func (p *Pool) NewSpace(groups, per int) (*Space, error) {
	if groups <= 0 || per <= 0 {
		return nil, fmt.Errorf("space of %d groups of %d chunks: %w", groups, per, tensor.ErrShape)
	}
	at, err := p.d.Reserve(groups * per)
	if err != nil {
		return nil, fmt.Errorf("addresses for %d groups of %d chunks: %w", groups, per, err)
	}
	return &Space{p: p, at: at, per: per, groups: make([]spaceGroup, groups)}, nil
}

// Address is where group 0 begins; group g begins g*per chunks later.
func (s *Space) Address() uintptr { return s.at }

func (s *Space) address(g int32) uintptr {
	return s.at + uintptr(g)*uintptr(s.per)*uintptr(s.p.d.ChunkBytes())
}

// Grow brings groups, full of zeros. It may wait for chunks that were given
// back. When it fails, none of them is there.
func (s *Space) Grow(groups []int32) error {
	if err := s.vacant(groups); err != nil {
		return err
	}
	hs, err := s.p.take(len(groups) * s.per)
	if err != nil {
		return fmt.Errorf("%d groups of the cache: %w", len(groups), err)
	}
	for from := 0; from < len(groups); {
		to := run(groups, from)
		if err = s.enter(groups[from:to], hs[from*s.per:to*s.per]); err != nil {
			s.Shrink(groups[:from])
			s.p.put(hs[from*s.per:])
			return fmt.Errorf("%d groups of the cache: %w", len(groups), err)
		}
		from = to
	}
	return nil
}

// run finds the end of the consecutive groups that begin at from.
func run(groups []int32, from int) int {
	to := from + 1
	for to < len(groups) && groups[to] == groups[to-1]+1 {
		to++
	}
	return to
}

// vacant waits until groups that were given back are unmapped.
func (s *Space) vacant(groups []int32) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for _, g := range groups {
		if g < 0 || int(g) >= len(s.groups) {
			return fmt.Errorf("group %d of %d: %w", g, len(s.groups), tensor.ErrShape)
		}
		for s.groups[g].going && s.p.failed == nil {
			s.p.changed.Wait()
		}
		if s.p.failed != nil {
			return s.p.failed
		}
		if s.groups[g].hs != nil {
			return fmt.Errorf("group %d is there already: %w", g, tensor.ErrShape)
		}
	}
	return nil
}

// enter maps and clears consecutive groups.
func (s *Space) enter(groups []int32, hs []Handle) error {
	at := s.address(groups[0])
	if err := s.p.d.Map(at, hs); err != nil {
		return err
	}
	if err := s.p.d.Clear(at, len(hs)); err != nil {
		_ = s.p.d.Unmap(at, len(hs)) // Clear's error is the cause
		return err
	}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for i, g := range groups {
		s.groups[g].hs = hs[i*s.per : (i+1)*s.per]
	}
	return nil
}

// Shrink gives groups back; those that are not there do not matter. It returns
// at once.
func (s *Space) Shrink(groups []int32) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	var there []int32
	for _, g := range groups {
		if e := &s.groups[g]; e.hs != nil && !e.going {
			e.going = true
			there = append(there, g)
		}
	}
	for from := 0; from < len(there); {
		to := run(there, from)
		gone := there[from:to]
		var hs []Handle
		for _, g := range gone {
			hs = append(hs, s.groups[g].hs...)
		}
		s.p.give(giveBack{at: s.address(gone[0]), hs: hs, done: func() { s.left(gone) }})
		from = to
	}
}

// left notes that groups are unmapped. The caller holds the pool's lock.
func (s *Space) left(groups []int32) {
	for _, g := range groups {
		s.groups[g] = spaceGroup{}
	}
}

// Free gives everything back. It waits for what is being unmapped.
func (s *Space) Free() error {
	all := make([]int32, len(s.groups))
	for g := range all {
		all[g] = int32(g)
	}
	s.Shrink(all)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for s.p.working {
		s.p.changed.Wait()
	}
	if s.p.failed != nil {
		return s.p.failed
	}
	n := len(s.groups) * s.per
	s.groups = nil
	return s.p.d.Unreserve(s.at, n)
}
