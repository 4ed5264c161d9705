package tcp

import (
	"bytes"
	"testing"
)

// FuzzGreeting: only a greeting of this group, for this rank, is taken.
func FuzzGreeting(f *testing.F) {
	m := &mesh{w: Way{Rank: 1, Addresses: []string{"a", "b", "c"}, Nonce: "n"}}
	good := greet(2, 1, forTensors, "n")
	f.Add(good)
	f.Add(greet(0, 1, forTensors, "n"))
	f.Add(greet(2, 1, forPlans, "n"))
	f.Add(greet(2, 1, forTensors, "other"))
	f.Fuzz(func(t *testing.T, b []byte) {
		from, what, err := m.hear(bytes.NewReader(b))
		if taken := bytes.HasPrefix(b, good); taken != (err == nil) || taken && (from != 2 || what != forTensors) {
			t.Errorf("%q: rank %d for %d, %v", b, from, what, err)
		}
	})
}
