package router

import (
	"maps"
	"slices"
	"sync"
)

// preload remembers which groups have had which adapters on their devices: what was
// there once may have made room for others since.
type preload struct {
	mu sync.Mutex
	// over tells that all was there once.
	over bool
	seen map[string]map[string]bool // by group, digests
}

// missing names an adapter of Config.Preload that a usable group has not had on its
// device yet. Once it was empty it stays so: groups that come later get theirs
// beside the requests. While nothing is known of an adapter it is missing.
func (r *Router) missing() string {
	if len(r.cfg.Preload) == 0 {
		return ""
	}
	p := &r.preload
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return ""
	}
	if p.seen == nil {
		p.seen = map[string]map[string]bool{}
	}
	groups := 0
	wanted, missing := r.preloads()
	for _, g := range r.state.Load().Groups {
		if !g.Usable() {
			continue
		}
		groups++
		if p.seen[g.Address] == nil {
			p.seen[g.Address] = map[string]bool{}
		}
		for _, d := range g.Status.Resident {
			p.seen[g.Address][d] = true
		}
		for _, e := range wanted {
			if missing == "" && !p.seen[g.Address][e.Digest] {
				missing = e.Name
			}
		}
	}
	p.over = missing == "" && groups > 0 && r.told.Load()
	if missing == "" && !p.over {
		missing = r.cfg.Preload[0]
	}
	return missing
}

// preloads are the entries of Config.Preload; unknown is a name that has none.
func (r *Router) preloads() (wanted []*AdapterEntry, unknown string) {
	cat := r.Catalogue()
	for _, w := range r.cfg.Preload {
		if w != "all" && w != "pinned" {
			if e := cat.Find(w); e != nil {
				wanted = append(wanted, e)
			} else if unknown == "" {
				unknown = w
			}
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(cat.Adapters)) {
			if e := cat.Adapters[name]; (w == "all" || e.Pinned) && (e.Usable || e.Loading) {
				wanted = append(wanted, e)
			}
		}
	}
	return wanted, unknown
}
