package safetensors

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func shard(t *testing.T, names ...string) []byte {
	t.Helper()
	var tensors []Tensor
	for i, n := range names {
		tensors = append(tensors, Tensor{n, U8, []int{1}, []byte{byte(i)}})
	}
	var b bytes.Buffer
	if err := Write(&b, tensors, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const (
	one = "model-00001-of-00002.safetensors"
	two = "model-00002-of-00002.safetensors"
)

func TestOpenIndex(t *testing.T) {
	good := `{"metadata":{"total_size":3},"weight_map":{"a":"` + one + `","b":"` + two + `","c":"` + two + `"}}`
	tests := []struct {
		name  string
		files map[string][]byte
		want  error  // nil: opens with a, b, c
		text  string // must be in the message
	}{
		{"single", map[string][]byte{singleName: shard(t, "a", "b", "c")}, nil, ""},
		{"single wins over an index", map[string][]byte{singleName: shard(t, "a", "b", "c"), indexName: []byte("{")}, nil, ""},
		{"sharded", map[string][]byte{indexName: []byte(good), one: shard(t, "a"), two: shard(t, "b", "c")}, nil, ""},
		{"nothing", nil, os.ErrNotExist, singleName},
		{"broken single", map[string][]byte{singleName: {1}}, ErrFormat, singleName},
		{"missing shard", map[string][]byte{indexName: []byte(good), one: shard(t, "a")}, os.ErrNotExist, two},
		{"broken shard", map[string][]byte{indexName: []byte(good), one: shard(t, "a"), two: {1}}, ErrFormat, two},
		{"extra shard", map[string][]byte{
			indexName: []byte(good), one: shard(t, "a"), two: shard(t, "b", "c"),
			"model-00003-of-00002.safetensors": shard(t, "d"),
		}, ErrFormat, "model-00003-of-00002"},
		{"tensor missing", map[string][]byte{indexName: []byte(good), one: shard(t, "a"), two: shard(t, "b")}, ErrFormat, `tensor "c" is not in shard`},
		{"tensor extra", map[string][]byte{indexName: []byte(good), one: shard(t, "a", "d"), two: shard(t, "b", "c")}, ErrFormat, `holds tensor "d"`},
		{"tensor in both shards", map[string][]byte{indexName: []byte(good), one: shard(t, "a", "b"), two: shard(t, "b", "c")}, ErrFormat, `holds tensor "b"`},
		{"tensor listed twice", index(`{"a":"x.safetensors","a":"y.safetensors"}`), ErrFormat, `"a" twice`},
		{"parent folder", index(`{"a":"../x.safetensors"}`), ErrFormat, "plain"},
		{"sub folder", index(`{"a":"x/y.safetensors"}`), ErrFormat, "plain"},
		{"absolute", index(`{"a":"/etc/x.safetensors"}`), ErrFormat, "plain"},
		{"backslash", index(`{"a":"..\\x.safetensors"}`), ErrFormat, "plain"},
		{"other kind", index(`{"a":"x.bin"}`), ErrFormat, "plain"},
		{"not a string", index(`{"a":1}`), ErrFormat, `"a"`},
		{"empty map", index(`{}`), ErrFormat, "no weight_map"},
		{"no map", map[string][]byte{indexName: []byte(`{"metadata":{}}`)}, ErrFormat, "no weight_map"},
		{"map twice", map[string][]byte{indexName: []byte(`{"weight_map":{"a":"x.safetensors"},"weight_map":{}}`)}, ErrFormat, "twice"},
		{"not JSON", map[string][]byte{indexName: []byte(`[]`)}, ErrFormat, indexName},
		{"tail", map[string][]byte{indexName: []byte(good + "x")}, ErrFormat, "after"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Glob characters in the folder's name must not matter.
			dir := filepath.Join(t.TempDir(), "a[1]*?")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for name, b := range tt.files {
				write(t, filepath.Join(dir, name), b)
			}
			s, err := OpenIndex(dir)
			if tt.want != nil {
				if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
					t.Fatalf("got %v, want %v with %q", err, tt.want, tt.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"a", "b", "c"}, s.Names()); diff != "" {
				t.Error(diff)
			}
			if c, ok := s.Tensor("c"); !ok || len(c.Data) != 1 {
				t.Error("no tensor c")
			}
			if _, ok := s.Tensor("d"); ok {
				t.Error("found tensor d")
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func index(weightMap string) map[string][]byte {
	return map[string][]byte{indexName: []byte(`{"weight_map":` + weightMap + `}`)}
}
