package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"chorale/adaptermgr/store"
	"chorale/adaptermgr/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBolt(t *testing.T) {
	storetest.Run(t, func(dir string) (store.Store, error) {
		return store.OpenBolt(filepath.Join(dir, "sub", "registry.db"), store.BoltOptions{NoSync: true})
	})
}

func TestBoltIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	s, err := store.OpenBolt(path, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.OpenBolt(path, store.BoltOptions{LockTimeout: 10 * time.Millisecond})
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("second open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = store.OpenBolt(path, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestBoltRefusesForeignFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenBolt(path, store.BoltOptions{}); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("err = %v", err)
	}
	if _, err := store.OpenBolt(filepath.Join(path, "below", "a.db"), store.BoltOptions{}); err == nil {
		t.Error("a file as a folder was accepted")
	}
}

func TestBoltSchema(t *testing.T) {
	for _, tc := range []struct {
		bucket, key, value string
		want               error
	}{
		{"meta", "schema", "\x00\x00\x00\x00\x00\x00\x00\x09", store.ErrSchema},
		{"meta", "schema", "xx", store.ErrCorrupt},
		{"meta", "revision", "xx", store.ErrCorrupt},
		{"adapters", "a", `{"v":9,"name":"a"}`, store.ErrSchema},
		{"adapters", "a", `{"v":1,"name":"b"}`, store.ErrCorrupt},
		{"adapters", "a", `{"v":0,"name":"a"}`, store.ErrCorrupt},
		{"adapters", "a", `{`, store.ErrCorrupt},
	} {
		path := filepath.Join(t.TempDir(), "registry.db")
		s, err := store.OpenBolt(path, store.BoltOptions{})
		if err != nil || s.Close() != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(tc.bucket)).Put([]byte(tc.key), []byte(tc.value))
		}); err != nil || db.Close() != nil {
			t.Fatal(err)
		}
		s, err = store.OpenBolt(path, store.BoltOptions{})
		if err == nil {
			err = s.View(func(tx store.Tx) error { _, err := tx.List(); return err })
			s.Close()
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}
