package safetensors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
)

// maxDepth bounds the nesting of values that a header may carry in fields
// which this package does not know and skips.
const maxDepth = 32

// scanner reads JSON in order, without building a tree. encoding/json keeps
// the last of two equal keys silently; here the caller sees every key and can
// refuse duplicates, and integers never pass through a float.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) errorf(format string, args ...any) error {
	return fmt.Errorf("%w: JSON byte %d: %s", ErrFormat, s.i, fmt.Sprintf(format, args...))
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for ; s.i < len(s.b); s.i++ {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
		default:
			return s.b[s.i]
		}
	}
	return 0
}

// expect consumes c, the next byte after white space.
func (s *scanner) expect(c byte) error {
	got := s.peek()
	if s.i >= len(s.b) {
		return s.errorf("ends where %q belongs", c)
	}
	if got != c {
		return s.errorf("%q where %q belongs", got, c)
	}
	s.i++
	return nil
}

// end checks that only white space is left.
func (s *scanner) end() error {
	if s.peek(); s.i < len(s.b) {
		return s.errorf("text after the value")
	}
	return nil
}

// object calls fn for each key, with the scanner standing before its value.
// The key aliases the input unless it holds escapes.
func (s *scanner) object(fn func(key []byte) error) error {
	return s.list('{', '}', func() error {
		key, err := s.str()
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		return fn(key)
	})
}

// array calls fn for each element, with the scanner standing before it.
func (s *scanner) array(fn func() error) error { return s.list('[', ']', fn) }

func (s *scanner) list(opening, closing byte, fn func() error) error {
	if err := s.expect(opening); err != nil {
		return err
	}
	if s.peek() == closing {
		s.i++
		return nil
	}
	for {
		if err := fn(); err != nil {
			return err
		}
		if s.peek() != ',' {
			return s.expect(closing)
		}
		s.i++
	}
}

// str reads a string. The result aliases the input unless it holds escapes.
func (s *scanner) str() ([]byte, error) {
	if err := s.expect('"'); err != nil {
		return nil, err
	}
	start, escaped := s.i, false
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			raw := s.b[start:s.i]
			s.i++
			if !escaped {
				return raw, nil
			}
			var v string
			if err := json.Unmarshal(s.b[start-1:s.i], &v); err != nil {
				return nil, s.errorf("string: %v", err)
			}
			return []byte(v), nil
		case c == '\\':
			escaped = true
			s.i++ // whatever is escaped, it does not end the string
		case c < 0x20:
			return nil, s.errorf("control character in a string")
		}
	}
	return nil, s.errorf("string without end")
}

// size reads a non-negative integer that fits an int.
func (s *scanner) size() (int, error) {
	s.peek()
	start, v := s.i, 0
	for ; s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9'; s.i++ {
		d := int(s.b[s.i] - '0')
		if v > (math.MaxInt-d)/10 {
			return 0, s.errorf("number too large")
		}
		v = v*10 + d
	}
	if s.i == start || (s.b[start] == '0' && s.i > start+1) {
		return 0, s.errorf("not a non-negative integer")
	}
	if s.i < len(s.b) && bytes.IndexByte([]byte(".eE"), s.b[s.i]) >= 0 {
		return 0, s.errorf("not an integer")
	}
	return v, nil
}

// skip reads any value and drops it.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return s.errorf("nested deeper than %d", maxDepth)
	}
	switch s.peek() {
	case '{':
		return s.object(func([]byte) error { return s.skip(depth + 1) })
	case '[':
		return s.array(func() error { return s.skip(depth + 1) })
	case '"':
		_, err := s.str()
		return err
	}
	start := s.i
	for s.i < len(s.b) && bytes.IndexByte([]byte(",]} \t\r\n"), s.b[s.i]) < 0 {
		s.i++
	}
	if !json.Valid(s.b[start:s.i]) {
		return s.errorf("not a value")
	}
	return nil
}
