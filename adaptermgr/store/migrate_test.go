package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"chorale/adaptermgr/store"
)

// TestMigration opens a registry as schema 1 left it.
func TestMigration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	old := map[string]string{
		"a": `{"v":1,"name":"a","state":"loaded","digest":"sha256:ab","config_blob":"c","weights_blob":"w","source":"s","pinned":true,` +
			`"labels":{"k":"v"},"max_rank":8,"target_modules":["q_proj"],"size_bytes":5,"base_model":"b","version":37,` +
			`"created":"2026-01-02T03:04:05Z","updated":"2026-01-03T03:04:05Z","last_used":"2026-01-04T03:04:05Z"}`,
		"evicted":  `{"v":1,"name":"evicted","state":"ready","digest":"sha256:ab","config_blob":"c","weights_blob":"w","source":"s","version":2}`,
		"fetching": `{"v":1,"name":"fetching","state":"fetching","source":"s"}`,
		"draining": `{"v":1,"name":"draining","state":"draining","digest":"sha256:cd","config_blob":"c","weights_blob":"w","source":"s","version":9}`,
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucket([]byte("meta"))
		if err != nil {
			return err
		}
		if err := meta.Put([]byte("schema"), []byte("\x00\x00\x00\x00\x00\x00\x00\x01")); err != nil {
			return err
		}
		if err := meta.Put([]byte("revision"), []byte("\x00\x00\x00\x00\x00\x00\x00\x26")); err != nil {
			return err
		}
		adapters, err := tx.CreateBucket([]byte("adapters"))
		if err != nil {
			return err
		}
		for name, v := range old {
			if err := adapters.Put([]byte(name), []byte(v)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil || db.Close() != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		s, err := store.OpenBolt(path, store.BoltOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []store.Record
		if err := s.View(func(tx store.Tx) (err error) {
			if tx.Revision() != 0x26 {
				t.Errorf("revision %d", tx.Revision())
			}
			got, err = tx.List()
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(migrated(), got); d != "" {
			t.Error(d)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func migrated() []store.Record {
	day := func(d int) time.Time { return time.Date(2026, 1, d, 3, 4, 5, 0, time.UTC) }
	labels := map[string]string{"k": "v"}
	return []store.Record{
		{
			Schema: 2, Name: "a", State: store.StateLive, Source: "s", Pinned: true, Labels: labels, Current: 1, LastNumber: 1,
			Generation: 1, Created: day(2), Updated: day(3), Versions: []store.Version{{
				Number: 1, Loaded: true, Digest: "sha256:ab", ConfigBlob: "c", WeightsBlob: "w", Source: "s", Labels: labels, MaxRank: 8,
				TargetModules: []string{"q_proj"}, SizeBytes: 5, BaseModel: "b", Created: day(3), LastUsed: day(4),
			}},
		},
		{
			Schema: 2, Name: "draining", State: store.StateDraining, Source: "s", Current: 1, LastNumber: 1, Generation: 1,
			Versions: []store.Version{{Number: 1, Digest: "sha256:cd", ConfigBlob: "c", WeightsBlob: "w", Source: "s"}},
		},
		{
			Schema: 2, Name: "evicted", State: store.StateLive, Source: "s", Current: 1, LastNumber: 1, Generation: 1,
			Versions: []store.Version{{Number: 1, Digest: "sha256:ab", ConfigBlob: "c", WeightsBlob: "w", Source: "s"}},
		},
		{Schema: 2, Name: "fetching", State: store.StateFetching, Source: "s", Generation: 1},
	}
}
