package chattemplate

import (
	"encoding/json"
	"os"
	"testing"
)

// randomCases are random expressions with jinja2's results, by
// tools/oracle/chat/generate.py.
type randomCases struct {
	Vars  json.RawMessage `json:"vars"`
	Cases [][2]*string    `json:"cases"` // template, output or null for an error
}

// TestRandomExpressions compares with the stored cases, or with those of the
// file that CHORALE_ORACLE_EXPRS names.
func TestRandomExpressions(t *testing.T) {
	path := "testdata/random.json"
	if p := os.Getenv("CHORALE_ORACLE_EXPRS"); p != "" {
		path = p
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r randomCases
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Cases) < 500 {
		t.Errorf("%d cases, want 500 at least", len(r.Cases))
	}
	for _, c := range r.Cases {
		o := oracleTemplate{Template: *c[0]}
		if d := o.diff(&oracleCase{Vars: r.Vars, Output: c[1]}); d != "" {
			t.Errorf("%s\n\t%s", *c[0], d)
		}
	}
}
