package chattemplate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// oracleTemplate is one template with cases that tools/oracle/chat/oracle.py
// has rendered with jinja2.
type oracleTemplate struct {
	Name     string       `json:"name"`
	Template string       `json:"template"`
	Cases    []oracleCase `json:"cases"`
}

type oracleCase struct {
	Name   string          `json:"name"`
	Vars   json.RawMessage `json:"vars"`
	Output *string         `json:"output"`
	Error  string          `json:"error"`
}

// oracleNow is the clock of the oracle.
func oracleNow() time.Time { return time.Date(2025, 7, 10, 12, 0, 0, 0, time.UTC) }

func readOracle(t testing.TB, path string) []oracleTemplate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []oracleTemplate
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return out
}

// diff renders a case and says how it differs from the oracle, "" if it does
// not: same text, or an error in both.
func (o *oracleTemplate) diff(c *oracleCase) string {
	out, err := renderJSON(o.Template, c.Vars)
	switch {
	case c.Output == nil && err == nil:
		return fmt.Sprintf("got %q, want error %q", clip(out), c.Error)
	case c.Output == nil:
		return ""
	case err != nil:
		return fmt.Sprintf("error %v, want %q", err, clip(*c.Output))
	case out != *c.Output:
		i := 0
		for i < len(out) && i < len(*c.Output) && out[i] == (*c.Output)[i] {
			i++
		}
		i = max(0, i-20)
		return fmt.Sprintf("at byte %d: got %q, want %q", i, clip(out[i:]), clip((*c.Output)[i:]))
	}
	return ""
}

func clip(s string) string { return s[:min(len(s), 120)] }

func renderJSON(template string, vars json.RawMessage) (string, error) {
	tpl, err := Parse(template)
	if err != nil {
		return "", err
	}
	v, err := FromJSON(vars)
	if err != nil {
		return "", err
	}
	return tpl.Render(v, Options{Now: oracleNow})
}

// TestOracle compares the templates of well-known models, which
// tools/oracle/chat fetches. They are not ours to commit.
func TestOracle(t *testing.T) {
	dir := os.Getenv("CHORALE_ORACLE_DIR")
	if dir == "" {
		t.Skip("CHORALE_ORACLE_DIR is not set; see tools/oracle/chat")
	}
	templates := readOracle(t, filepath.Join(dir, "chat", "expected.json"))
	same, cases, good := 0, 0, 0
	for i := range templates {
		o := &templates[i]
		bad := 0
		for j := range o.Cases {
			cases++
			d := o.diff(&o.Cases[j])
			if d == "" {
				good++
				continue
			}
			bad++
			t.Logf("%s/%s: %s", o.Name, o.Cases[j].Name, d)
		}
		if bad == 0 {
			same++
		}
	}
	t.Logf("%d of %d templates and %d of %d cases as jinja2 renders them", same, len(templates), good, cases)
	if len(templates) == 0 || same*100 < len(templates)*95 {
		t.Errorf("%d of %d templates agree, want at least 95 %%", same, len(templates))
	}
}
