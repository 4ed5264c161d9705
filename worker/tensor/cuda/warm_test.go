package cuda

import "testing"

// TestBuckets: every size of a step has its bucket in the list, once.
func TestBuckets(t *testing.T) {
	b := newBackend(newFake())
	for _, n := range []int{1, 2, 3, 5, 12, 64, 100, 256, 512, 2048} {
		list := b.Buckets(n)
		seen := map[int]bool{}
		for i, size := range list {
			if size > n || i > 0 && size >= list[i-1] || seen[bucket(size)] {
				t.Errorf("up to %d: %v", n, list)
			}
			seen[bucket(size)] = true
		}
		for rows := 1; rows <= n; rows++ {
			if !seen[bucket(rows)] {
				t.Errorf("up to %d: %d rows are in none of %v", n, rows, list)
			}
		}
	}
}
