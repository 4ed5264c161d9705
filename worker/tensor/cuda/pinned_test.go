package cuda

import (
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// TestPinnedPool: blocks never overlap, what is given back can be taken again,
// and once all is back every slab is whole.
func TestPinnedPool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		made := map[unsafe.Pointer][]byte{}
		p := &pinnedPool{slab: pinBytes, pin: func(n int64) (unsafe.Pointer, error) {
			b := make([]byte, n)
			made[unsafe.Pointer(&b[0])] = b
			return unsafe.Pointer(&b[0]), nil
		}}
		type owned struct {
			pinned
			mark byte
		}
		var out []owned
		next := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				n := int64(rapid.IntRange(1, 200*pinUnit).Draw(t, "bytes"))
				b, err := p.take(n)
				if err != nil || int64(len(b.mem)) < n {
					t.Fatalf("%d bytes for %d: %v", len(b.mem), n, err)
				}
				next++
				b.mem[0], b.mem[len(b.mem)-1] = next, next
				out = append(out, owned{b, next})
			},
			"give": func(t *rapid.T) {
				if len(out) == 0 {
					t.Skip("nothing is out")
				}
				i := rapid.IntRange(0, len(out)-1).Draw(t, "which")
				p.give(out[i].pinned)
				out = append(out[:i], out[i+1:]...)
			},
			"": func(t *rapid.T) {
				var taken int64
				for _, b := range out {
					taken += int64(len(b.mem))
					if b.mem[0] != b.mark || b.mem[len(b.mem)-1] != b.mark {
						t.Fatal("blocks overlap")
					}
				}
				if taken != p.taken {
					t.Fatalf("%d bytes out of %d slabs, counted %d", taken, len(p.slabs), p.taken)
				}
				for _, s := range p.slabs {
					for i, e := range s.free {
						if e.from >= e.to || i > 0 && s.free[i-1].to >= e.from {
							t.Fatalf("free extents %v", s.free)
						}
					}
				}
			},
		})
		for _, b := range out {
			p.give(b.pinned)
		}
		for _, s := range p.slabs {
			if len(s.free) != 1 || s.free[0] != (extent{0, pinBytes}) {
				t.Fatalf("in the end %v are free", s.free)
			}
		}
		p.close(func(at unsafe.Pointer, _ int64) { delete(made, at) })
		if len(made) != 0 {
			t.Fatalf("%d slabs are kept", len(made))
		}
	})
}

// TestPinnedLarge: more than a slab comes in one piece.
func TestPinnedLarge(t *testing.T) {
	var sizes []int64
	p := &pinnedPool{slab: slabBytes, pin: func(n int64) (unsafe.Pointer, error) {
		sizes = append(sizes, n)
		return unsafe.Pointer(&make([]byte, 1)[0]), nil
	}}
	if _, err := p.take(10); err != nil {
		t.Fatal(err)
	}
	if _, err := p.take(slabBytes + 1); err != nil {
		t.Fatal(err)
	}
	if len(sizes) != 2 || sizes[0] != slabBytes || sizes[1] != slabBytes+pinBytes {
		t.Errorf("slabs of %v bytes", sizes)
	}
}
