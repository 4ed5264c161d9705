package cpu

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"chorale/worker/tensor"
	"chorale/worker/tensor/conformance"
)

// guarded returns n bytes that end (rounded up to 64) where an unreadable page
// begins.
func guarded(n int) (*block, error) {
	page := os.Getpagesize()
	size := ceilDiv(n, page) * page
	m, err := unix.Mmap(-1, 0, size+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	if err := unix.Mprotect(m[size:], unix.PROT_NONE); err != nil {
		return nil, err
	}
	from := size - ceilDiv(n, 64)*64
	return &block{bytes: m[from : from+n : from+n], free: func() { _ = unix.Munmap(m) }}, nil
}

// reserveGuarded, admitGuarded and discardGuarded make a pool's memory unreadable
// while nothing is mapped there.
func reserveGuarded(n int) (*block, error) {
	b, err := reserve(n)
	if err != nil {
		return nil, err
	}
	return b, unix.Mprotect(b.bytes, unix.PROT_NONE)
}

func admitGuarded(part []byte) error { return unix.Mprotect(part, unix.PROT_READ|unix.PROT_WRITE) }

func discardGuarded(part []byte) error {
	return errors.Join(systemDiscard(part), unix.Mprotect(part, unix.PROT_NONE))
}

// TestBounds runs the suite on memory in which reading or writing past the end
// of an operand, or a page of the cache that is not there, ends the process.
func TestBounds(t *testing.T) {
	allocate, reserveBlock, admit, discard = guarded, reserveGuarded, admitGuarded, discardGuarded
	defer func() {
		allocate, reserveBlock, discard = systemMemory, reserve, systemDiscard
		admit = func([]byte) error { return nil }
	}()
	for _, p := range precisions {
		for _, kernel := range nativeKernels(p) {
			t.Run(p.String()+"/"+kernel, func(t *testing.T) {
				conformance.Run(t, func(t testing.TB, threads int) tensor.Backend {
					b, err := New(Options{Precision: p, Threads: threads, Kernel: kernel, ChunkBytes: int64(os.Getpagesize())})
					if err != nil {
						t.Fatal(err)
					}
					return b
				}, tolerance(kernel))
			})
		}
	}
}

// TestArena checks that chunks are shared, zeroed and given back.
func TestArena(t *testing.T) {
	var a arena
	var blocks []*block
	for _, n := range []int{1, 64, 65, ownBytes - 1, 4096} {
		b, err := a.take(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range b.bytes {
			if v != 0 {
				t.Fatal("memory is not zero")
			}
		}
		for i := range b.bytes {
			b.bytes[i] = 1
		}
		blocks = append(blocks, b)
	}
	if len(blocks) != a.now.live {
		t.Errorf("%d live pieces, want %d", a.now.live, len(blocks))
	}
	first := a.now
	if _, err := a.take(chunkBytes - ownBytes); err != nil {
		t.Fatal(err)
	}
	if a.now == first {
		t.Error("a full chunk was used again")
	}
	for _, b := range blocks {
		b.release()
		b.release()
	}
	if first.live != 0 {
		t.Errorf("%d live pieces after all were freed", first.live)
	}
}
