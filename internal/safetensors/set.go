package safetensors

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	singleName = "model.safetensors"
	indexName  = "model.safetensors.index.json"
	shardGlob  = "model-[0-9]*-of-[0-9]*.safetensors"
)

// Set is the tensors of a model, in one file or many.
type Set struct {
	files   []*File
	tensors map[string]Tensor
	names   []string
}

// OpenIndex opens the weights in the folder dir: model.safetensors if it is
// there (as transformers prefers it), else the shards that
// model.safetensors.index.json lists. With an index, these are errors that
// name the culprit: a shard that is missing, a shard file in the folder that
// the index does not list, a tensor that the index lists twice or places in a
// shard without it, a tensor in a shard that the index does not place there,
// and a shard name that is not a plain file name. Neither file present is
// fs.ErrNotExist. The caller closes the Set.
func OpenIndex(dir string, opts ...Option) (*Set, error) {
	f, err := Open(filepath.Join(dir, singleName), opts...)
	if err == nil {
		return &Set{files: []*File{f}, tensors: f.tensors, names: f.names}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	path := filepath.Join(dir, indexName)
	placed, err := readIndex(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("safetensors: neither %s nor %s in %s: %w",
			singleName, indexName, dir, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s := &Set{tensors: make(map[string]Tensor, len(placed))}
	if err := s.openShards(dir, placed, opts); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Names returns all tensors' names in sorted order; do not modify the slice.
func (s *Set) Names() []string { return s.names }

// Tensor returns the tensor of that name.
func (s *Set) Tensor(name string) (Tensor, bool) {
	t, ok := s.tensors[name]
	return t, ok
}

// Close closes every shard; every Tensor.Data of the Set becomes invalid.
func (s *Set) Close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	s.files, s.tensors, s.names = nil, nil, nil
	return errors.Join(errs...)
}

// openShards opens each shard that placed (tensor → shard) names and checks
// both directions: every placed tensor exists, every tensor is placed.
func (s *Set) openShards(dir string, placed map[string]string, opts []Option) error {
	shards := map[string]*File{}
	for _, name := range placed {
		shards[name] = nil
	}
	if err := checkExtraShards(dir, shards); err != nil {
		return err
	}
	for _, shard := range sortedKeys(shards) {
		f, err := Open(filepath.Join(dir, shard), opts...)
		if err != nil {
			return fmt.Errorf("shard %q: %w", shard, err)
		}
		s.files = append(s.files, f)
		shards[shard] = f
		for _, name := range f.Names() {
			if where, ok := placed[name]; !ok || where != shard {
				return fmt.Errorf("%w: shard %q holds tensor %q, which the index places in %q",
					ErrFormat, shard, name, where)
			}
		}
	}
	for _, name := range sortedKeys(placed) {
		t, ok := shards[placed[name]].Tensor(name)
		if !ok {
			return fmt.Errorf("%w: tensor %q is not in shard %q, where the index places it",
				ErrFormat, name, placed[name])
		}
		s.tensors[name] = t
	}
	s.names = sortedNames(s.tensors)
	return nil
}

// checkExtraShards refuses shard files that the index does not list: the
// folder then mixes two checkpoints.
func checkExtraShards(dir string, listed map[string]*File) error {
	found, err := filepath.Glob(filepath.Join(escapeGlob(dir), shardGlob))
	if err != nil {
		return fmt.Errorf("safetensors: %s: %w", dir, err)
	}
	for _, path := range found {
		if _, ok := listed[filepath.Base(path)]; !ok {
			return fmt.Errorf("%w: shard %q is not in the index", ErrFormat, filepath.Base(path))
		}
	}
	return nil
}

var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// escapeGlob makes a folder's name match only itself.
func escapeGlob(dir string) string {
	if filepath.Separator == '\\' {
		return dir // Windows patterns have no escapes
	}
	return globEscaper.Replace(dir)
}

// readIndex returns the index's weight_map: tensor name → shard file name.
func readIndex(path string) (map[string]string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxHeader {
		return nil, fmt.Errorf("%w: index of %d bytes, more than %d", ErrFormat, st.Size(), maxHeader)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseIndex(b)
}

func parseIndex(b []byte) (map[string]string, error) {
	var placed map[string]string
	s := &scanner{b: b}
	err := s.object(func(key []byte) error {
		if string(key) != "weight_map" {
			return s.skip(0)
		}
		if placed != nil {
			return fmt.Errorf("%w: weight_map appears twice", ErrFormat)
		}
		placed = map[string]string{}
		return s.object(func(key []byte) error {
			name := string(key)
			if _, dup := placed[name]; dup {
				return fmt.Errorf("%w: weight_map lists tensor %q twice", ErrFormat, name)
			}
			shard, err := s.str()
			if err != nil {
				return fmt.Errorf("weight_map: tensor %q: %w", name, err)
			}
			placed[name] = string(shard)
			return checkShardName(string(shard))
		})
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && len(placed) == 0 {
		err = fmt.Errorf("%w: no weight_map", ErrFormat)
	}
	return placed, err
}

// checkShardName accepts plain file names only, so that an index can never
// reach outside its folder.
func checkShardName(name string) error {
	if !filepath.IsLocal(name) || strings.ContainsAny(name, `/\`+"\x00") || name == "." ||
		!strings.HasSuffix(name, ".safetensors") {
		return fmt.Errorf("%w: shard %q is not a plain safetensors file name", ErrFormat, name)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
