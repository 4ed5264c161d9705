package checkpoint

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chorale/internal/tokenizer"
)

// Errors of opening a model, wrapped with path and detail.
var (
	// ErrNotFound reports a path at which there is no model.
	ErrNotFound = errors.New("no model found")
	// ErrFormat reports a model whose files are broken or contradict each other.
	ErrFormat = errors.New("model files are broken")
	// ErrUnsupported reports a model kind that is not supported.
	ErrUnsupported = errors.New("model is not supported")
)

// ReadRows reads n rows of a tensor from row on into dst, row-major, as
// float32. A vector is one row.
type ReadRows func(dst []float32, row, n int) error

// ReadRows16 reads rows as bfloat16, rounded to nearest, ties to even. It may be
// called by several goroutines at once.
type ReadRows16 func(dst []uint16, row, n int) error

// Tensor is one tensor, in Hugging Face's order.
type Tensor struct {
	Shape  []int
	Rows   ReadRows
	Rows16 ReadRows16
	// Columns reads of each row the n columns from `from` on and touches nothing
	// else of the file. It is not ok where they can only be decoded with others: a
	// GGUF file's blocks are whole.
	Columns func(from, n int) (rows ReadRows, rows16 ReadRows16, ok bool)
	// Raw is the stored bytes, for fingerprints.
	Raw []byte
}

// files is what the two kinds of model have in common.
type files interface {
	config() ([]byte, error)
	names() []string
	tensor(name string) (Tensor, bool)
	tokenizer() (*tokenizer.Tokenizer, error)
	chatTemplate() string
	specials() Specials
	eos() []int32
	close() error
}

// Specials are special tokens' spellings, as chat templates name them.
type Specials struct{ BOS, EOS string }

// Checkpoint is an open model.
type Checkpoint struct {
	// Path is where it was found.
	Path string
	// Config is config.json, or its equivalent for a GGUF file.
	Config []byte
	files  files
}

// Open opens the model at path: a folder with config.json, or a .gguf file (or
// a folder that holds exactly one). A configuration's own .json file stands for
// its folder.
func Open(path string) (*Checkpoint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	file := path
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(path, "config.json")); err != nil {
			ggufs, _ := filepath.Glob(filepath.Join(path, "*.gguf"))
			if len(ggufs) != 1 {
				return nil, fmt.Errorf("%w: %s has no config.json and %d .gguf files", ErrNotFound, path, len(ggufs))
			}
			file = ggufs[0]
		}
	}
	var f files
	switch {
	case !info.IsDir() && strings.HasSuffix(strings.ToLower(file), ".json"):
		f, err = openHF(filepath.Split(file))
	case strings.HasSuffix(strings.ToLower(file), ".gguf") || !info.IsDir():
		f, err = openGGUF(file)
	default:
		f, err = openHF(path, "config.json")
	}
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{Path: path, files: f}
	if c.Config, err = f.config(); err != nil {
		f.close()
		return nil, err
	}
	return c, nil
}

// Kind is "gguf" or "safetensors".
func (c *Checkpoint) Kind() string {
	if _, ok := c.files.(*ggufFile); ok {
		return "gguf"
	}
	return "safetensors"
}

// Close unmaps the files; no Tensor may be in use.
func (c *Checkpoint) Close() error { return c.files.close() }

// Names lists the tensors, sorted.
func (c *Checkpoint) Names() []string { return c.files.names() }

// Tensor finds a tensor by Hugging Face's name for it.
func (c *Checkpoint) Tensor(name string) (Tensor, bool) { return c.files.tensor(name) }

// Tokenizer builds the tokenizer.
func (c *Checkpoint) Tokenizer() (*tokenizer.Tokenizer, error) { return c.files.tokenizer() }

// ChatTemplate is the Jinja source, "" when there is none.
func (c *Checkpoint) ChatTemplate() string { return c.files.chatTemplate() }

// Specials gives the special tokens that templates refer to.
func (c *Checkpoint) Specials() Specials { return c.files.specials() }

// EOS lists the tokens that end an answer, from generation_config.json,
// config.json and the tokenizer's configuration.
func (c *Checkpoint) EOS() []int32 {
	ids := c.files.eos()
	slices.Sort(ids)
	return slices.Compact(ids)
}

// fingerprintSample is how many bytes of a tensor count for the fingerprint at
// each of its ends.
const fingerprintSample = 4096

// Fingerprint identifies the model cheaply: sha256 over the configuration, the
// tensors' names and shapes and the ends of their bytes. Workers behind one
// router must agree on it.
func (c *Checkpoint) Fingerprint() string {
	h := sha256.New()
	h.Write(canonical(c.Config))
	for _, name := range c.Names() {
		t, _ := c.Tensor(name)
		fmt.Fprintf(h, "\n%s %v ", name, t.Shape)
		_ = binary.Write(h, binary.LittleEndian, uint64(len(t.Raw)))
		h.Write(t.Raw[:min(len(t.Raw), fingerprintSample)])
		h.Write(t.Raw[max(0, len(t.Raw)-fingerprintSample):])
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// canonical removes spelling from JSON: key order and blanks.
func canonical(b []byte) []byte {
	var v any
	if json.Unmarshal(b, &v) != nil {
		return b
	}
	out, err := json.Marshal(v)
	if err != nil {
		return b
	}
	return out
}
