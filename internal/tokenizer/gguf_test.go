package tokenizer

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ggufFromJSON turns a tokenizer.json into what a converter would write to a
// GGUF file.
func ggufFromJSON(t testing.TB, raw []byte, model, pre string) GGUFVocab {
	t.Helper()
	var f tokenizerFile
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	var vocab map[string]int32
	if err := json.Unmarshal(f.Model.Vocab, &vocab); err != nil {
		t.Fatal(err)
	}
	n := int32(0)
	for _, id := range vocab {
		n = max(n, id+1)
	}
	for _, a := range f.AddedTokens {
		n = max(n, a.ID+1)
	}
	v := GGUFVocab{
		Model: model, Pre: pre, Tokens: make([]string, n), Types: make([]int32, n),
		BOS: -1, EOS: -1, EOT: -1, UNK: -1, PAD: -1,
	}
	for i := range v.Types {
		v.Types[i] = TypeUnused
	}
	for token, id := range vocab {
		v.Tokens[id], v.Types[id] = token, TypeNormal
		if _, ok := byteToken(token); ok && model == "llama" {
			v.Types[id] = TypeByte
		}
	}
	for _, a := range f.AddedTokens {
		v.Tokens[a.ID], v.Types[a.ID] = a.Content, TypeUserDefined
		if a.Special {
			v.Types[a.ID] = TypeControl
		}
	}
	pairs, err := readMerges(f.Model.Merges)
	if err != nil {
		t.Fatal(err)
	}
	if model == "llama" {
		v.Scores = mergeScores(&v, pairs)
		v.UNK, v.Types[0] = 0, TypeUnknown
		v.BOS = 1
		return v
	}
	for _, p := range pairs {
		v.Merges = append(v.Merges, p[0]+" "+p[1])
	}
	return v
}

// mergeScores scores tokens by the first merge that makes them, as a
// SentencePiece model does.
func mergeScores(v *GGUFVocab, pairs [][2]string) []float32 {
	scores := make([]float32, len(v.Tokens))
	rank := map[string]int{}
	for _, p := range pairs {
		if _, ok := rank[p[0]+p[1]]; !ok {
			rank[p[0]+p[1]] = len(rank)
		}
	}
	for i, token := range v.Tokens {
		if r, ok := rank[token]; ok {
			scores[i] = -float32(r)
		} else {
			scores[i] = -1e6
		}
	}
	return scores
}

// TestGGUFOracle builds GGUF vocabularies from tokenizer.json files, which
// must give the same ids.
func TestGGUFOracle(t *testing.T) {
	dir := os.Getenv(oracleDirEnv)
	if dir == "" {
		t.Skipf("%s is not set; TestGGUFGolden covers the small vocabularies", oracleDirEnv)
	}
	var corpus []corpusEntry
	readJSON(t, filepath.Join(dir, "corpus.json"), &corpus)
	for _, c := range []struct{ name, model, pre string }{
		{"llama3", "gpt2", "llama-bpe"},
		{"qwen3", "gpt2", "qwen2"},
		{"gptoss", "gpt2", "gpt-4o"},
		{"deepseek_v3", "gpt2", "deepseek-v3"},
		{"llama2", "llama", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join(dir, "vocab", c.name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var rows []oracleRow
			readJSON(t, filepath.Join(dir, "oracle", c.name+".json"), &rows)
			compareGGUF(t, ggufFromJSON(t, raw, c.model, c.pre), corpus, rows)
		})
	}
	t.Run("smollm2", func(t *testing.T) {
		var rows []oracleRow
		readJSON(t, filepath.Join(dir, "oracle", "smollm2.json"), &rows)
		compareGGUF(t, loadSmolLM2(t, dir), corpus, rows)
	})
}

// loadSmolLM2 reads the metadata that oracle.py took from the GGUF file.
func loadSmolLM2(t testing.TB, dir string) GGUFVocab {
	t.Helper()
	var m struct {
		Model  string   `json:"model"`
		Pre    string   `json:"pre"`
		Tokens []string `json:"tokens"`
		Types  []int32  `json:"token_type"`
		Merges []string `json:"merges"`
		BOS    int32    `json:"bos_token_id"`
		EOS    int32    `json:"eos_token_id"`
		UNK    int32    `json:"unknown_token_id"`
		PAD    int32    `json:"padding_token_id"`
		AddBOS *bool    `json:"add_bos_token"`
		Prefix *bool    `json:"add_space_prefix"`
	}
	readJSON(t, filepath.Join(dir, "gguf", "smollm2.json"), &m)
	return GGUFVocab{
		Model: m.Model, Pre: m.Pre, Tokens: m.Tokens, Types: m.Types, Merges: m.Merges,
		BOS: m.BOS, EOS: m.EOS, EOT: -1, UNK: m.UNK, PAD: m.PAD, AddBOS: m.AddBOS, AddSpacePrefix: m.Prefix,
	}
}

// compareGGUF compares ids and text without special tokens: the metadata says
// less about those than a template does.
func compareGGUF(t *testing.T, v GGUFVocab, corpus []corpusEntry, rows []oracleRow) {
	t.Helper()
	tok, err := FromGGUF(v)
	if err != nil {
		t.Fatal(err)
	}
	bad := 0
	for i, c := range corpus {
		got := tok.Encode(c.S, false)
		text := tok.Decode(rows[i].IDs, DecodeOptions{})
		skip := tok.Decode(rows[i].IDs, DecodeOptions{SkipSpecial: true})
		if slices.Equal(got, rows[i].IDs) && text == rows[i].Text && skip == rows[i].Skip {
			continue
		}
		if bad++; bad <= 5 {
			t.Errorf("%.100q: ids %v, want %v; text %.100q, want %.100q", c.S, got, rows[i].IDs, text, rows[i].Text)
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d differ", bad, len(corpus))
	}
}

func TestGGUFGolden(t *testing.T) {
	corpus := loadCorpus(t)
	for _, c := range []struct{ name, model, pre string }{
		{"llama3", "gpt2", "llama-bpe"},
		{"tekken", "gpt2", "tekken"},
		{"deepseek", "gpt2", "deepseek-v3"},
		{"plain", "llama", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, _ := loadGolden(t, c.name)
			v := ggufFromJSON(t, g.Tokenizer, c.model, c.pre)
			// A GGUF file cannot say how the extra added tokens treat their
			// neighbours.
			var texts []corpusEntry
			var rows []oracleRow
			for i, x := range corpus {
				if x.C != "added" && !strings.Contains(x.S, "word") {
					texts, rows = append(texts, x), append(rows, g.Rows[i])
				}
			}
			compareGGUF(t, v, texts, rows)
		})
	}
}

// ptr is for optional keys.
func ptr[T any](v T) *T { return &v }

// byteVocab is a GGUF vocabulary of all bytes, "ab" and two control tokens.
func byteVocab() GGUFVocab {
	v := GGUFVocab{
		Model: "gpt2", Pre: "gpt-2", Merges: []string{"a b"},
		BOS: 257, EOS: 258, EOT: -1, UNK: -1, PAD: -1,
	}
	for _, r := range runeOfByte {
		v.Tokens = append(v.Tokens, string(r))
		v.Types = append(v.Types, TypeNormal)
	}
	v.Tokens = append(v.Tokens, "ab", "<bos>", "<eos>")
	v.Types = append(v.Types, TypeNormal, TypeControl, TypeControl)
	return v
}

func TestGGUFTemplate(t *testing.T) {
	for _, c := range []struct {
		name     string
		bos, eos *bool
		pre      string
		want     []int32
	}{
		{"neither by default", nil, nil, "gpt-2", []int32{256}},
		{"Llama 3 adds BOS", nil, nil, "llama-bpe", []int32{257, 256}},
		{"unless told not to", ptr(false), nil, "llama-bpe", []int32{256}},
		{"both", ptr(true), ptr(true), "gpt-2", []int32{257, 256, 258}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := byteVocab()
			v.AddBOS, v.AddEOS, v.Pre = c.bos, c.eos, c.pre
			tok, err := FromGGUF(v)
			if err != nil {
				t.Fatal(err)
			}
			if got := tok.Encode("ab", true); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestGGUFUnigram(t *testing.T) {
	tok, err := FromGGUF(GGUFVocab{
		Model:  "t5",
		Tokens: []string{"<pad>", "</s>", "<unk>", "▁", "▁he", "llo", "l", "o", "<user>"},
		Types:  []int32{3, 3, 2, 1, 1, 1, 1, 1, 4},
		Scores: []float32{0, 0, 0, -2, -3, -4, -5, -5, 0},
		BOS:    -1, EOS: 1, EOT: -1, UNK: 2, PAD: 0,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text string
		want []int32
	}{
		{"hello", []int32{4, 5, 1}},
		{"hello hezz", []int32{4, 5, 4, 2, 1}},
		{"</s><user>lo", []int32{1, 8, 3, 6, 7, 1}},
	} {
		if got := tok.Encode(c.text, true); !slices.Equal(got, c.want) {
			t.Errorf("%q: %v, want %v", c.text, got, c.want)
		}
	}
	if got := tok.EncodePlain("</s>"); slices.Contains(got, 1) {
		t.Errorf("plain text became EOS: %v", got)
	}
	if got := tok.Decode([]int32{4, 5, 4, 7, 1}, DecodeOptions{SkipSpecial: true}); got != "hello heo" {
		t.Errorf("decoded %q", got)
	}
}

func TestGGUFPreTokenizers(t *testing.T) {
	for pre, want := range map[string]string{
		"gpt-2":          "a| b|123|!",
		"smollm":         "a| b|1|2|3|!",
		"llama-bpe":      "a| b|123|!",
		"qwen2":          "a| b|1|2|3|!",
		"gpt-4o":         "a| b|123|!",
		"tekken":         "a| b|1|2|3|!",
		"deepseek-v3":    "a| b|123|!",
		"deepseek-llm":   "a| b|123|!",
		"deepseek-coder": "a| b|1|2|3|!",
		"falcon":         "a| b|123|!",
		"default":        "a| b|123|!",
	} {
		p, err := ggufPreTokenizer(pre)
		if err != nil {
			t.Fatal(err)
		}
		parts := []segment{{"a b123!", true}}
		for _, s := range p.splitters {
			var next []segment
			for _, part := range parts {
				next = s.split(next, part)
			}
			parts = next
		}
		var words []string
		for _, part := range parts {
			words = append(words, part.text)
		}
		if got := strings.Join(words, "|"); got != want {
			t.Errorf("%s: %s, want %s", pre, got, want)
		}
	}
}

func TestGGUFErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*GGUFVocab)
		want   error
		says   string
	}{
		{"empty", func(v *GGUFVocab) { *v = GGUFVocab{Model: "gpt2"} }, ErrFormat, "empty"},
		{"model", func(v *GGUFVocab) { v.Model = "rwkv" }, ErrUnsupported, `gguf model "rwkv"`},
		{"pre", func(v *GGUFVocab) { v.Pre = "klingon" }, ErrUnsupported, `gguf pre "klingon"`},
		{"types", func(v *GGUFVocab) { v.Types = v.Types[:3] }, ErrFormat, "3 types for 259 tokens"},
		{"type", func(v *GGUFVocab) { v.Types[7] = 99 }, ErrFormat, "token_type[7]"},
		{"scores", func(v *GGUFVocab) { v.Scores = []float32{1} }, ErrFormat, "1 scores"},
		{"no scores", func(v *GGUFVocab) { v.Model = "llama" }, ErrFormat, "scores: missing"},
		{"utf8", func(v *GGUFVocab) { v.Tokens[5] = "\xff" }, ErrFormat, "tokens[5]"},
		{"bos", func(v *GGUFVocab) { v.BOS = 1 << 30 }, ErrFormat, "bos_token_id"},
		{"eos", func(v *GGUFVocab) { v.EOS = -2 }, ErrFormat, "eos_token_id"},
		{"merge of unknowns", func(v *GGUFVocab) { v.Merges = []string{"a b", "a zz"} }, ErrFormat, "merge 1"},
		{"no merge", func(v *GGUFVocab) { v.Merges = []string{"ab"} }, ErrFormat, "merge 0"},
		{"twice", func(v *GGUFVocab) { v.Tokens[256] = "a" }, ErrFormat, "both"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := byteVocab()
			c.change(&v)
			_, err := FromGGUF(v)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.says)
			}
		})
	}
}
