package peft

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/dlclark/regexp2/v2"
)

// Time limits of the backtracking engine, for one name and for all names of
// one call.
const (
	slowMatch  = 100 * time.Millisecond
	slowBudget = 2 * time.Second
)

// pattern is a Python regular expression in the engine that can run it.
type pattern struct {
	source  string
	literal string          // plain name with '.' as wildcard: no engine needed
	fast    *regexp.Regexp  // linear time
	slow    *regexp2.Regexp // look-around, back-references
}

// compilePattern compiles source as it stands inside prefix and suffix, all
// anchored at the start of a name. Splicing text, not syntax trees, is what
// PEFT does, so an alternation in source reaches into prefix and suffix.
func compilePattern(field, prefix, source, suffix string) (pattern, error) {
	p := pattern{source: source}
	if len(source) > maxRegexp {
		return p, fmt.Errorf("%w: %s: expression of %d bytes, at most %d", ErrConfig, field, len(source), maxRegexp)
	}
	own := pythonToGo(source)
	whole := `\A(?:` + prefix + own + suffix + `)`
	var err error
	if _, err = regexp.Compile(own); err == nil {
		if p.fast, err = regexp.Compile(whole); err == nil {
			return p, nil
		}
	}
	own = strings.ReplaceAll(own, "(?P<", "(?<")
	whole = `\A(?:` + prefix + own + suffix + `)`
	if _, err = regexp2.Compile(own); err == nil {
		p.slow, err = regexp2.Compile(whole)
	}
	if err != nil {
		return p, fmt.Errorf("%w: %s: bad regular expression %s: %v", ErrConfig, field, quote(source), err)
	}
	p.slow.MatchTimeout = slowMatch
	return p, nil
}

// pythonToGo rewrites the one construct that both engines would read
// differently from Python without complaint: {,n} means {0,n}.
func pythonToGo(source string) string {
	if !strings.Contains(source, "{,") {
		return source
	}
	var b strings.Builder
	for i := 0; i < len(source); i++ {
		b.WriteByte(source[i])
		switch {
		case source[i] == '\\' && i+1 < len(source):
			i++
			b.WriteByte(source[i])
		case source[i] == '{' && i+1 < len(source) && source[i+1] == ',':
			b.WriteByte('0')
		}
	}
	return b.String()
}

// isLiteral reports whether a rule's key is a plain name, in which only '.'
// has a meaning (any character).
func isLiteral(key string) bool {
	for _, c := range []byte(key) {
		if !(c == '.' || c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return true
}

// budget is the time that backtracking may still take.
type budget struct{ left time.Duration }

// match reports whether p matches name from its start, and the text of the
// group "idx" if p has one.
func (p pattern) match(name string, b *budget) (idx string, ok bool, err error) {
	switch {
	case p.literal != "":
		return "", matchLiteral(p.literal, name), nil
	case p.fast != nil:
		m := p.fast.FindStringSubmatch(name)
		if i := p.fast.SubexpIndex("idx"); m != nil && i >= 0 {
			idx = m[i]
		}
		return idx, m != nil, nil
	}
	start := time.Now()
	m, err := p.slow.FindStringMatch(name)
	b.left -= time.Since(start)
	if err != nil || b.left < 0 {
		return "", false, fmt.Errorf("%w: regular expression %s takes too long", ErrConfig, quote(p.source))
	}
	if m == nil {
		return "", false, nil
	}
	if g := m.GroupByName("idx"); g != nil {
		idx = g.String()
	}
	return idx, true, nil
}

// matchLiteral is (.*\.)?(key)$ for a literal key.
func matchLiteral(key, name string) bool {
	at := len(name) - len(key)
	if at < 0 || (at > 0 && name[at-1] != '.') {
		return false
	}
	for i := range len(key) {
		if key[i] != '.' && key[i] != name[at+i] {
			return false
		}
	}
	return true
}
