package cuda

import "testing"

func TestBucket(t *testing.T) {
	last := 0
	for rows := 1; rows <= 20000; rows++ {
		b := bucket(rows)
		if b < rows || b < last || bucket(b) != b {
			t.Fatalf("bucket(%d) = %d after %d, and of itself %d", rows, b, last, bucket(b))
		}
		if rows > 16 && float64(b-rows) > 0.5*float64(rows) {
			t.Errorf("bucket(%d) = %d wastes too much", rows, b)
		}
		last = b
	}
}

// TestLayout: sections of a step's tables are aligned, in order and apart.
func TestLayout(t *testing.T) {
	for _, rows := range []int32{1, 8, 24, 256, 8192} {
		l := layoutOf(rows)
		for _, s := range []struct {
			name             string
			start, next, per int32
		}{{"ids", l.ids, l.pos, 4}, {"pos", l.pos, l.rowSeq, 4}, {"row_seq", l.rowSeq, l.seqs, 4}, {"seqs", l.seqs, l.lists, 16}, {"lists", l.lists, l.pages, 4 * lists}} {
			if s.start%16 != 0 || s.next < s.start+s.per*rows {
				t.Errorf("%d rows: %s at %d, next at %d", rows, s.name, s.start, s.next)
			}
		}
	}
}
