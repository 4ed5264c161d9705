package chorale_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPeerTests: every test that docs/peer-tests.md names exists, and every row
// names one or says why there is none.
func TestPeerTests(t *testing.T) {
	doc, err := os.ReadFile("docs/peer-tests.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([^` ]+_test\\.go):(\\w+)(?:/([^`]+))?`")
	files := map[string]string{}
	for _, m := range named.FindAllStringSubmatch(string(doc), -1) {
		path, name, part := m[1], m[2], m[3]
		if _, ok := files[path]; !ok {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Errorf("%s: %v", m[0], err)
			}
			files[path] = string(b)
		}
		found := regexp.MustCompile(`(?m)^func (\([^)]+\) )?` + name + `\(`).MatchString(files[path])
		if !found || part != "" && !strings.Contains(files[path], `"`+part+`"`) {
			t.Errorf("there is no %s", m[0])
		}
	}
	rows := 0
	for line := range strings.Lines(string(doc)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| behaviour") || strings.HasPrefix(line, "| input") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || strings.TrimSpace(cells[0]) == "" || strings.TrimSpace(cells[1]) == "" && strings.TrimSpace(cells[2]) == "" {
			t.Errorf("a row without a test or a reason: %s", line)
		}
	}
	if rows < 80 {
		t.Errorf("%d rows", rows)
	}
}
