package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// A decoder of tokenizer.json maps a list of tokens to a list of strings. Here
// each is a transducer instead: it receives tokens one by one, as chunks, and
// passes chunks on. start and end mark the first and the last chunk of a token;
// most tokens are one chunk with both. A chunk sequence without end is one long
// token (what Fuse makes), so that later decoders see its borders.
type sink interface {
	chunk(s string, start, end bool)
	// close says that no token follows, and passes on what was held back.
	close()
}

// A decoder makes one transducer of a chain. It is shared; what it makes is not.
type decoder interface {
	attach(next sink) sink
}

// text collects what comes out of a chain.
type text struct{ buf []byte }

func (t *text) chunk(s string, _, _ bool) { t.buf = append(t.buf, s...) }
func (t *text) close()                    {}

// take returns and forgets the text collected so far.
func (t *text) take() string {
	s := string(t.buf)
	t.buf = t.buf[:0]
	return s
}

// joinSpace is what the reference does without a decoder: tokens separated by
// spaces.
type joinSpace struct{}

type spaceJoiner struct {
	next sink
	some bool
}

func (joinSpace) attach(next sink) sink { return &spaceJoiner{next: next} }

func (j *spaceJoiner) chunk(s string, start, end bool) {
	if start && j.some {
		s = " " + s
	}
	j.some = true
	j.next.chunk(s, start, end)
}

func (j *spaceJoiner) close() { j.next.close() }

// decodeBytes is ByteLevel: tokens spell bytes, and all bytes together are
// UTF-8. It makes one token.
type decodeBytes struct{}

type byteDecoder struct {
	next   sink
	opened bool
	held   []byte // an unfinished code point
}

func (decodeBytes) attach(next sink) sink { return &byteDecoder{next: next} }

func (d *byteDecoder) chunk(s string, _, _ bool) {
	d.held = appendSpelled(d.held, s)
	tail := incompleteTail(d.held)
	d.emit(d.held[:len(d.held)-tail], false)
	d.held = append(d.held[:0], d.held[len(d.held)-tail:]...)
}

func (d *byteDecoder) emit(b []byte, end bool) {
	if len(b) == 0 && !end {
		return
	}
	if !utf8.Valid(b) {
		b = appendLossy(nil, b)
	}
	d.next.chunk(string(b), !d.opened, end)
	d.opened = true
}

func (d *byteDecoder) close() {
	d.emit(d.held, true)
	d.held = nil
	d.next.close()
}

// decodeFallback is ByteFallback: a run of byte tokens is text if all of it is
// UTF-8, and one U+FFFD for each byte if not.
type decodeFallback struct{}

type fallbackDecoder struct {
	next sink
	run  []byte
}

func (decodeFallback) attach(next sink) sink { return &fallbackDecoder{next: next} }

func (d *fallbackDecoder) chunk(s string, start, end bool) {
	if start && end {
		if b, ok := byteToken(s); ok {
			d.run = append(d.run, b)
			return
		}
	}
	d.flush()
	d.next.chunk(s, start, end)
}

func (d *fallbackDecoder) flush() {
	switch {
	case len(d.run) == 0:
		return
	case utf8.Valid(d.run):
		d.next.chunk(string(d.run), true, true)
	default:
		for range d.run {
			d.next.chunk("\ufffd", true, true)
		}
	}
	d.run = d.run[:0]
}

func (d *fallbackDecoder) close() {
	d.flush()
	d.next.close()
}

// decodeFuse is Fuse: all tokens become one.
type decodeFuse struct{}

type fuser struct {
	next   sink
	opened bool
}

func (decodeFuse) attach(next sink) sink { return &fuser{next: next} }

func (f *fuser) chunk(s string, _, _ bool) {
	f.next.chunk(s, !f.opened, false)
	f.opened = true
}

func (f *fuser) close() {
	f.next.chunk("", !f.opened, true)
	f.next.close()
}

// decodeReplace is Replace with a literal pattern, within each token.
type decodeReplace struct{ old, new string }

type replacer struct {
	decodeReplace
	next  sink
	held  string // could begin an occurrence that the next chunk completes
	start bool   // held begins its token
}

func (r decodeReplace) attach(next sink) sink { return &replacer{decodeReplace: r, next: next} }

func (r *replacer) chunk(s string, start, end bool) {
	if r.held != "" {
		s, start = r.held+s, r.start
		r.held = ""
	}
	if !end {
		var replaced strings.Builder
		for {
			k := strings.Index(s, r.old)
			if k < 0 {
				break
			}
			replaced.WriteString(s[:k])
			replaced.WriteString(r.new)
			s = s[k+len(r.old):]
		}
		n := overlap(s, r.old)
		replaced.WriteString(s[:len(s)-n])
		r.held = s[len(s)-n:]
		out := replaced.String()
		if out == "" && r.held != "" {
			r.start = start
			return
		}
		r.start = false
		r.next.chunk(out, start, false)
		return
	}
	r.next.chunk(strings.ReplaceAll(s, r.old, r.new), start, true)
}

func (r *replacer) close() { r.next.close() }

// overlap is the length of the longest proper prefix of pattern that ends s.
func overlap(s, pattern string) int {
	for n := min(len(s), len(pattern)-1); n > 0; n-- {
		if strings.HasSuffix(s, pattern[:n]) {
			return n
		}
	}
	return 0
}

// decodeRegex is Replace with a regular expression. A match may reach to the
// end of its token, so each token is held until it is complete.
type decodeRegex struct{ replace normalizer }

type regexReplacer struct {
	decodeRegex
	next sink
	held strings.Builder
}

func (r decodeRegex) attach(next sink) sink { return &regexReplacer{decodeRegex: r, next: next} }

func (r *regexReplacer) chunk(s string, _, end bool) {
	r.held.WriteString(s)
	if end {
		r.next.chunk(r.replace(r.held.String()), true, true)
		r.held.Reset()
	}
}

func (r *regexReplacer) close() { r.next.close() }

// decodeMetaspace turns marks into spaces; in the first token, where encoding
// added one, they vanish.
type decodeMetaspace struct {
	mark      string
	dropFirst bool
}

type metaspacer struct {
	decodeMetaspace
	next sink
	past bool // the first token is over
}

func (m decodeMetaspace) attach(next sink) sink { return &metaspacer{decodeMetaspace: m, next: next} }

func (m *metaspacer) chunk(s string, start, end bool) {
	space := " "
	if m.dropFirst && !m.past {
		space = ""
	}
	m.past = m.past || end
	m.next.chunk(strings.ReplaceAll(s, m.mark, space), start, end)
}

func (m *metaspacer) close() { m.next.close() }

// decodeStrip cuts up to start leading and stop trailing occurrences of a
// character from each token.
type decodeStrip struct {
	content     string
	start, stop int
}

type stripper struct {
	decodeStrip
	next sink
	left int // leading ones that may still go
	held int // trailing ones seen, not yet passed on
}

func (d decodeStrip) attach(next sink) sink { return &stripper{decodeStrip: d, next: next} }

func (d *stripper) chunk(s string, start, end bool) {
	if start {
		d.left, d.held = d.start, 0
	}
	for d.left > 0 && strings.HasPrefix(s, d.content) {
		s = s[len(d.content):]
		d.left--
	}
	if s != "" {
		d.left = 0
	}
	if d.stop > 0 {
		s = d.holdTrailing(s, end)
	}
	d.next.chunk(s, start, end)
}

// holdTrailing keeps back what may be cut, and cuts it at the token's end.
func (d *stripper) holdTrailing(s string, end bool) string {
	body := s
	trailing := 0
	for strings.HasSuffix(body, d.content) {
		body = body[:len(body)-len(d.content)]
		trailing++
	}
	if body != "" {
		body = strings.Repeat(d.content, d.held) + body
		d.held = 0
	}
	d.held += trailing
	if end {
		body += strings.Repeat(d.content, max(0, d.held-d.stop))
		d.held = 0
	}
	return body
}

func (d *stripper) close() { d.next.close() }
