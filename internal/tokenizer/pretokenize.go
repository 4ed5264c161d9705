package tokenizer

import "strings"

// segment is a stretch of text on its way to the model.
type segment struct {
	text  string
	first bool // it begins where the input begins
}

// A splitter cuts a segment, appending the parts to dst. Parts may differ from
// the segment's text (a leading space is added, spaces are replaced).
type splitter interface {
	split(dst []segment, s segment) []segment
}

// behavior says what becomes of the matches when a text is split at them.
type behavior int

const (
	removed behavior = iota
	isolated
	mergedWithPrevious
	mergedWithNext
	contiguous
)

var behaviors = map[string]behavior{
	"Removed":            removed,
	"Isolated":           isolated,
	"MergedWithPrevious": mergedWithPrevious,
	"MergedWithNext":     mergedWithNext,
	"Contiguous":         contiguous,
}

// scanSplit cuts at every word of a scanner: the fast path.
type scanSplit struct{ scan scanner }

func (p scanSplit) split(dst []segment, s segment) []segment {
	text, first := s.text, s.first
	for len(text) > 0 {
		n := p.scan(text)
		dst = append(dst, segment{text[:n], first})
		first = false
		text = text[n:]
	}
	return dst
}

// matchSplit cuts at the matches of a pattern.
type matchSplit struct {
	match    matcher
	behavior behavior
	invert   bool // what lies between the matches counts as the match
}

// newMatchSplit picks the fast path where pattern and behaviour allow it.
func newMatchSplit(pattern string, b behavior, invert bool) (splitter, error) {
	if scan := scannerFor(pattern); scan != nil && (b == isolated || b == removed && invert) {
		return scanSplit{scan}, nil // the pattern matches everywhere: nothing lies between
	}
	m, err := matchRegex(pattern)
	if err != nil {
		return nil, err
	}
	return matchSplit{m, b, invert}, nil
}

// cut is a part of the text and whether it counts as a match.
type cut struct {
	span
	match bool
}

func (p matchSplit) split(dst []segment, s segment) []segment {
	var spanBuf [32]span
	var cutBuf [64]cut
	cuts := cutBuf[:0]
	last := 0
	for _, m := range p.match(spanBuf[:0], s.text) {
		if m.start > last {
			cuts = append(cuts, cut{span{last, m.start}, p.invert})
		}
		cuts = append(cuts, cut{m, !p.invert})
		last = m.end
	}
	if last < len(s.text) {
		cuts = append(cuts, cut{span{last, len(s.text)}, p.invert})
	}
	for _, c := range p.behavior.apply(cuts) {
		dst = append(dst, segment{s.text[c.start:c.end], s.first && c.start == 0})
	}
	return dst
}

// apply merges or drops cuts in place.
func (b behavior) apply(cuts []cut) []cut {
	switch b {
	case removed:
		kept := cuts[:0]
		for _, c := range cuts {
			if !c.match {
				kept = append(kept, c)
			}
		}
		return kept
	case mergedWithPrevious:
		return mergeCuts(cuts, func(c cut, before bool) bool { return c.match && !before })
	case contiguous:
		return mergeCuts(cuts, func(c cut, before bool) bool { return c.match == before })
	case mergedWithNext:
		return mergeIntoNext(cuts)
	}
	return cuts
}

// mergeCuts joins a cut to the one before it where join says so; before is
// whether the cut before was a match.
func mergeCuts(cuts []cut, join func(c cut, before bool) bool) []cut {
	kept := cuts[:0]
	before := false
	for _, c := range cuts {
		if join(c, before) && len(kept) > 0 {
			kept[len(kept)-1].end = c.end
		} else {
			kept = append(kept, c)
		}
		before = c.match
	}
	return kept
}

// mergeIntoNext joins a match to what follows it; of several matches in a row
// only the last has something to join.
func mergeIntoNext(cuts []cut) []cut {
	to := len(cuts)
	after := false
	for i := len(cuts) - 1; i >= 0; i-- {
		c := cuts[i]
		if c.match && !after && to < len(cuts) {
			cuts[to].start = c.start
		} else {
			to--
			cuts[to] = c
		}
		after = c.match
	}
	return cuts[to:]
}

// prefixSpace puts a space before a segment that does not begin with one
// (ByteLevel's add_prefix_space).
type prefixSpace struct{}

func (prefixSpace) split(dst []segment, s segment) []segment {
	if !strings.HasPrefix(s.text, " ") {
		s.text = " " + s.text
	}
	return append(dst, s)
}

// spellBytes writes each byte as its printable code point: ByteLevel in the
// middle of a sequence, where later steps must see the spelling. At the end
// of a sequence the model does it, without a copy.
type spellBytes struct{}

func (spellBytes) split(dst []segment, s segment) []segment {
	var b strings.Builder
	for i := 0; i < len(s.text); i++ {
		b.WriteRune(runeOfByte[s.text[i]])
	}
	return append(dst, segment{b.String(), s.first})
}

// prependScheme says where Metaspace adds its mark.
type prependScheme int

const (
	prependAlways prependScheme = iota
	prependFirst                // only at the start of the input
	prependNever
)

var prependSchemes = map[string]prependScheme{
	"always": prependAlways, "first": prependFirst, "never": prependNever,
}

// metaspace marks spaces as SentencePiece does, and may cut before each mark.
type metaspace struct {
	mark   string // "▁"
	scheme prependScheme
	cut    bool
}

func (p metaspace) split(dst []segment, s segment) []segment {
	text := strings.ReplaceAll(s.text, " ", p.mark)
	add := p.scheme == prependAlways || p.scheme == prependFirst && s.first
	if add && !strings.HasPrefix(text, p.mark) {
		text = p.mark + text
	}
	if !p.cut {
		return append(dst, segment{text, s.first})
	}
	start := 0
	for i := len(p.mark); i < len(text); {
		k := strings.Index(text[i:], p.mark)
		if k < 0 {
			break
		}
		if k += i; k > start {
			dst = append(dst, segment{text[start:k], false})
			start = k
		}
		i = k + len(p.mark)
	}
	if start < len(text) {
		dst = append(dst, segment{text[start:], false})
	}
	return dst
}
