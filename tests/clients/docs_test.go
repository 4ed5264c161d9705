package clients

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"chorale/internal/testkit"
)

// snippet is a fenced block of docs/clients.md that names where it stands in a
// tested script.
var snippet = regexp.MustCompile("(?ms)^<!-- tests/clients/(\\S+): (\\w+) -->\n```\\w+\n(.*?)^```\n")

// part gives what stands between "doc: name" and "doc: end" in a script, less
// the indentation of its first line.
func part(script, name string) string {
	var lines []string
	inside := false
	for line := range strings.Lines(script) {
		mark := strings.TrimLeft(strings.TrimSpace(line), "/# ")
		switch {
		case mark == "doc: "+name:
			inside = true
		case mark == "doc: end":
			inside = false
		case inside:
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return ""
	}
	indent := lines[0][:len(lines[0])-len(strings.TrimLeft(lines[0], " \t"))]
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, indent)
	}
	return strings.Join(lines, "")
}

// TestDocumentation: what docs/clients.md shows is what the tests run, and all
// of it.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(testkit.Root(), "docs", "clients.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, m := range snippet.FindAllStringSubmatch(string(page), -1) {
		script, err := os.ReadFile(m[1])
		if err != nil {
			t.Error(err)
			continue
		}
		if want := part(string(script), m[2]); m[3] != want {
			t.Errorf("docs/clients.md shows of %s, %s:\n%s\nwhere the script has:\n%s", m[1], m[2], m[3], want)
		}
		shown[m[1]+" "+m[2]] = true
	}
	scripts, err := filepath.Glob("*/*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range scripts {
		script, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\s*(?:#|//) doc: (\w+)$`).FindAllStringSubmatch(string(script), -1) {
			if m[1] != "end" && !shown[path+" "+m[1]] {
				t.Errorf("docs/clients.md does not show %q of %s", m[1], path)
			}
		}
	}
}
