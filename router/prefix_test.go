package router

import (
	"math/rand/v2"
	"testing"
)

func TestPrefixes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	prompt := make([]int32, 5*prefixBlock+10)
	for i := range prompt {
		prompt[i] = r.Int32N(1000)
	}
	all := chain("", prompt)
	if len(all) != 5 {
		t.Fatalf("%d blocks", len(all))
	}
	var p prefixes
	p.note(all[:3])
	for _, c := range []struct {
		what   string
		blocks []uint64
		want   int
	}{
		{"the same", all, 3},
		{"another adapter", chain("sha256:a", prompt), 0},
		{"less than a block", chain("", prompt[:prefixBlock-1]), 0},
		{"another second block", chain("", append(append([]int32{}, prompt[:prefixBlock]...), make([]int32, prefixBlock)...)), 1},
		{"without its start", chain("", prompt[prefixBlock:]), 0},
	} {
		if got := p.match(c.blocks); got != c.want {
			t.Errorf("%s: %d blocks match, want %d", c.what, got, c.want)
		}
	}
	p.forget()
	if p.match(all) != 0 {
		t.Error("what was forgotten matches")
	}
}

// TestPrefixesBounded: what was used lately stays, and there is never more than
// two generations.
func TestPrefixesBounded(t *testing.T) {
	var p prefixes
	kept := chain("kept", make([]int32, 4*prefixBlock))
	for i := range 5 * prefixMemory {
		if i%(prefixMemory/2) == 0 {
			p.note(kept)
		}
		p.note([]uint64{uint64(i)})
		if n := len(p.young) + len(p.old); n > 2*prefixMemory {
			t.Fatalf("%d blocks after %d", n, i)
		}
	}
	if p.match(kept) != len(kept) {
		t.Error("what is used all the time was forgotten")
	}
	if p.has(0) {
		t.Error("the first one is still there")
	}
}
