package sched

import "slices"

// Upcoming names the adapters of the sequences that wait, those first whose turn
// comes first, each once and at most n.
func (s *Scheduler) Upcoming(n int) []string {
	var out []string
	for _, q := range s.waiting {
		if len(out) == n {
			break
		}
		if q.Adapter != "" && !slices.Contains(out, q.Adapter) {
			out = append(out, q.Adapter)
		}
	}
	return out
}
