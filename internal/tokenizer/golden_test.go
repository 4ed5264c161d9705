package tokenizer

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// golden is a small vocabulary trained on our own text by
// tools/oracle/tokenizer/golden.py, with the reference's results on
// testdata/corpus.json.
type golden struct {
	Tokenizer json.RawMessage `json:"tokenizer"`
	Rows      []oracleRow     `json:"rows"`
}

// forEachGolden runs f for every golden vocabulary.
func forEachGolden(t *testing.T, f func(t *testing.T, g *golden, tok *Tokenizer)) {
	t.Helper()
	files, err := filepath.Glob("testdata/golden_*.json")
	if err != nil || len(files) < 12 {
		t.Fatalf("goldens: %d files, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "golden_"), ".json")
		t.Run(name, func(t *testing.T) {
			g, tok := loadGolden(t, name)
			f(t, g, tok)
		})
	}
}

func loadGolden(t testing.TB, name string) (*golden, *Tokenizer) {
	t.Helper()
	g := &golden{}
	readJSON(t, filepath.Join("testdata", "golden_"+name+".json"), g)
	tok, err := FromJSON(g.Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	return g, tok
}

func loadCorpus(t testing.TB) []corpusEntry {
	t.Helper()
	var corpus []corpusEntry
	readJSON(t, "testdata/corpus.json", &corpus)
	return corpus
}

func TestGolden(t *testing.T) {
	corpus := loadCorpus(t)
	forEachGolden(t, func(t *testing.T, g *golden, tok *Tokenizer) {
		compareRows(t, tok, corpus, g.Rows)
	})
}
