package tokenizer

import (
	"slices"
	"strings"
)

// StopOptions say where a text ends.
type StopOptions struct {
	// Strings end the text where one of them begins.
	Strings []string
	// Regexes end the text where a match of one of them begins. The syntax is
	// that of package regexp (RE2), so matching takes linear time.
	Regexes []string
	// Keep leaves the matched stop in the text (SGLang's no_stop_trim).
	Keep bool
}

// StopMatcher finds the first stop in a text that arrives in deltas. Text that
// could begin a stop is held back, so that no part of a stop is ever emitted
// (unless Keep says so).
//
// Of several stop strings, the one that begins first in the whole text wins,
// of those that begin at the same place the one listed first, however the text
// is cut into deltas. A regular expression matches as soon as any match ends,
// from the earliest place where a match ending there can begin; an empty match
// counts for nothing. A StopMatcher belongs to one goroutine.
type StopMatcher struct {
	stops   []string
	first   [256]bool // bytes that begin a stop string
	regexes []*stopRegex
	keep    bool
	held    string // not yet emitted
	offset  int    // of held in the text
	matched string
	done    bool
}

// NewStopMatcher prepares a matcher. Empty stop strings are ignored; the error
// is ErrStop for a regular expression that does not compile or is too large.
func NewStopMatcher(o StopOptions) (*StopMatcher, error) {
	m := &StopMatcher{keep: o.Keep}
	for _, s := range o.Strings {
		if s != "" && !slices.Contains(m.stops, s) {
			m.stops = append(m.stops, s)
			m.first[s[0]] = true
		}
	}
	for _, pattern := range o.Regexes {
		re, err := newStopRegex(pattern)
		if err != nil {
			return nil, err
		}
		m.regexes = append(m.regexes, re)
	}
	return m, nil
}

// Push adds a delta. It returns the text that is certain to precede any stop
// and, once done, the stop that was found: text after it is lost, and further
// pushes return nothing.
func (m *StopMatcher) Push(delta string) (emit, matched string, done bool) {
	if m.done {
		return "", m.matched, true
	}
	from := len(m.held)
	m.held += delta
	if hit, ok := m.scanRegexes(from, false); ok {
		return m.resolve(hit)
	}
	hold, hit, ok := m.scanStrings(len(m.held), false)
	if ok {
		return m.finish(hit)
	}
	for _, re := range m.regexes {
		hold = min(hold, re.oldest(m.offset+len(m.held), maxRegexHold)-m.offset)
	}
	emit = m.held[:hold]
	// Cloned: what is held must not keep all deltas before it alive.
	m.held = strings.Clone(m.held[hold:])
	m.offset += hold
	return emit, "", false
}

// Flush ends the text and returns what was held back. A stop may come to light
// only now (of "ab" and "b", "a" was waiting for an earlier stop): Matched
// tells.
func (m *StopMatcher) Flush() string {
	if m.done {
		return ""
	}
	if hit, ok := m.scanRegexes(len(m.held), true); ok {
		emit, _, _ := m.resolve(hit)
		return emit
	}
	if _, hit, ok := m.scanStrings(len(m.held), true); ok {
		emit, _, _ := m.finish(hit)
		return emit
	}
	emit := m.held
	m.offset += len(emit)
	m.held = ""
	return emit
}

// Matched returns the stop that ended the text, and whether one did.
func (m *StopMatcher) Matched() (string, bool) { return m.matched, m.done }

// stopHit is a stop found in held.
type stopHit struct {
	span
	stop string // as listed for a string, the matched text for an expression
}

// scanStrings looks for the first stop string within held[:limit]. Without
// one, hold is where a stop may begin that is not complete yet. final says
// that nothing follows.
func (m *StopMatcher) scanStrings(limit int, final bool) (hold int, hit stopHit, ok bool) {
	text := m.held[:limit]
	for i := 0; i < len(text); i++ {
		if !m.first[text[i]] {
			continue
		}
		for _, s := range m.stops {
			if strings.HasPrefix(text[i:], s) {
				return i, stopHit{span{i, i + len(s)}, s}, true
			}
			if !final && strings.HasPrefix(s, text[i:]) {
				return i, stopHit{}, false // s would win here, or begin first
			}
		}
	}
	return limit, stopHit{}, false
}

// scanRegexes feeds held[from:] to the expressions, in step, up to the first
// match.
func (m *StopMatcher) scanRegexes(from int, final bool) (stopHit, bool) {
	if len(m.regexes) == 0 {
		return stopHit{}, false
	}
	for i, r := range m.held[from:] {
		at := from + i
		end := at + runeLen(m.held[at:], r)
		if hit, ok := m.stepRegexes(r, at, end); ok {
			return hit, true
		}
	}
	if !final {
		return stopHit{}, false
	}
	return m.stepRegexes(-1, len(m.held), len(m.held))
}

// stepRegexes shows the expressions the code point r at [at, end), or the end
// of the text for -1. Of matches that end together the longest counts.
func (m *StopMatcher) stepRegexes(r rune, at, end int) (best stopHit, ok bool) {
	for _, re := range m.regexes {
		start, stop, found := re.step(r, m.offset+at, m.offset+end)
		if !found {
			continue
		}
		start, stop = max(0, start-m.offset), stop-m.offset
		if !ok || stop < best.end || stop == best.end && start < best.start {
			best, ok = stopHit{span{start, stop}, m.held[start:stop]}, true
		}
	}
	return best, ok
}

// resolve decides between an expression's match and stop strings that were
// found, or were being waited for, when it ended.
func (m *StopMatcher) resolve(hit stopHit) (emit, matched string, done bool) {
	if _, s, ok := m.scanStrings(hit.end, false); ok {
		return m.finish(s)
	}
	if _, s, ok := m.scanStrings(hit.end, true); ok && s.start <= hit.start {
		return m.finish(s)
	}
	return m.finish(hit)
}

func (m *StopMatcher) finish(hit stopHit) (emit, matched string, done bool) {
	m.done, m.matched = true, hit.stop
	end := hit.start
	if m.keep {
		end = hit.end
	}
	emit = m.held[:end]
	m.held = ""
	return emit, m.matched, true
}
