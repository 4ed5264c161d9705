package tokenizer

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// checkStream compares a stream with Decode, and every delta with UTF-8.
func checkStream(t interface {
	Helper()
	Fatalf(string, ...any)
}, tok *Tokenizer, ids []int32, o DecodeOptions,
) {
	t.Helper()
	var b strings.Builder
	s := tok.NewStream(o)
	for i, id := range ids {
		delta := s.Push(id)
		if !utf8.ValidString(delta) {
			t.Fatalf("delta %d of %v is not UTF-8: %q", i, ids, delta)
		}
		b.WriteString(delta)
	}
	b.WriteString(s.Flush())
	if want := tok.Decode(ids, o); b.String() != want {
		t.Fatalf("ids %v: stream %q, Decode %q", ids, b.String(), want)
	}
}

func TestStreamEqualsDecode(t *testing.T) {
	forEachGolden(t, func(t *testing.T, g *golden, tok *Tokenizer) {
		for _, row := range g.Rows {
			for _, o := range []DecodeOptions{{}, {SkipSpecial: true}, {SpacesBetweenSpecial: true}} {
				checkStream(t, tok, row.Special, o)
			}
		}
		rapid.Check(t, func(t *rapid.T) {
			ids := rapid.SliceOfN(rapid.Int32Range(-1, int32(tok.VocabSize())), 0, 40).Draw(t, "ids")
			o := DecodeOptions{rapid.Bool().Draw(t, "skip"), rapid.Bool().Draw(t, "spaces")}
			checkStream(t, tok, ids, o)
		})
	})
}

// A stream must not wait for more than the rest of a code point.
func TestStreamIsPrompt(t *testing.T) {
	_, tok := loadGolden(t, "llama3")
	const text = "a 漢字 👍🏽 é!"
	s := tok.NewStream(DecodeOptions{})
	var bytes []byte
	out := ""
	for _, id := range tok.Encode(text, false) {
		bytes = append(bytes, tok.TokenBytes(id)...)
		out += s.Push(id)
		whole := len(bytes) - incompleteTail(bytes)
		if out != string(bytes[:whole]) {
			t.Fatalf("after %q: %q", bytes, out)
		}
	}
	if out != text {
		t.Fatalf("got %q", out)
	}
	if tail := s.Flush(); tail != "" {
		t.Fatalf("flush %q", tail)
	}
}

func TestStreamFlushesBrokenBytes(t *testing.T) {
	_, tok := loadGolden(t, "llama3")
	id, ok := tok.ID("ð") // byte F0, the start of a code point of four
	if !ok {
		t.Fatal("no token for byte F0")
	}
	s := tok.NewStream(DecodeOptions{})
	if d := s.Push(id); d != "" {
		t.Fatalf("pushed %q", d)
	}
	if d := s.Push(id); d != "\ufffd" {
		t.Fatalf("pushed %q, want the first byte's U+FFFD", d)
	}
	if d := s.Flush(); d != "\ufffd" {
		t.Fatalf("flushed %q", d)
	}
	if d := s.Flush(); d != "" {
		t.Fatalf("flushed %q twice", d)
	}
}

func TestDecodeOptions(t *testing.T) {
	_, tok := loadGolden(t, "llama3")
	bos, _ := tok.ID("<s>")
	eos, _ := tok.ID("</s>")
	ids := slices.Concat([]int32{bos}, tok.Encode("ab", false), []int32{eos, eos})
	for _, c := range []struct {
		o    DecodeOptions
		want string
	}{
		{DecodeOptions{}, "<s>ab</s></s>"},
		{DecodeOptions{SkipSpecial: true}, "ab"},
		{DecodeOptions{SpacesBetweenSpecial: true}, "<s> ab </s> </s>"},
		{DecodeOptions{SkipSpecial: true, SpacesBetweenSpecial: true}, "ab"},
	} {
		if got := tok.Decode(ids, c.o); got != c.want {
			t.Errorf("%+v: %q, want %q", c.o, got, c.want)
		}
		checkStream(t, tok, ids, c.o)
	}
	if got := tok.Decode([]int32{-1, 1 << 30}, DecodeOptions{}); got != "" {
		t.Errorf("unknown ids: %q", got)
	}
}

// Decoders that look at neighbours or borders, alone and behind Fuse.
func TestDecodeChains(t *testing.T) {
	for _, c := range []struct {
		name     string
		decoders []decoder
		tokens   []string
		want     string
	}{
		{"none", []decoder{joinSpace{}}, []string{"a", "", "b"}, "a  b"},
		{"replace across", []decoder{decodeFuse{}, decodeReplace{"abc", "X"}}, []string{"ab", "", "cab", "ab", "c", "a"}, "XabXa"},
		{"replace within", []decoder{decodeReplace{"abc", "X"}}, []string{"ab", "c", "abc"}, "abcX"},
		{"strip both, fused", []decoder{decodeFuse{}, decodeStrip{".", 2, 2}}, []string{".", ".", ".a.", ".", "."}, ".a."},
		{"strip both, apart", []decoder{decodeStrip{".", 1, 1}}, []string{".a.", "..b"}, "a.b"},
		{"strip keeps inner", []decoder{decodeFuse{}, decodeStrip{".", 0, 1}}, []string{"a..", "b", ".", "."}, "a..b."},
		{"bytes", []decoder{decodeFallback{}}, []string{"<0xE6>", "<0xBC>", "<0xA2>", "x", "<0xE6>", "<0xBC>", "y"}, "漢x\ufffd\ufffdy"},
		{"regex", []decoder{decodeFuse{}, mustRegexDecoder(t, "a+", "A")}, []string{"ba", "a", "ab"}, "bAb"},
		{"metaspace", []decoder{decodeMetaspace{"▁", true}}, []string{"▁▁a", "▁b"}, "a b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok := &Tokenizer{decoders: c.decoders, tokens: c.tokens, kinds: slices.Repeat([]tokenKind{kindKnown}, len(c.tokens))}
			ids := make([]int32, len(c.tokens))
			for i := range ids {
				ids[i] = int32(i)
			}
			if got := tok.Decode(ids, DecodeOptions{}); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			checkStream(t, tok, ids, DecodeOptions{})
		})
	}
}

func mustRegexDecoder(t *testing.T, pattern, with string) decoder {
	t.Helper()
	n, err := replaceRegex(pattern, with)
	if err != nil {
		t.Fatal(err)
	}
	return decodeRegex{n}
}
