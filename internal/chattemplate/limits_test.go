package chattemplate

import (
	"errors"
	"strings"
	"testing"
)

// TestLimits runs templates that try to use up memory, time or stack. Each must
// end with ErrLimit.
func TestLimits(t *testing.T) {
	for _, src := range []string{
		"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
		"{{ 'a' * 1000000000 }}", "{{ 1000000000 * 'a' }}", "{{ [0] * 1000000000 }}",
		"{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
		"{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
		"{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
		"{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
		"{% set ns = namespace(l=[1]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
		"{% set ns = namespace(l=[1]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}",
		"{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% set ns.m = [ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
		"{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
		"{% set ns = namespace(l=(1,)) %}{% for i in range(999) %}{% set ns.l = (ns.l,) %}{% endfor %}{{ {ns.l: 1} }}",
		"{% set ns = namespace(l=(1,)) %}{% for i in range(60) %}{% set ns.l = (ns.l, ns.l) %}{% endfor %}{{ {ns.l: 1} }}",
		"{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
		"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% macro f() %}{{ caller is defined }}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
		"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
		"{{ 10 ** (10 ** 10) }}", "{{ 7 ** 999999 }}", "{% set ns = namespace(a=3) %}{% for i in range(99) %}{% set ns.a = ns.a * ns.a %}{% endfor %}",
		"{{ 'a'.center(1000000000) }}", "{{ 'a'.zfill(1000000000) }}", "{{ '\t'.expandtabs(1000000000) }}", "{{ 'a' | center(1000000000) }}",
		"{{ 'a\nb' | indent(1000000000) }}", "{{ '%1000000000d' % 1 }}", "{{ '%.1000000000f' % 1 }}", "{{ '{:1000000000}'.format(1) }}", "{{ '%*d' % (1000000000, 1) }}",
		"{{ [1] | batch(1000000000, 0) | list }}", "{{ [1] | slice(1000000000) | list }}", "{{ [1] | tojson(indent=1000000000) }}",
		"{{ range(1000000000) }}", "{{ ('a' * 9999999).replace('', 'bbbbbbbbbb') }}", "{{ ('a' * 9999999).split('a') | length }}", "{{ ('a' * 9999999) | list | length }}",
		"{% set s = 'a' * 9999999 %}{% for i in range(9999) %}{{ 'b' in s }}{% endfor %}", "{% set s = 'a' * 9999999 %}{% for i in range(9999) %}{{ s.count('ab') }}{% endfor %}",
		"{% set s = 'a' * 9999999 %}{% for i in range(9999) %}{{ s }}{% endfor %}", "{% set s %}{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}{% endset %}",
		"{{ ([('a' * 999999)] * 999999) | join }}",
	} {
		t.Run(src, func(t *testing.T) {
			tpl, err := Parse(src)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = tpl.Render(Map(), Options{}); !errors.Is(err, ErrLimit) {
				t.Errorf("got %v, want ErrLimit", err)
			}
		})
	}
}

// TestNesting: depth of source is an error of the parser, not of the stack.
func TestNesting(t *testing.T) {
	for _, src := range []string{
		"{{ " + strings.Repeat("(", 5000) + strings.Repeat(")", 5000) + " }}",
		"{{ " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + " }}",
		"{{ " + strings.Repeat("not ", 5000) + "1 }}", "{{ " + strings.Repeat("-", 5000) + "1 }}",
		"{{ 1" + strings.Repeat(" + 1", 5000) + " }}", "{{ a" + strings.Repeat(".a", 5000) + " }}", "{{ a" + strings.Repeat("|abs", 5000) + " }}",
		"{{ 1" + strings.Repeat(" if 1 else 1", 5000) + " }}", "{{ 1" + strings.Repeat(" if 1", 5000) + " }}",
		strings.Repeat("{% if 1 %}", 5000), strings.Repeat("{% for x in y %}", 5000), "{% set " + strings.Repeat("(", 5000) + "a = 1 %}",
		strings.Repeat("a", maxSource+1),
	} {
		_, err := Parse(src)
		var se *SyntaxError
		if !errors.As(err, &se) || !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: got %v, want a syntax error", clip(src), err)
		}
	}
}

func TestOptions(t *testing.T) {
	tpl, err := Parse("a\n{{ 'b' * 100 }}")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{MaxOutput: 50}, {MaxSteps: 3}} {
		_, err := tpl.Render(nil, o)
		var re *RenderError
		if !errors.Is(err, ErrLimit) || !errors.As(err, &re) || re.Line != 2 {
			t.Errorf("%+v: got %v", o, err)
		}
	}
	if _, err := tpl.Render(List(), Options{}); !errors.Is(err, ErrInput) {
		t.Errorf("list as variables: %v", err)
	}
}

func TestErrorLines(t *testing.T) {
	_, err := Parse("a\n\n{% if x %}\n{% bogus %}")
	var se *SyntaxError
	if !errors.As(err, &se) || se.Line != 4 || !strings.Contains(se.Msg, "bogus") {
		t.Errorf("got %v", err)
	}
	_, err = Parse("\n{% include 'x' %}")
	if !errors.As(err, &se) || se.Line != 2 || !strings.Contains(se.Msg, "include") {
		t.Errorf("got %v", err)
	}
	tpl, err := Parse("a\n{% for x in [1] %}\n  {{ raise_exception('no ' ~ x) }}\n{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpl.Render(nil, Options{})
	var re *RenderError
	if !errors.As(err, &re) || re.Line != 3 || re.Msg != "no 1" || !errors.Is(err, ErrRaised) || errors.Is(err, ErrLimit) {
		t.Errorf("got %v", err)
	}
}
