// Package adapterref reads how clients name one version of an adapter:
// "name@3" by its number, "name@sha256:35ff7f31…" by its digest or the
// beginning of one. A name alone means the version that answers by default.
package adapterref

import (
	"strconv"
	"strings"
)

const (
	digestPrefix = "sha256:"
	digestHex    = 64
	// minHex is how much of a digest must be given.
	minHex = 8
)

// Ref names one version.
type Ref struct {
	Name string
	// Number is the version's, 0 where Digest is given.
	Number uint64
	// Digest is "sha256:" and at least the first eight digits.
	Digest string
}

// Split reads a reference. ok is false for what names no version: a name may
// hold an "@" for other reasons.
func Split(s string) (r Ref, ok bool) {
	at := strings.LastIndexByte(s, '@')
	if at <= 0 {
		return Ref{}, false
	}
	name, version := s[:at], s[at+1:]
	if hex, found := strings.CutPrefix(version, digestPrefix); found {
		ok = len(hex) >= minHex && len(hex) <= digestHex && strings.Trim(hex, "0123456789abcdef") == ""
		return Ref{Name: name, Digest: version}, ok
	}
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil || n == 0 || version[0] < '1' || version[0] > '9' {
		return Ref{}, false
	}
	return Ref{Name: name, Number: n}, true
}

// Is tells whether the reference means a version of its name.
func (r Ref) Is(number uint64, digest string) bool {
	if r.Number != 0 {
		return r.Number == number
	}
	return strings.HasPrefix(digest, r.Digest)
}

// Format is the reference to a version by its number.
func Format(name string, number uint64) string {
	return name + "@" + strconv.FormatUint(number, 10)
}
