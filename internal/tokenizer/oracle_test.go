package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// oracleDirEnv names the folder that tools/oracle/tokenizer/run.sh fills.
const oracleDirEnv = "CHORALE_ORACLE_DIR"

type oracleRow struct {
	IDs     []int32 `json:"ids"`
	Special []int32 `json:"special"`
	Text    string  `json:"text"`
	Skip    string  `json:"skip"`
}

type corpusEntry struct {
	C string `json:"c"`
	S string `json:"s"`
}

// oracleNames are all tokenizers that run.sh writes.
var oracleNames = []string{
	"llama3", "llama3_1", "qwen3", "gpt4o", "gptoss", "deepseek_v3", "llama2", "gemma3",
	"gpt2style", "metaspace", "unigram", "smollm2",
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func loadTokenizer(t testing.TB, path string) *Tokenizer {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := FromJSON(b)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return tok
}

// TestOracle compares every tokenizer with the Hugging Face Rust library, on
// the large corpus of CHORALE_ORACLE_DIR. TestGolden is its small sister.
func TestOracle(t *testing.T) {
	dir := os.Getenv(oracleDirEnv)
	if dir == "" {
		t.Skipf("%s is not set; TestGolden covers the small vocabularies", oracleDirEnv)
	}
	var corpus []corpusEntry
	readJSON(t, filepath.Join(dir, "corpus.json"), &corpus)
	for _, name := range oracleNames {
		t.Run(name, func(t *testing.T) {
			var rows []oracleRow
			readJSON(t, filepath.Join(dir, "oracle", name+".json"), &rows)
			tok := loadTokenizer(t, filepath.Join(dir, "vocab", name+".json"))
			compareRows(t, tok, corpus, rows)
		})
	}
}

// compareRows reports the first few strings on which tok and the oracle
// differ, and how many there are.
func compareRows(t *testing.T, tok *Tokenizer, corpus []corpusEntry, rows []oracleRow) {
	t.Helper()
	if len(rows) != len(corpus) {
		t.Fatalf("%d oracle rows for %d strings", len(rows), len(corpus))
	}
	bad := map[string]int{}
	report := func(what, s string, got, want any) {
		if bad[what]++; bad[what] <= 5 {
			t.Errorf("%s of %.100q: %s", what, s, cmp.Diff(want, got))
		}
	}
	for i, c := range corpus {
		want := rows[i]
		if got := tok.Encode(c.S, false); !slices.Equal(got, want.IDs) {
			report("ids", c.S, got, want.IDs)
		}
		if got := tok.Encode(c.S, true); !slices.Equal(got, want.Special) {
			report("ids with special tokens", c.S, got, want.Special)
		}
		if got := tok.Decode(want.IDs, DecodeOptions{}); got != want.Text {
			report("text", c.S, got, want.Text)
		}
		if got := tok.Decode(want.IDs, DecodeOptions{SkipSpecial: true}); got != want.Skip {
			report("text without special tokens", c.S, got, want.Skip)
		}
	}
	for what, n := range bad {
		t.Errorf("%s: %d of %d differ", what, n, len(corpus))
	}
}
