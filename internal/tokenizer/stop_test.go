package tokenizer

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// runStop feeds deltas and returns all emitted text and the stop.
func runStop(t interface{ Fatalf(string, ...any) }, o StopOptions, deltas []string) (out, matched string, done bool) {
	m, err := NewStopMatcher(o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, d := range deltas {
		emit, s, ok := m.Push(d)
		out += emit
		if ok {
			return out, s, true
		}
	}
	out += m.Flush()
	matched, done = m.Matched()
	return out, matched, done
}

// naiveStop is the definition: the least index, of equals the first listed.
func naiveStop(text string, o StopOptions) (out, matched string, done bool) {
	best := -1
	for _, s := range o.Strings {
		if k := strings.Index(text, s); s != "" && k >= 0 && (best < 0 || k < best) {
			best, matched = k, s
		}
	}
	if best < 0 {
		return text, "", false
	}
	if o.Keep {
		best += len(matched)
	}
	return text[:best], matched, true
}

func TestStopMatcher(t *testing.T) {
	for _, c := range []struct {
		name    string
		o       StopOptions
		deltas  []string
		out     string
		matched string
	}{
		{"none", StopOptions{}, []string{"a", "b"}, "ab", ""},
		{"empty stop", StopOptions{Strings: []string{""}}, []string{"ab"}, "ab", ""},
		{"inside a delta", StopOptions{Strings: []string{"\n\n"}}, []string{"a\n\nb"}, "a", "\n\n"},
		{"across deltas", StopOptions{Strings: []string{"STOP"}}, []string{"aS", "TO", "Pb"}, "a", "STOP"},
		{"kept", StopOptions{Strings: []string{"STOP"}, Keep: true}, []string{"aS", "TO", "Pb"}, "aSTOP", "STOP"},
		{"false start", StopOptions{Strings: []string{"aab"}}, []string{"a", "a", "a", "b"}, "a", "aab"},
		{"unfinished", StopOptions{Strings: []string{"STOP"}}, []string{"xST"}, "xST", ""},
		{"earlier start wins", StopOptions{Strings: []string{"b", "abc"}}, []string{"ab", "c"}, "", "abc"},
		{"at the end", StopOptions{Strings: []string{"abc", "b"}}, []string{"ab"}, "a", "b"},
		{"first listed wins", StopOptions{Strings: []string{"ab", "a"}}, []string{"a", "b"}, "", "ab"},
		{"first listed wins, short", StopOptions{Strings: []string{"a", "ab"}}, []string{"a", "b"}, "", "a"},
		{"regex", StopOptions{Regexes: []string{`\d+\.`}}, []string{"ab1", "2", ".c"}, "ab", "12."},
		{"regex kept", StopOptions{Regexes: []string{`\d+\.`}, Keep: true}, []string{"ab1", "2", ".c"}, "ab12.", "12."},
		{"regex released", StopOptions{Regexes: []string{`\d+\.`}}, []string{"a1", "2b", "3"}, "a12b3", ""},
		{"regex shortest end", StopOptions{Regexes: []string{`x+`}}, []string{"axxx"}, "a", "x"},
		{"regex at end", StopOptions{Regexes: []string{`ab$`}}, []string{"xab", "ab"}, "xab", "ab"},
		{"regex word border", StopOptions{Regexes: []string{`\bend\b`}}, []string{"bend end", "ing en", "d."}, "bend ending ", "end"},
		{"regex line start", StopOptions{Regexes: []string{`(?m)^#`}}, []string{"a#", "\n", "#"}, "a#\n", "#"},
		{"regex empty match", StopOptions{Regexes: []string{`z*`}}, []string{"ab"}, "ab", ""},
		{"regex after string", StopOptions{Strings: []string{"b"}, Regexes: []string{`c`}}, []string{"abc"}, "a", "b"},
		{"regex before string", StopOptions{Strings: []string{"c"}, Regexes: []string{`b`}}, []string{"abc"}, "a", "b"},
		{"regex while string waits", StopOptions{Strings: []string{"abcd"}, Regexes: []string{`bc`}}, []string{"abcd"}, "a", "bc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole := []string{strings.Join(c.deltas, "")}
			bytes := strings.Split(whole[0], "")
			for _, deltas := range [][]string{c.deltas, whole, bytes} {
				out, matched, done := runStop(t, c.o, deltas)
				if out != c.out || matched != c.matched || done != (c.matched != "") {
					t.Errorf("%q: %q, %q, %v; want %q, %q", deltas, out, matched, done, c.out, c.matched)
				}
			}
		})
	}
}

// The matched stop never leaks, delta by delta, and the result does not depend
// on how the text is cut.
func TestStopMatcherDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := StopOptions{
			Strings: rapid.SliceOfN(rapid.StringMatching(`[abc]{0,4}`), 0, 4).Draw(t, "stops"),
			Keep:    rapid.Bool().Draw(t, "keep"),
		}
		deltas := rapid.SliceOfN(rapid.StringMatching(`[abcd]{0,5}`), 0, 12).Draw(t, "deltas")
		checkStop(t, o, deltas)
	})
}

func checkStop(t interface{ Fatalf(string, ...any) }, o StopOptions, deltas []string) {
	want, wantMatched, wantDone := naiveStop(strings.Join(deltas, ""), o)
	out, matched, done := runStop(t, o, deltas)
	if out != want || matched != wantMatched || done != wantDone {
		t.Fatalf("%+v on %q: %q, %q, %v; want %q, %q, %v", o, deltas, out, matched, done, want, wantMatched, wantDone)
	}
}

// A regular expression's result does not depend on the cuts either.
func TestStopRegexCuts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := StopOptions{
			Strings: rapid.SliceOfN(rapid.StringMatching(`[ab]{1,3}`), 0, 2).Draw(t, "stops"),
			Regexes: rapid.SliceOfN(rapid.SampledFrom([]string{`a+b`, `b.a`, `\bc`, `(ab|c)d`, `d$`, `[cd]{3}`, `a.*d`}), 1, 3).Draw(t, "regexes"),
		}
		deltas := rapid.SliceOfN(rapid.StringMatching(`[abcd ]{0,5}`), 0, 8).Draw(t, "deltas")
		whole := strings.Join(deltas, "")
		out, matched, _ := runStop(t, o, deltas)
		for _, other := range [][]string{{whole}, strings.Split(whole, "")} {
			out2, matched2, _ := runStop(t, o, other)
			if out != out2 || matched != matched2 {
				t.Fatalf("%+v: %q gives %q %q; %q gives %q %q", o, deltas, out, matched, other, out2, matched2)
			}
		}
	})
}

func TestStopMatcherAfterDone(t *testing.T) {
	m, err := NewStopMatcher(StopOptions{Strings: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	m.Push("axb")
	if emit, matched, done := m.Push("c"); emit != "" || matched != "x" || !done {
		t.Errorf("after the stop: %q, %q, %v", emit, matched, done)
	}
	if s := m.Flush(); s != "" {
		t.Errorf("flush after the stop: %q", s)
	}
}

// An expression that is always in the middle of a match must not hold the
// text back for ever.
func TestStopRegexHoldIsBounded(t *testing.T) {
	m, err := NewStopMatcher(StopOptions{Regexes: []string{`a.*z`}})
	if err != nil {
		t.Fatal(err)
	}
	emitted := 0
	for range 100 {
		emit, _, _ := m.Push(strings.Repeat("a", 1000))
		emitted += len(emit)
	}
	if held := len(m.held); emitted+held != 100_000 || held > maxRegexHold {
		t.Errorf("emitted %d, holds %d", emitted, held)
	}
}

func TestStopRegexErrors(t *testing.T) {
	for _, p := range []string{`(`, `a(?=b)`, strings.Repeat("a", maxRegexLen+1), `((a{100}){10}){5}`, `(?:x{1000})(?:y{1000}){3}z{1000}`} {
		if _, err := NewStopMatcher(StopOptions{Regexes: []string{p}}); !errors.Is(err, ErrStop) {
			t.Errorf("%.40q: %v", p, err)
		}
	}
}
