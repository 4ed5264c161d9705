package source

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"chorale/internal/hub"
	"chorale/internal/hub/hubtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func adapterFiles() map[string]string {
	return map[string]string{ConfigFile: `{"r":8}`, WeightsFile: "weights"}
}

func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func resolver(t *testing.T, o Options) *Resolver {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func checkFetch(t *testing.T, r *Resolver, source string) {
	t.Helper()
	a, err := r.Fetch(t.Context(), source)
	if err != nil {
		t.Errorf("%q: %v", source, err)
		return
	}
	defer a.Close()
	w, err := io.ReadAll(a.Weights)
	if err != nil || string(w) != "weights" || string(a.Config) != `{"r":8}` || a.Size != 7 {
		t.Errorf("%q: %q %q %d, %v", source, w, a.Config, a.Size, err)
	}
}

func TestFolders(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "root")
	write(t, filepath.Join(root, "team", "a"), adapterFiles())
	outside := write(t, filepath.Join(top, "outside"), adapterFiles())
	write(t, filepath.Join(top, "root-not"), adapterFiles())
	for link, target := range map[string]string{
		"inner": "team/a", "leak": outside, "leak2": "../outside",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	// A folder below the root whose weights are a symlink out of it.
	leaky := write(t, filepath.Join(root, "leaky"), map[string]string{ConfigFile: `{"r":8}`})
	if err := os.Symlink(filepath.Join(outside, WeightsFile), filepath.Join(leaky, WeightsFile)); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.WarnLevel)
	r := resolver(t, Options{Roots: []string{root}, Log: zap.New(core)})
	for _, s := range []string{
		filepath.Join(root, "team", "a"), "team/a", "./team/a", "inner", filepath.Join(root, "inner"),
		filepath.Join(root, "x", "..", "team", "a") + "/",
	} {
		checkFetch(t, r, s)
	}
	var message string
	for _, s := range []string{
		outside, filepath.Join(top, "no-such"), filepath.Join(top, "root-not"), "leak", "leak2", "../outside",
		filepath.Join(root, "..", "outside"), "", "a\x00b", "/etc", filepath.Join(root, "team", "a", ConfigFile),
	} {
		logs.TakeAll()
		_, err := r.Fetch(t.Context(), s)
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", s, err)
			continue
		}
		// The same sentence, whether it exists or not.
		m := strings.ReplaceAll(err.Error(), quoted(s), "X")
		if message == "" {
			message = m
		}
		if m != message {
			t.Errorf("%q tells more: %s", s, m)
		}
		if logs.FilterMessage("adapter source refused").Len() != 1 {
			t.Errorf("%q: the operator is not told", s)
		}
	}
	if _, err := r.Fetch(t.Context(), "leaky"); !errors.Is(err, ErrInvalid) {
		t.Errorf("weights outside the root: %v", err)
	}
}

func quoted(s string) string { return `"` + strings.ReplaceAll(s, "\x00", `\x00`) + `"` }

func TestExactSourcesAreAlwaysAllowed(t *testing.T) {
	top := t.TempDir()
	dir := write(t, filepath.Join(top, "a"), adapterFiles())
	linked := write(t, filepath.Join(top, "linked"), nil)
	for _, f := range []string{ConfigFile, WeightsFile} {
		if err := os.Symlink(filepath.Join("..", "a", f), filepath.Join(linked, f)); err != nil {
			t.Fatal(err)
		}
	}
	r := resolver(t, Options{Exact: []string{dir, linked}})
	checkFetch(t, r, dir)
	checkFetch(t, r, linked)
	for _, s := range []string{dir + "/", dir + "/../a"} {
		if _, err := r.Fetch(t.Context(), s); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestRootsMustBeFolders(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"file": ""})
	for _, root := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "file")} {
		if _, err := New(Options{Roots: []string{root}}); err == nil || !strings.Contains(err.Error(), root) {
			t.Errorf("%s: %v", root, err)
		}
	}
}

func TestIncompleteAdapters(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  error
		says  string
	}{
		{"no config", map[string]string{WeightsFile: "w"}, ErrInvalid, "no " + ConfigFile},
		{"no weights", map[string]string{ConfigFile: "{}"}, ErrInvalid, "no " + WeightsFile},
		{"only pickled", map[string]string{ConfigFile: "{}", pickledFile: "w"}, ErrUnsupported, "pickle"},
		{"large config", map[string]string{ConfigFile: strings.Repeat(" ", maxConfig+1), WeightsFile: "w"}, ErrTooLarge, ConfigFile},
		{"large weights", map[string]string{ConfigFile: "{}", WeightsFile: strings.Repeat("w", 101)}, ErrTooLarge, "101"},
	} {
		root := t.TempDir()
		write(t, filepath.Join(root, "a"), tc.files)
		_, err := resolver(t, Options{Roots: []string{root}, MaxWeights: 100}).Fetch(t.Context(), "a")
		if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestAddedTokensAreRead(t *testing.T) {
	root := t.TempDir()
	files := adapterFiles()
	files[AddedTokensFile] = `{"<x>": 9}`
	write(t, filepath.Join(root, "a"), files)
	a, err := resolver(t, Options{Roots: []string{root}}).Fetch(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if string(a.AddedTokens) != `{"<x>": 9}` {
		t.Errorf("%q", a.AddedTokens)
	}
}

func TestHub(t *testing.T) {
	s := hubtest.New()
	defer s.Close()
	files := func(m map[string]string) map[string][]byte {
		out := map[string][]byte{}
		for k, v := range maps.All(m) {
			out[k] = []byte(v)
		}
		return out
	}
	s.Put("org/voice", hubtest.Repo{Files: files(adapterFiles())})
	s.Put("org/branch", hubtest.Repo{Files: files(adapterFiles()), Branch: "v2"})
	s.Put("org/pickled", hubtest.Repo{Files: files(map[string]string{ConfigFile: "{}", pickledFile: "x"})})
	s.Put("org/gated", hubtest.Repo{Gated: true})
	c, err := hub.New(hub.Options{CacheDir: t.TempDir(), Endpoint: s.URL, Retries: -1, RetryWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	r := resolver(t, Options{Hub: c})
	checkFetch(t, r, "org/voice")
	checkFetch(t, r, "org/branch@v2")
	for source, want := range map[string]error{
		"org/none": ErrNotFound, "org/branch": ErrNotFound, "org/pickled": ErrUnsupported,
		"org/gated": ErrDenied, "nobody": ErrNotFound, "../etc": ErrNotFound,
	} {
		if _, err := r.Fetch(t.Context(), source); !errors.Is(err, want) {
			t.Errorf("%s: %v", source, err)
		}
	}
	s.Break("", &hubtest.Fault{Status: 503})
	if _, err := r.Fetch(t.Context(), "org/other"); !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrUnavailable) {
		t.Errorf("unreachable: %v", err)
	}
	if _, err := resolver(t, Options{}).Fetch(t.Context(), "org/voice"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no hub: %v", err)
	}
	// A folder below a root wins over the hub.
	root := t.TempDir()
	write(t, filepath.Join(root, "org", "gated"), adapterFiles())
	checkFetch(t, resolver(t, Options{Hub: c, Roots: []string{root}}), "org/gated")
}
