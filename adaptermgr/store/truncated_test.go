package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chorale/adaptermgr/store"
)

// TestBoltTruncated: a registry that lost its end is refused, wherever it was
// cut: bbolt maps the file and would read past its end.
func TestBoltTruncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	s, err := store.OpenBolt(path, store.BoltOptions{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		r := store.Record{Name: fmt.Sprintf("adapter-%03d", i), Source: strings.Repeat("s", 300)}
		if _, err := s.Update(func(tx store.Tx) error { return tx.Put(r) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := len(whole) - 1; n > 0; n -= 3001 {
		cut := filepath.Join(t.TempDir(), "registry.db")
		if err := os.WriteFile(cut, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.OpenBolt(cut, store.BoltOptions{NoSync: true})
		if err == nil {
			// What was cut off may have been free.
			var list []store.Record
			err := s.View(func(tx store.Tx) (err error) {
				list, err = tx.List()
				return err
			})
			if err != nil || len(list) != 300 {
				t.Errorf("cut to %d of %d: %d records, %v", n, len(whole), len(list), err)
			}
			s.Close()
		} else if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("cut to %d of %d: %v", n, len(whole), err)
		}
	}
}
