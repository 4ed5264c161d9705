package hub

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	for _, tc := range []struct{ in, repo, revision string }{
		{"org/name", "org/name", "main"},
		{"gpt2", "gpt2", "main"},
		{"org/name@v1.0", "org/name", "v1.0"},
		{"org/name@refs/pr/1", "org/name", "refs/pr/1"},
		{"a-b/c_d.e", "a-b/c_d.e", "main"},
	} {
		repo, revision, err := ParseName(tc.in)
		if err != nil || repo != tc.repo || revision != tc.revision {
			t.Errorf("%q: %q %q %v", tc.in, repo, revision, err)
		}
	}
	for _, in := range []string{
		"", "/", "a/", "/a", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a/b@/x", "a/b@x//y", "a--b/c", ".a/b",
		"a/b.", "a b/c", "a/b@-x", "a/b@x\x00", `a\b`, strings.Repeat("a", 97),
	} {
		if repo, revision, err := ParseName(in); err == nil {
			t.Errorf("%q accepted as %q %q", in, repo, revision)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, tc := range []struct {
		pattern, path string
		want          bool
	}{
		{"*.json", "a.json", true},
		{"*.json", "sub/a.json", true},
		{"*.json", "a.json5", false},
		{"a*b*c", "aXXbYYbZc", true},
		{"a*b*c", "aXXbYYbZ", false},
		{"?.txt", "a.txt", true},
		{"?.txt", ".txt", false},
		{"", "", true},
		{"*", "", true},
		{"tokenizer.model", "x/tokenizer.model", false},
	} {
		if got := matches(tc.pattern, tc.path); got != tc.want {
			t.Errorf("matches(%q, %q) = %v", tc.pattern, tc.path, got)
		}
	}
}

func TestOptionsFromEnv(t *testing.T) {
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, "hf"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "hf", "token"), []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		env  map[string]string
		want Options
	}{
		{"home", map[string]string{"HOME": "/h"}, Options{CacheDir: "/h/.cache/huggingface/hub"}},
		{"xdg", map[string]string{"HOME": "/h", "XDG_CACHE_HOME": "/x"}, Options{CacheDir: "/x/huggingface/hub"}},
		{"hf home", map[string]string{"HF_HOME": "~/hf", "HOME": home}, Options{CacheDir: home + "/hf/hub", Token: "from-file"}},
		{"token file", map[string]string{"HOME": "/h", "HF_TOKEN_PATH": home + "/hf/token"}, Options{
			CacheDir: "/h/.cache/huggingface/hub", Token: "from-file",
		}},
		{"all", map[string]string{
			"HOME": "/h", "HF_HUB_CACHE": "/c", "HF_ENDPOINT": "http://e", "HF_TOKEN": " t ", "HF_HUB_OFFLINE": "yes",
		}, Options{CacheDir: "/c", Endpoint: "http://e", Token: "t", Offline: true}},
		{"online", map[string]string{"HOME": "/h", "HF_HUB_OFFLINE": "0"}, Options{CacheDir: "/h/.cache/huggingface/hub"}},
	} {
		got, err := OptionsFromEnv(func(k string) (string, bool) { v, ok := tc.env[k]; return v, ok })
		if err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
	if _, err := OptionsFromEnv(func(string) (string, bool) { return "", false }); err == nil {
		t.Error("no HOME: no error")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, o := range []Options{{}, {CacheDir: "/c", Endpoint: "ftp://x"}, {CacheDir: "/c", Endpoint: "://"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v accepted", o)
		}
	}
}

func FuzzListing(f *testing.F) {
	f.Add([]byte(`{"sha":"` + strings.Repeat("a", 40) + `","siblings":[{"rfilename":"a/b.json"}]}`))
	f.Add([]byte(`{"sha":"../..","siblings":[{"rfilename":"../b.json"}]}`))
	f.Add([]byte(`{"siblings":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := parseListing(b)
		if err != nil {
			return
		}
		root := filepath.Join(t.TempDir(), "snapshots", info.Commit)
		for _, file := range info.Files {
			p := filepath.Join(root, filepath.FromSlash(file))
			if rel, err := filepath.Rel(root, p); err != nil || strings.HasPrefix(rel, "..") || rel == "." {
				t.Fatalf("%q leaves its root", file)
			}
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add("org/name@main")
	f.Add("../x@..")
	f.Fuzz(func(t *testing.T, s string) {
		repo, revision, err := ParseName(s)
		if err != nil {
			return
		}
		c := Client{o: Options{CacheDir: "/c"}}
		d := c.repoDir(repo)
		refs := filepath.Join("/c", d.name, "refs") + string(filepath.Separator)
		if filepath.Dir(filepath.Join("/c", d.name)) != "/c" || !strings.HasPrefix(d.ref(revision), refs) {
			t.Fatalf("%q leaves the cache: %s", s, d.ref(revision))
		}
	})
}
