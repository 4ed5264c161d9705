package gguf

import (
	"fmt"
	"math"
)

// Vocab is the tokenizer as the metadata under "tokenizer." describes it.
type Vocab struct {
	Model string // tokenizer.ggml.model: "gpt2" (byte-level BPE), "llama" (SentencePiece), "t5" (Unigram), …
	Pre   string // tokenizer.ggml.pre: names the pre-tokenizer, "" when absent

	Tokens []string  // by id
	Types  []int32   // per token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; nil when absent
	Scores []float32 // per token; nil when absent
	Merges []string  // "left right", best first; nil when absent

	BOS, EOS, EOT, UNK, PAD int32 // token ids, -1 when absent

	AddBOS, AddEOS, AddSpacePrefix *bool // nil when absent

	ChatTemplate string // Jinja, "" when absent
}

const vocabPrefix = "tokenizer.ggml."

// Vocab reads the vocabulary and chat template from the metadata. A file
// without tokens is ErrMissing; values of the wrong type, lists whose length
// differs from the tokens' and ids beyond them are ErrFormat. All name the key.
func (f *File) Vocab() (Vocab, error) {
	r := vocabReader{f: f}
	v := Vocab{
		Model:          r.str(vocabPrefix + "model"),
		Pre:            r.str(vocabPrefix + "pre"),
		Tokens:         read(&r, vocabPrefix+"tokens", f.Strings),
		Types:          read(&r, vocabPrefix+"token_type", f.Int32s),
		Scores:         read(&r, vocabPrefix+"scores", f.Float32s),
		Merges:         read(&r, vocabPrefix+"merges", f.Strings),
		AddBOS:         r.flag(vocabPrefix + "add_bos_token"),
		AddEOS:         r.flag(vocabPrefix + "add_eos_token"),
		AddSpacePrefix: r.flag(vocabPrefix + "add_space_prefix"),
		ChatTemplate:   r.str("tokenizer.chat_template"),
	}
	n := len(v.Tokens)
	if r.err == nil && n == 0 {
		return Vocab{}, fmt.Errorf("%w: %stokens", ErrMissing, vocabPrefix)
	}
	r.sameLen("token_type", len(v.Types), v.Types != nil, n)
	r.sameLen("scores", len(v.Scores), v.Scores != nil, n)
	v.BOS = r.id("bos_token_id", n)
	v.EOS = r.id("eos_token_id", n)
	v.EOT = r.id("eot_token_id", n)
	v.UNK = r.id("unknown_token_id", n)
	v.PAD = r.id("padding_token_id", n)
	if r.err != nil {
		return Vocab{}, r.err
	}
	return v, nil
}

// vocabReader reads optional metadata and keeps the first error.
type vocabReader struct {
	f   *File
	err error
}

func (r *vocabReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
	}
}

// read returns the zero value for an absent key and fails on another type.
func read[T any](r *vocabReader, key string, get func(string) (T, bool)) T {
	v, ok := get(key)
	if !ok && r.f.Has(key) {
		m := r.f.values[key]
		r.fail("metadata %q has type %v (%v)", key, m.typ, m.elem)
	}
	return v
}

func (r *vocabReader) str(key string) string { return read(r, key, r.f.String) }

func (r *vocabReader) flag(key string) *bool {
	if !r.f.Has(key) {
		return nil
	}
	v := read(r, key, r.f.Bool)
	return &v
}

// id reads a token id. Writers spell "none" as -1 in either signedness.
func (r *vocabReader) id(name string, tokens int) int32 {
	key := vocabPrefix + name
	if !r.f.Has(key) {
		return -1
	}
	id := read(r, key, r.f.Int64)
	if id == -1 || id == math.MaxUint32 {
		return -1
	}
	if id < 0 || id >= int64(tokens) {
		r.fail("metadata %q is %d, the vocabulary has %d tokens", key, id, tokens)
		return -1
	}
	return int32(id)
}

func (r *vocabReader) sameLen(name string, got int, present bool, want int) {
	if present && got != want {
		r.fail("metadata %q has %d elements for %d tokens", vocabPrefix+name, got, want)
	}
}
