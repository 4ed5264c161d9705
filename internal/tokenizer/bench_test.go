package tokenizer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// benchTokenizers are the vocabularies of CHORALE_ORACLE_DIR, or two small
// ones without it.
func benchTokenizers(b *testing.B) map[string]*Tokenizer {
	toks := map[string]*Tokenizer{}
	dir := os.Getenv(oracleDirEnv)
	if dir == "" {
		for _, name := range []string{"llama3", "sentencepiece"} {
			_, toks["golden "+name] = loadGolden(b, name)
		}
		return toks
	}
	for _, name := range []string{"llama3", "qwen3", "gptoss", "deepseek_v3", "llama2", "gemma3", "unigram", "smollm2"} {
		toks[name] = loadTokenizer(b, filepath.Join(dir, "vocab", name+".json"))
	}
	return toks
}

// benchText is the corpus' English and code, about 2 KB at a time.
func benchText(b *testing.B) (chunks []string, size int) {
	path := "testdata/corpus.json"
	if dir := os.Getenv(oracleDirEnv); dir != "" {
		path = filepath.Join(dir, "corpus.json")
	}
	var corpus []corpusEntry
	readJSON(b, path, &corpus)
	var text strings.Builder
	for _, c := range corpus {
		if c.C != "english" && c.C != "code" {
			continue
		}
		text.WriteString(c.S)
		text.WriteByte('\n')
		if text.Len() > 2048 {
			size += text.Len()
			chunks = append(chunks, text.String())
			text.Reset()
		}
	}
	if text.Len() > 0 {
		size += text.Len()
		chunks = append(chunks, text.String())
	}
	return chunks, size
}

func BenchmarkEncode(b *testing.B) {
	chunks, size := benchText(b)
	for name, tok := range benchTokenizers(b) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				for _, c := range chunks {
					tok.Encode(c, true)
				}
			}
		})
	}
}

func BenchmarkStream(b *testing.B) {
	chunks, size := benchText(b)
	for name, tok := range benchTokenizers(b) {
		ids := tok.Encode(strings.Join(chunks, ""), false)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				s := tok.NewStream(DecodeOptions{})
				for _, id := range ids {
					s.Push(id)
				}
				s.Flush()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(ids)), "ns/token")
		})
	}
}

func BenchmarkFromJSON(b *testing.B) {
	dir := os.Getenv(oracleDirEnv)
	if dir == "" {
		b.Skipf("%s is not set", oracleDirEnv)
	}
	for _, name := range []string{"llama3", "gemma3", "smollm2"} {
		file, err := os.ReadFile(filepath.Join(dir, "vocab", name+".json"))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := FromJSON(file); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEncodeMixed encodes the whole corpus, string by string: all scripts,
// random code points, few words twice.
func BenchmarkEncodeMixed(b *testing.B) {
	corpus := loadCorpus(b)
	if dir := os.Getenv(oracleDirEnv); dir != "" {
		corpus = nil
		readJSON(b, filepath.Join(dir, "corpus.json"), &corpus)
	}
	size := 0
	for _, c := range corpus {
		size += len(c.S)
	}
	for name, tok := range benchTokenizers(b) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				for _, c := range corpus {
					tok.Encode(c.S, true)
				}
			}
		})
	}
}
