package tokenizer

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// known reports whether err is one of the errors a reader may return.
func known(err error) bool { return errors.Is(err, ErrFormat) || errors.Is(err, ErrUnsupported) }

// exercise runs every method on a tokenizer from an unknown source.
func exercise(t *testing.T, tok *Tokenizer, text string) {
	ids := tok.Encode(text, true)
	for _, id := range ids {
		if _, ok := tok.Token(id); !ok {
			t.Fatalf("%q: id %d is not in the vocabulary", text, id)
		}
		tok.TokenBytes(id)
	}
	for _, id := range tok.EncodePlain(text) {
		if tok.IsSpecial(id) && id != tok.unk {
			t.Fatalf("plain %q: special id %d", text, id)
		}
	}
	checkStream(t, tok, ids, DecodeOptions{})
	checkStream(t, tok, ids, DecodeOptions{SkipSpecial: true, SpacesBetweenSpecial: true})
}

func FuzzFromJSON(f *testing.F) {
	const text = "a ab<s> ▁b\n12 é"
	for _, part := range []string{
		`"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}`,
		`"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":true}]}`,
		`"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|\\s+"},"behavior":"MergedWithNext","invert":true}`,
		`"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first"},"decoder":{"type":"Metaspace","replacement":"▁"}`,
		`"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[3]}}}`,
		`"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":1}]}`,
		`"added_tokens":[{"id":3,"content":"<s>","special":true,"lstrip":true},{"id":7,"content":"é","single_word":true,"rstrip":true,"normalized":true}]`,
	} {
		f.Add([]byte(`{`+part+`,`+smallModel+`}`), text)
	}
	f.Add([]byte(`{"model":{"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["<unk>",0],["a",-1],["ab",-1.5],["<0x0A>",-3]]}}`), text)
	f.Add([]byte(`{"model":{"type":"BPE","unk_token":"a","fuse_unk":true,"byte_fallback":true,"ignore_merges":true,"vocab":{"a":0,"<0x41>":1}}}`), text)
	f.Fuzz(func(t *testing.T, file []byte, text string) {
		tok, err := FromJSON(file)
		if err != nil {
			if !known(err) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if len(text) < 200 {
			exercise(t, tok, text)
		}
	})
}

func FuzzFromGGUF(f *testing.F) {
	f.Add("gpt2", "gpt-2", "a\x00b\x00ab\x00<s>", []byte{1, 1, 1, 3}, []byte{0, 1, 2}, "a b", int32(3), int32(-1), "abba <s>")
	f.Add("llama", "", "<unk>\x00<s>\x00▁\x00a\x00▁a\x00<0x0A>\x00aa", []byte{2, 3, 1, 1, 1, 6, 1}, []byte{0, 0, 9, 9, 3, 4, 5}, "", int32(1), int32(0), "a aa\n")
	f.Add("t5", "", "<pad>\x00</s>\x00<unk>\x00▁\x00a", []byte{3, 3, 2, 1, 4}, []byte{0, 0, 9, 9, 3}, "", int32(-1), int32(2), "a z</s>")
	f.Add("gpt2", "deepseek-llm", "a\x00Ġ\x00Ġa", []byte{}, []byte{}, "Ġ a", int32(-1), int32(-1), "a a")
	f.Fuzz(func(t *testing.T, model, pre, tokens string, types, scores []byte, merges string, bos, unk int32, text string) {
		v := GGUFVocab{Model: model, Pre: pre, BOS: bos, EOS: -1, EOT: -1, UNK: unk, PAD: -1}
		v.Tokens = strings.Split(tokens, "\x00")
		for _, b := range types {
			v.Types = append(v.Types, int32(int8(b)))
		}
		for _, b := range scores {
			v.Scores = append(v.Scores, -float32(b))
		}
		if merges != "" {
			v.Merges = strings.Split(merges, "\n")
		}
		tok, err := FromGGUF(v)
		if err != nil {
			if !known(err) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if len(text) < 200 {
			exercise(t, tok, text)
		}
	})
}

func FuzzEncodeDecode(f *testing.F) {
	for _, c := range loadCorpus(f) {
		f.Add(c.S)
	}
	// Byte-level vocabularies without normalizer, and without added tokens
	// that swallow white space.
	all, err := FromGGUF(byteVocab())
	if err != nil {
		f.Fatal(err)
	}
	toks := []*Tokenizer{all}
	for _, name := range []string{"llama3", "deepseek", "tekken", "falcon"} {
		_, tok := loadGolden(f, name)
		toks = append(toks, tok)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := wellFormed(s)
		for i, tok := range toks {
			if got := tok.Decode(tok.EncodePlain(s), DecodeOptions{}); got != want {
				t.Fatalf("tokenizer %d: plain %q came back as %q", i, want, got)
			}
			if i > 0 && (strings.Contains(s, "<mask>") || strings.Contains(s, "<r>")) {
				continue
			}
			if got := tok.Decode(tok.Encode(s, false), DecodeOptions{}); got != want {
				t.Fatalf("tokenizer %d: %q came back as %q", i, want, got)
			}
		}
	})
}

func FuzzStream(f *testing.F) {
	names := []string{"llama3", "sentencepiece", "partbytes", "unigram", "splits", "wordsplit", "bert"}
	var toks []*Tokenizer
	for _, name := range names {
		g, tok := loadGolden(f, name)
		toks = append(toks, tok)
		for _, row := range g.Rows[:20] {
			var b []byte
			for _, id := range row.Special {
				b = binary.LittleEndian.AppendUint16(b, uint16(id))
			}
			f.Add(b, byte(0))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, flags byte) {
		var ids []int32
		for ; len(b) >= 2; b = b[2:] {
			ids = append(ids, int32(int16(binary.LittleEndian.Uint16(b))%1024))
		}
		o := DecodeOptions{SkipSpecial: flags&1 != 0, SpacesBetweenSpecial: flags&2 != 0}
		for _, tok := range toks {
			checkStream(t, tok, ids, o)
			if s := tok.Decode(ids, o); !utf8.ValidString(s) {
				t.Fatalf("ids %v: %q is not UTF-8", ids, s)
			}
		}
	})
}

func FuzzStop(f *testing.F) {
	f.Add("one STOP two", "STOP\x00O\x00", uint8(3), false)
	f.Add("aaab", "aab\x00ab", uint8(1), true)
	f.Add("é漢é", "漢é\x00\xa9", uint8(1), true)
	f.Fuzz(func(t *testing.T, text, stops string, cut uint8, keep bool) {
		o := StopOptions{Strings: strings.Split(stops, "\x00"), Keep: keep}
		if len(o.Strings) > 16 || len(text) > 4096 {
			return
		}
		var deltas []string
		for n := int(cut)%16 + 1; text != ""; {
			k := min(n, len(text))
			deltas = append(deltas, text[:k])
			text = text[k:]
		}
		checkStop(t, o, deltas)
	})
}

func FuzzStopRegex(f *testing.F) {
	f.Add("ab12.c", `\d+\.`, uint8(1))
	f.Add("x\ny", `(?m)^y$`, uint8(2))
	f.Add("aXbé", `(?i)x\B|\bé`, uint8(1))
	f.Fuzz(func(t *testing.T, text, pattern string, cut uint8) {
		o := StopOptions{Regexes: []string{pattern}}
		if len(text) > 512 || !utf8.ValidString(text) {
			return
		}
		if _, err := NewStopMatcher(o); err != nil {
			if !errors.Is(err, ErrStop) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		out, matched, done := runStop(t, o, strings.Split(text, ""))
		if !strings.HasPrefix(text, out+matched) || !done && out != text {
			t.Fatalf("%q on %q: %q, %q, %v", pattern, text, out, matched, done)
		}
		out2, matched2, done2 := runStop(t, o, []string{text})
		if out != out2 || matched != matched2 || done != done2 {
			t.Fatalf("%q on %q: %q %q by runes, %q %q at once", pattern, text, out, matched, out2, matched2)
		}
	})
}
