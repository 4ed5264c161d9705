package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"chorale/internal/safetensors"
	"chorale/internal/tokenizer"
)

// hfFolder is a Hugging Face folder.
type hfFolder struct {
	dir     string
	set     *safetensors.Set
	cfg     []byte
	tokCfg  tokenizerConfig
	genIDs  []int32
	textual string // chat_template.jinja
}

// tokenizerConfig is tokenizer_config.json.
type tokenizerConfig struct {
	ChatTemplate json.RawMessage `json:"chat_template"`
	BOSToken     specialToken    `json:"bos_token"`
	EOSToken     specialToken    `json:"eos_token"`
}

// specialToken is a string, or an object with the string as content, or null.
type specialToken string

func (s *specialToken) UnmarshalJSON(b []byte) error {
	var str *string
	if json.Unmarshal(b, &str) == nil {
		if str != nil {
			*s = specialToken(*str)
		}
		return nil
	}
	var obj struct{ Content string }
	if err := json.Unmarshal(b, &obj); err != nil {
		return errors.New("must be a string or an object with content")
	}
	*s = specialToken(obj.Content)
	return nil
}

// tokenIDs is a token id, a list of them, or null.
type tokenIDs []int32

func (v *tokenIDs) UnmarshalJSON(b []byte) error {
	var one *int32
	if json.Unmarshal(b, &one) == nil {
		if one != nil {
			*v = tokenIDs{*one}
		}
		return nil
	}
	if err := json.Unmarshal(b, (*[]int32)(v)); err != nil {
		return errors.New("eos_token_id must be a token id or a list of them")
	}
	return nil
}

func openHF(dir, config string) (files, error) {
	f := &hfFolder{dir: filepath.Clean(dir)}
	var err error
	if f.cfg, err = os.ReadFile(filepath.Join(dir, config)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	var ids struct {
		EOS tokenIDs `json:"eos_token_id"`
	}
	for _, name := range []string{config, "generation_config.json"} {
		ids.EOS = nil
		if err := f.optional(name, &ids); err != nil {
			return nil, err
		}
		f.genIDs = append(f.genIDs, ids.EOS...)
	}
	if err := f.optional("tokenizer_config.json", &f.tokCfg); err != nil {
		return nil, err
	}
	if b, err := os.ReadFile(filepath.Join(dir, "chat_template.jinja")); err == nil {
		f.textual = string(b)
	}
	return f, nil
}

// optional reads a JSON file that need not exist.
func (f *hfFolder) optional(name string, v any) error {
	b, err := os.ReadFile(filepath.Join(f.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFormat, filepath.Join(f.dir, name), err)
	}
	return nil
}

func (f *hfFolder) config() ([]byte, error) { return f.cfg, nil }

// weights opens the safetensors on first use: the router never needs them.
func (f *hfFolder) weights() *safetensors.Set {
	if f.set == nil {
		set, err := safetensors.OpenIndex(f.dir)
		if err != nil {
			return nil
		}
		f.set = set
	}
	return f.set
}

// OpenWeights makes a Hugging Face folder's weights readable, telling what is
// wrong with them. A GGUF file's always are.
func (c *Checkpoint) OpenWeights() error {
	f, ok := c.files.(*hfFolder)
	if !ok || f.set != nil {
		return nil
	}
	set, err := safetensors.OpenIndex(f.dir)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFormat, f.dir, err)
	}
	f.set = set
	return nil
}

func (f *hfFolder) names() []string {
	if s := f.weights(); s != nil {
		return s.Names()
	}
	return nil
}

func (f *hfFolder) tensor(name string) (Tensor, bool) {
	s := f.weights()
	if s == nil {
		return Tensor{}, false
	}
	t, ok := s.Tensor(name)
	if !ok {
		return Tensor{}, false
	}
	cols := 1
	if n := len(t.Shape); n > 0 {
		cols = t.Shape[n-1]
	}
	columns := func(from, width int) (ReadRows, ReadRows16, bool) {
		broken := func(err error) error {
			if errors.Is(err, safetensors.ErrShape) {
				return fmt.Errorf("%w: %s: %w", ErrFormat, name, err)
			}
			return err
		}
		return func(dst []float32, row, n int) error {
				return broken(t.Float32Block(dst, safetensors.Block{Row: row, N: n, Col: from, Cols: width}))
			}, func(dst []uint16, row, n int) error {
				return broken(t.BF16Block(dst, safetensors.Block{Row: row, N: n, Col: from, Cols: width}))
			}, true
	}
	rows, rows16, _ := columns(0, cols)
	return Tensor{Shape: t.Shape, Raw: t.Data, Rows: rows, Rows16: rows16, Columns: columns}, true
}

func (f *hfFolder) tokenizer() (*tokenizer.Tokenizer, error) {
	path := filepath.Join(f.dir, "tokenizer.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s: a folder needs tokenizer.json (the fast tokenizer)", ErrNotFound, f.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	t, err := tokenizer.FromJSON(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, path, err)
	}
	return t, nil
}

// chatTemplate looks where transformers looks: chat_template.jinja, then
// tokenizer_config.json, where it may be a list of named ones.
func (f *hfFolder) chatTemplate() string {
	if f.textual != "" {
		return f.textual
	}
	var one string
	if json.Unmarshal(f.tokCfg.ChatTemplate, &one) == nil {
		return one
	}
	var named []struct{ Name, Template string }
	if json.Unmarshal(f.tokCfg.ChatTemplate, &named) == nil {
		for _, t := range named {
			if t.Name == "default" {
				return t.Template
			}
		}
	}
	return ""
}

func (f *hfFolder) specials() Specials {
	return Specials{BOS: string(f.tokCfg.BOSToken), EOS: string(f.tokCfg.EOSToken)}
}

func (f *hfFolder) eos() []int32 {
	ids := append([]int32(nil), f.genIDs...)
	if f.tokCfg.EOSToken != "" {
		if t, err := f.tokenizer(); err == nil {
			if id, ok := t.ID(string(f.tokCfg.EOSToken)); ok {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

func (f *hfFolder) close() error {
	if f.set == nil {
		return nil
	}
	return f.set.Close()
}
