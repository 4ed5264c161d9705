package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/text/unicode/norm"
)

// model is a small BPE model for files under test.
const smallModel = `"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"<s>":3},"merges":["a b"]}`

func TestFromJSONErrors(t *testing.T) {
	for _, c := range []struct {
		name, file string
		want       error
		says       string
	}{
		{"no JSON", `{`, ErrFormat, "tokenizer.json"},
		{"empty object", `{}`, ErrFormat, "no type"},
		{"model", `{"model":{"type":"WordPiece","vocab":{}}}`, ErrUnsupported, `model "WordPiece"`},
		{"dropout", `{"model":{"type":"BPE","dropout":0.1,"vocab":{"a":0}}}`, ErrUnsupported, "dropout"},
		{"suffix", `{"model":{"type":"BPE","end_of_word_suffix":"</w>","vocab":{"a":0}}}`, ErrUnsupported, "end_of_word_suffix"},
		{"empty vocab", `{"model":{"type":"BPE","vocab":{},"merges":[]}}`, ErrFormat, "empty"},
		{"empty pieces", `{"model":{"type":"Unigram","vocab":[]}}`, ErrFormat, "empty"},
		{"no vocab", `{"model":{"type":"BPE"}}`, ErrFormat, "model.vocab"},
		{"negative id", `{"model":{"type":"BPE","vocab":{"a":-1}}}`, ErrFormat, "out of range"},
		{"huge id", `{"model":{"type":"BPE","vocab":{"a":2147483647}}}`, ErrFormat, "out of range"},
		{"id beyond int32", `{"model":{"type":"BPE","vocab":{"a":4294967296}}}`, ErrFormat, "model.vocab"},
		{"id twice", `{"model":{"type":"BPE","vocab":{"a":0,"b":0}}}`, ErrFormat, "id 0: both"},
		{"unknown merge", `{"model":{"type":"BPE","vocab":{"a":0},"merges":["a z"]}}`, ErrFormat, `merge 0: "a" and "z"`},
		{"half merge", `{"model":{"type":"BPE","vocab":{"a":0},"merges":["a"]}}`, ErrFormat, "merge 0"},
		{"merges", `{"model":{"type":"BPE","vocab":{"a":0},"merges":7}}`, ErrFormat, "model.merges"},
		{"unk_id", `{"model":{"type":"Unigram","unk_id":9,"vocab":[["a",0]]}}`, ErrFormat, "unk_id: 9"},
		{"piece", `{"model":{"type":"Unigram","vocab":[["a","b"]]}}`, ErrFormat, "model.vocab[0]"},
		{"added id", `{"added_tokens":[{"id":999999999,"content":"x"}],` + smallModel + `}`, ErrFormat, "out of range"},
		{"added id taken", `{"added_tokens":[{"id":1,"content":"x"}],` + smallModel + `}`, ErrFormat, "id 1: both"},
		{"normalizer", `{"normalizer":{"type":"Precompiled"},` + smallModel + `}`, ErrUnsupported, `normalizer "Precompiled"`},
		{"nested normalizer", `{"normalizer":{"type":"Sequence","normalizers":[{"type":"Nmt"}]},` + smallModel + `}`, ErrUnsupported, `normalizer "Nmt"`},
		{"pre_tokenizer", `{"pre_tokenizer":{"type":"UnicodeScripts"},` + smallModel + `}`, ErrUnsupported, `pre_tokenizer "UnicodeScripts"`},
		{"behavior", `{"pre_tokenizer":{"type":"Split","pattern":{"String":"x"},"behavior":"Odd"},` + smallModel + `}`, ErrUnsupported, "Odd"},
		{"regex", `{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"},` + smallModel + `}`, ErrUnsupported, `regular expression "("`},
		{"no pattern", `{"pre_tokenizer":{"type":"Split","pattern":{"String":""},"behavior":"Isolated"},` + smallModel + `}`, ErrFormat, "no pattern"},
		{"post", `{"post_processor":{"type":"Odd"},` + smallModel + `}`, ErrUnsupported, `post_processor "Odd"`},
		{"template", `{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}]},` + smallModel + `}`, ErrFormat, `no special token "x"`},
		{"template id", `{"post_processor":{"type":"RobertaProcessing","sep":["x",77],"cls":["<s>",3]},` + smallModel + `}`, ErrFormat, "id 77"},
		{"decoder", `{"decoder":{"type":"CTC"},` + smallModel + `}`, ErrUnsupported, `decoder "CTC"`},
		{"strip", `{"decoder":{"type":"Strip","content":"","start":1,"stop":0},` + smallModel + `}`, ErrFormat, "Strip"},
		{"depth", `{"normalizer":` + strings.Repeat(`{"type":"Sequence","normalizers":[`, 50) + strings.Repeat(`]}`, 50) + `,` + smallModel + `}`, ErrFormat, "nested"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok, err := FromJSON([]byte(c.file))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, %v; want %v with %q", tok, err, c.want, c.says)
			}
		})
	}
}

func TestUnsupportedErrorNamesTheComponent(t *testing.T) {
	_, err := FromJSON([]byte(`{"normalizer":{"type":"Precompiled"},` + smallModel + `}`))
	var u *UnsupportedError
	if !errors.As(err, &u) || u.Part != "normalizer" || u.Name != "Precompiled" {
		t.Errorf("got %#v", err)
	}
}

func TestLookups(t *testing.T) {
	tok, err := FromJSON([]byte(`{"added_tokens":[{"id":3,"content":"<s>","special":true},{"id":9,"content":"<x>"}],` + smallModel + `}`))
	if err != nil {
		t.Fatal(err)
	}
	if n := tok.VocabSize(); n != 10 {
		t.Errorf("VocabSize %d", n)
	}
	for _, c := range []struct {
		id      int32
		token   string
		known   bool
		special bool
	}{
		{0, "a", true, false},
		{3, "<s>", true, true},
		{9, "<x>", true, false},
		{5, "", false, false},
		{-1, "", false, false},
		{1 << 30, "", false, false},
	} {
		token, ok := tok.Token(c.id)
		if token != c.token || ok != c.known || tok.IsSpecial(c.id) != c.special {
			t.Errorf("id %d: %q, %v, special %v", c.id, token, ok, tok.IsSpecial(c.id))
		}
		if id, ok := tok.ID(c.token); c.known && (!ok || id != c.id) {
			t.Errorf("token %q: %d, %v", c.token, id, ok)
		}
		if b := tok.TokenBytes(c.id); string(b) != c.token || (b == nil) != !c.known {
			t.Errorf("id %d: bytes %q", c.id, b)
		}
	}
}

// The bytes of a text's tokens are the text's bytes.
func TestTokenBytes(t *testing.T) {
	const text = " the 漢字 😀\n\x00!"
	for _, name := range []string{"llama3", "tekken", "falcon", "sentencepiece"} {
		_, tok := loadGolden(t, name)
		var got []byte
		for _, id := range tok.Encode(text, false) {
			got = append(got, tok.TokenBytes(id)...)
		}
		want := text
		if name == "sentencepiece" {
			want = " " + text // its normalizer adds one
		}
		if string(got) != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// No text of a stranger may become a special token.
func TestEncodePlain(t *testing.T) {
	forEachGolden(t, func(t *testing.T, g *golden, tok *Tokenizer) {
		for _, c := range loadCorpus(t) {
			for _, id := range tok.EncodePlain(c.S) {
				if tok.IsSpecial(id) && id != tok.unk {
					token, _ := tok.Token(id)
					t.Fatalf("%q gives %q", c.S, token)
				}
			}
		}
	})
	_, tok := loadGolden(t, "llama3")
	const text = "<s> a</s><mask> word"
	if got := tok.Decode(tok.EncodePlain(text), DecodeOptions{SkipSpecial: true}); got != text {
		t.Errorf("%q came back as %q", text, got)
	}
}

func TestIllFormedText(t *testing.T) {
	_, tok := loadGolden(t, "llama3")
	for text, want := range map[string]string{
		"a\xffb":           "a\ufffdb",
		"\xe6\xbc":         "\ufffd",
		"\xe6\xbc\xff\xc0": "\ufffd\ufffd\ufffd",
		"\xed\xa0\x80":     "\ufffd\ufffd\ufffd", // a surrogate
	} {
		if got := tok.Decode(tok.Encode(text, false), DecodeOptions{}); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if got := tok.Decode(tok.EncodePlain(text), DecodeOptions{}); got != want {
			t.Errorf("plain %q: %q, want %q", text, got, want)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	g, tok := loadGolden(t, "sentencepiece")
	corpus := loadCorpus(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i, c := range corpus {
				if got := tok.Encode(c.S, true); !slices.Equal(got, g.Rows[i].Special) {
					t.Errorf("%q: %v", c.S, got)
				}
			}
		})
	}
	wg.Wait()
}

// The scanners must agree with the expressions they stand for.
func TestScannersEqualRegexes(t *testing.T) {
	patterns := []string{patGPT2, patLlama3, patQwen2, patO200k, patTekken, patDeepSeekNumber, patDeepSeekKanji, patDeepSeekWord, patTrailingSpace, `\p{N}`}
	for _, pattern := range patterns {
		fast, err := matchRegex(pattern)
		if err != nil {
			t.Fatal(err)
		}
		slow, err := matchRegexp2(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range loadCorpus(t) {
			if strings.ContainsFunc(c.S, newerThanGo) {
				continue // regexp2 has Go's Unicode tables
			}
			if got, want := fast(nil, c.S), slow(nil, c.S); !slices.Equal(got, want) {
				t.Errorf("%.40s on %q: %v, want %v", pattern, c.S, got, want)
			}
		}
	}
}

func newerThanGo(r rune) bool {
	for _, c := range unicode16 {
		if inRanges(c.ranges, r) {
			return true
		}
	}
	return false
}

func TestIncompleteTail(t *testing.T) {
	for s, want := range map[string]int{
		"": 0, "a": 0, "é": 0, "漢": 0, "😀": 0, "a\xc3": 1, "a\xe6": 1, "a\xe6\xbc": 2, "\xf0\x9f\x98": 3,
		"\xff": 0, "\x80\x80": 0, "\xe0\x80": 0, "\xed\xa0": 0, "\xf4\x90": 0, "\xc3\xa9\xa9": 0,
	} {
		if got := incompleteTail([]byte(s)); got != want {
			t.Errorf("%q: %d, want %d", s, got, want)
		}
	}
}

// TestUnicodeProbe checks the tables against what probe.py measured.
func TestUnicodeProbe(t *testing.T) {
	dir := os.Getenv(oracleDirEnv)
	if dir == "" {
		t.Skipf("%s is not set; the goldens cover the tables in part", oracleDirEnv)
	}
	var probe struct {
		Classes   map[string][][2]rune       `json:"classes"`
		Forms     map[string]map[rune]string `json:"forms"`
		Reordered [][2]rune                  `json:"reordered"`
	}
	readJSON(t, filepath.Join(dir, "unicode.json"), &probe)
	bits := map[string]uint8{"L": clsL, "N": clsN, "M": clsM, "P": clsP, "S": clsS, "space": clsSpace, "upper": clsUpper, "lower": clsLower}
	for name, bit := range bits {
		in := make([]bool, 0x110000)
		for _, r := range probe.Classes[name] {
			for c := r[0]; c <= r[1]; c++ {
				in[c] = true
			}
		}
		for c := range in {
			if surrogate := c>>11 == 0xd800>>11; !surrogate && in[c] != (classOf(rune(c))&bit != 0) {
				t.Errorf("class %s: %U", name, c)
			}
		}
	}
	forms := map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}
	for name, form := range forms {
		normalize := unicodeForm(form)
		for c := rune(0); c <= 0x10ffff; c++ {
			want, changed := probe.Forms[name][c]
			if !changed {
				want = string(c)
			}
			if c>>11 != 0xd800>>11 && normalize(string(c)) != want {
				t.Errorf("%s of %U: %q, want %q", name, c, normalize(string(c)), want)
			}
		}
	}
	nfd := unicodeForm(norm.NFD)
	for _, r := range probe.Reordered {
		for c := r[0]; c <= r[1]; c++ {
			if got, want := nfd("a\u0345"+string(c)), "a"+string(c)+"\u0345"; got != want {
				t.Errorf("%U does not move: %q", c, got)
			}
		}
	}
}

// Words without a border take time in proportion to their length, or nearly:
// a quadratic step would hang here.
func TestHugeWordsStayFast(t *testing.T) {
	for _, name := range []string{"llama3", "sentencepiece", "unigram", "metaspace"} {
		_, tok := loadGolden(t, name)
		for _, unit := range []string{"a", " ", "\n", "字", "aab", "▁", "1"} {
			text := strings.Repeat(unit, 200_000/len(unit))
			ids := tok.Encode(text, false)
			if len(ids) == 0 {
				t.Errorf("%s: no ids for %d times %q", name, len(text), unit)
			}
			tok.Decode(ids, DecodeOptions{})
		}
	}
}

// Example values of the file format that older versions wrote.
func TestOldSpellings(t *testing.T) {
	for _, c := range []struct{ name, part, text, want string }{
		{"merges as pairs", `"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}`, "abb", "[2 1]"},
		{"model without type", `"model":{"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}`, "abb", "[2 1]"},
		{"metaspace with add_prefix_space", `"pre_tokenizer":{"type":"Metaspace","replacement":"▁","add_prefix_space":false},"model":{"type":"BPE","vocab":{"a":0,"▁":1},"merges":[]}`, "a a", "[0 1 0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok, err := FromJSON([]byte(`{` + c.part + `}`))
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(tok.Encode(c.text, true)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

var _ json.Unmarshaler = (*namedID)(nil)
