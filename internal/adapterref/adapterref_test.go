package adapterref

import (
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	for in, want := range map[string]Ref{
		"a@3":                     {Name: "a", Number: 3},
		"a@b@12":                  {Name: "a@b", Number: 12},
		"team/a:b@1":              {Name: "team/a:b", Number: 1},
		"a@18446744073709551615":  {Name: "a", Number: 1<<64 - 1},
		"a@sha256:" + hex:         {Name: "a", Digest: "sha256:" + hex},
		"a@sha256:01234567":       {Name: "a", Digest: "sha256:01234567"},
		"a@18446744073709551616":  {},
		"a":                       {},
		"@3":                      {},
		"a@":                      {},
		"a@0":                     {},
		"a@03":                    {},
		"a@+3":                    {},
		"a@v3":                    {},
		"me@example.org":          {},
		"a@sha256:0123456":        {},
		"a@sha256:0123456G":       {},
		"a@sha256:" + hex + "0":   {},
		"a@sha256:0123 567":       {},
		"a@sha512:0123456789abcd": {},
	} {
		got, ok := Split(in)
		if ok != (want != Ref{}) || ok && got != want {
			t.Errorf("%q: %+v, %v", in, got, ok)
		}
	}
}

func TestIs(t *testing.T) {
	r, _ := Split(Format("a", 3))
	if !r.Is(3, "sha256:x") || r.Is(4, "sha256:x") {
		t.Error("by number")
	}
	r, _ = Split("a@sha256:01234567")
	if !r.Is(9, "sha256:0123456789") || r.Is(9, "sha256:1234567") {
		t.Error("by digest")
	}
}
