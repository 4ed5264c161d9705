package hub_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"chorale/internal/hub"
	"chorale/internal/hub/hubtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	repoName = "org/voice"
	weights  = "adapter_model.safetensors"
)

func bytesOf(seed uint64, n int) []byte {
	r, b := rand.New(rand.NewPCG(seed, 0)), make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func voice() hubtest.Repo {
	return hubtest.Repo{Files: map[string][]byte{
		"adapter_config.json": []byte(`{"r": 8}`),
		weights:               bytesOf(1, 300_000),
		"adapter_model.bin":   []byte("pickled"),
		"sub dir/extra.json":  []byte("{}"),
		"README.md":           []byte("text"),
		"empty.json":          {},
	}}
}

func start(t *testing.T) *hubtest.Server {
	t.Helper()
	s := hubtest.New()
	s.Put(repoName, voice())
	t.Cleanup(s.Close)
	return s
}

func client(t *testing.T, s *hubtest.Server, change ...func(*hub.Options)) *hub.Client {
	t.Helper()
	o := hub.Options{CacheDir: filepath.Join(t.TempDir(), "hub"), Endpoint: s.URL, RetryWait: time.Millisecond}
	for _, f := range change {
		f(&o)
	}
	c, err := hub.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func cacheIn(dir string) func(*hub.Options) { return func(o *hub.Options) { o.CacheDir = dir } }

func mustSnapshot(t *testing.T, c *hub.Client) string {
	t.Helper()
	dir, err := c.Snapshot(t.Context(), repoName, "main", hub.SnapshotOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkFile(t, filepath.Join(dir, weights), voice().Files[weights])
	return dir
}

func checkFile(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: %d bytes differ from the %d wanted", path, len(got), len(want))
	}
}

func tree(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			files = append(files, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestSnapshotLayout(t *testing.T) {
	s := start(t)
	cache := t.TempDir()
	dir := mustSnapshot(t, client(t, s, cacheIn(cache)))
	commit := voice().Commit()
	root := filepath.Join(cache, "models--org--voice")
	if want := filepath.Join(root, "snapshots", commit); dir != want {
		t.Errorf("dir = %s, want %s", dir, want)
	}
	want := []string{"adapter_config.json", weights, "empty.json", "sub dir/extra.json"}
	slices.Sort(want)
	if d := cmp.Diff(want, tree(t, dir)); d != "" {
		t.Error(d)
	}
	checkFile(t, filepath.Join(root, "refs", "main"), []byte(commit))
	sum := sha256.Sum256(voice().Files[weights])
	link, err := os.Readlink(filepath.Join(dir, weights))
	if want := "../../blobs/" + hex.EncodeToString(sum[:]); err != nil || link != want {
		t.Errorf("link = %q, %v, want %q", link, err, want)
	}
	link, err = os.Readlink(filepath.Join(dir, "sub dir", "extra.json"))
	// git hash-object of "{}"
	if want := "../../../blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b"; err != nil || link != want {
		t.Errorf("link = %q, %v, want %q", link, err, want)
	}
	for _, f := range tree(t, root) {
		if strings.HasSuffix(f, ".incomplete") || strings.HasSuffix(f, ".tmp") {
			t.Errorf("left behind: %s", f)
		}
	}
}

func TestSecondSnapshotAsksOnlyForTheListing(t *testing.T) {
	s := start(t)
	c := client(t, s)
	mustSnapshot(t, c)
	s.Requests()
	mustSnapshot(t, c)
	if r := s.Requests(); len(r) != 1 || !strings.HasPrefix(r[0].Path, "/api/models/") {
		t.Errorf("requests: %+v", r)
	}
}

func TestNewCommitSharesBlobs(t *testing.T) {
	s := start(t)
	c := client(t, s)
	first := mustSnapshot(t, c)
	r := voice()
	r.Files["adapter_config.json"] = []byte(`{"r": 16}`)
	s.Put(repoName, r)
	s.Requests()
	second := mustSnapshot(t, c)
	if first == second {
		t.Fatal("the snapshot did not change")
	}
	checkFile(t, filepath.Join(second, "adapter_config.json"), []byte(`{"r": 16}`))
	for _, q := range s.Requests() {
		if q.Host == "cdn" {
			t.Errorf("fetched again: %+v", q)
		}
	}
}

func TestAllow(t *testing.T) {
	s := start(t)
	dir, err := client(t, s).Snapshot(t.Context(), repoName, "", hub.SnapshotOptions{Allow: []string{"adapter_?onfig.json"}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"adapter_config.json"}, tree(t, dir)); d != "" {
		t.Error(d)
	}
	_, err = client(t, s).Snapshot(t.Context(), repoName, "", hub.SnapshotOptions{Allow: []string{"*.gguf"}})
	if !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("nothing allowed: %v", err)
	}
}

func TestProgressIsMonotoneAndComplete(t *testing.T) {
	s := start(t)
	s.Break(weights, &hubtest.Fault{CutAfter: 100_000, Times: 1})
	var mu sync.Mutex
	var last hub.Progress
	files := map[string]int64{}
	_, err := client(t, s).Snapshot(t.Context(), repoName, "", hub.SnapshotOptions{Progress: func(p hub.Progress) {
		if !mu.TryLock() {
			t.Error("called concurrently")
			return
		}
		defer mu.Unlock()
		if p.TotalDone < last.TotalDone || p.Done < files[p.File] {
			t.Errorf("went back: %+v after %+v", p, last)
		}
		last, files[p.File] = p, p.Done
	}})
	if err != nil {
		t.Fatal(err)
	}
	if last.TotalDone != last.TotalSize || files[weights] != 300_000 || len(files) != 4 {
		t.Errorf("ended at %+v, %v", last, files)
	}
}

func TestResumeWithinARun(t *testing.T) {
	s := start(t)
	s.Break(weights, &hubtest.Fault{CutAfter: 100_000, Times: 2})
	mustSnapshot(t, client(t, s))
	var ranges []string
	for _, r := range s.Requests() {
		if r.Host == "cdn" {
			ranges = append(ranges, r.Range)
		}
	}
	if len(ranges) != 3 || ranges[0] != "" || ranges[1] == "" || ranges[2] == "" {
		t.Errorf("ranges: %q", ranges)
	}
}

func TestResumeAfterARun(t *testing.T) {
	for _, ignore := range []bool{false, true} {
		s := start(t)
		cache := t.TempDir()
		s.Break(weights, &hubtest.Fault{CutAfter: 100_000})
		_, err := client(t, s, cacheIn(cache), func(o *hub.Options) { o.Retries = -1 }).
			Snapshot(t.Context(), repoName, "main", hub.SnapshotOptions{})
		if !errors.Is(err, hub.ErrNetwork) {
			t.Fatalf("cut download: %v", err)
		}
		if _, err := os.Stat(filepath.Join(cache, "models--org--voice", "refs", "main")); err == nil {
			t.Error("refs/main names a snapshot that is not complete")
		}
		s.Break(weights, &hubtest.Fault{IgnoreRange: ignore})
		s.Requests()
		mustSnapshot(t, client(t, s, cacheIn(cache)))
		i := slices.IndexFunc(s.Requests(), func(r hubtest.Request) bool { return r.Range == "bytes=100000-" })
		if i < 0 {
			t.Error("did not resume")
		}
	}
}

func TestBadLeftoverIsFetchedAgain(t *testing.T) {
	for name, leftover := range map[string][]byte{
		"wrong bytes": bytesOf(9, 1000),
		"too long":    bytesOf(9, 300_001),
		"whole wrong": bytesOf(9, 300_000),
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			cache := t.TempDir()
			sum := sha256.Sum256(voice().Files[weights])
			blobs := filepath.Join(cache, "models--org--voice", "blobs")
			if err := os.MkdirAll(blobs, 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(blobs, hex.EncodeToString(sum[:])+".incomplete")
			if err := os.WriteFile(path, leftover, 0o644); err != nil {
				t.Fatal(err)
			}
			mustSnapshot(t, client(t, s, cacheIn(cache)))
		})
	}
}

func TestFaults(t *testing.T) {
	few := func(o *hub.Options) { o.Retries = 1 }
	for _, tc := range []struct {
		name  string
		file  string
		fault hubtest.Fault
		opt   func(*hub.Options)
		want  error
	}{
		{"wrong sha256", weights, hubtest.Fault{Corrupt: true}, nil, hub.ErrChecksum},
		{"wrong git sha1", "adapter_config.json", hubtest.Fault{Corrupt: true}, nil, hub.ErrChecksum},
		{"longer than announced", weights, hubtest.Fault{Extra: 5}, nil, hub.ErrProtocol},
		{"announced too short", weights, hubtest.Fault{LinkedSize: 1000}, nil, hub.ErrProtocol},
		{"announced too long", weights, hubtest.Fault{LinkedSize: 300_001}, few, hub.ErrNetwork},
		{"announced absurdly long", weights, hubtest.Fault{LinkedSize: 1 << 62}, nil, hub.ErrTooLarge},
		{"no etag", weights, hubtest.Fault{NoETag: true}, nil, hub.ErrProtocol},
		{"cdn 403", weights, hubtest.Fault{Status: 403}, nil, hub.ErrUnauthorized},
		{"cdn 404", weights, hubtest.Fault{Status: 404}, nil, hub.ErrNotFound},
		{"cdn 503", weights, hubtest.Fault{Status: 503}, few, hub.ErrNetwork},
		{"stall", weights, hubtest.Fault{StallAfter: 10}, func(o *hub.Options) {
			o.StallTimeout, o.Retries = 50*time.Millisecond, -1
		}, hub.ErrNetwork},
		{"file limit", "", hubtest.Fault{}, func(o *hub.Options) { o.MaxFileBytes = 1000 }, hub.ErrTooLarge},
		{"total limit", "", hubtest.Fault{}, func(o *hub.Options) { o.MaxTotalBytes = 1000 }, hub.ErrTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := start(t)
			if tc.file != "" {
				s.Break(tc.file, &tc.fault)
			}
			cache := t.TempDir()
			opts := []func(*hub.Options){cacheIn(cache)}
			if tc.opt != nil {
				opts = append(opts, tc.opt)
			}
			_, err := client(t, s, opts...).Snapshot(t.Context(), repoName, "main", hub.SnapshotOptions{})
			if !errors.Is(err, tc.want) {
				t.Fatalf("err = %v, want %v", err, tc.want)
			}
			var e *hub.Error
			if !errors.As(err, &e) || e.Repo != repoName || e.Revision != "main" || (tc.file != "" && e.File != tc.file) {
				t.Errorf("names the wrong place: %#v", e)
			}
			if tc.file == weights {
				s.Break(tc.file, nil)
				mustSnapshot(t, client(t, s, cacheIn(cache))) // whatever was left does no harm
			}
		})
	}
}

func TestRecoversFromPassingFaults(t *testing.T) {
	s := start(t)
	s.Break(weights, &hubtest.Fault{Status: 502, Times: 2})
	s.Break("", &hubtest.Fault{Status: 429, Times: 1})
	mustSnapshot(t, client(t, s))
}

func TestCancelDuringStall(t *testing.T) {
	s := start(t)
	s.Break(weights, &hubtest.Fault{StallAfter: 10})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := client(t, s).Snapshot(ctx, repoName, "main", hub.SnapshotOptions{})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, hub.ErrNetwork) {
		t.Errorf("err = %v", err)
	}
}

func TestAccess(t *testing.T) {
	s := start(t)
	s.Token = "hf_secret"
	s.Put("org/private", hubtest.Repo{Files: voice().Files, Private: true})
	s.Put("org/gated", hubtest.Repo{Files: voice().Files, Gated: true})
	s.Put("org/moved", hubtest.Repo{Files: voice().Files, Private: true})
	s.Rename("org/old", "org/moved")
	with := func(o *hub.Options) { o.Token = "hf_secret" }
	for _, tc := range []struct {
		repo, revision string
		token          bool
		want           error
	}{
		{"org/none", "main", false, hub.ErrNotFound},
		{"org/none", "main", true, hub.ErrNotFound},
		{"org/private", "main", false, hub.ErrNotFound},
		{"org/private", "main", true, nil},
		{"org/old", "main", true, nil},
		{"org/gated", "main", true, hub.ErrGated},
		{repoName, "no-such-branch", false, hub.ErrNotFound},
		{repoName, voice().Commit(), false, nil},
	} {
		s.Requests()
		opt := func(*hub.Options) {}
		if tc.token {
			opt = with
		}
		_, err := client(t, s, opt).Snapshot(t.Context(), tc.repo, tc.revision, hub.SnapshotOptions{})
		if !errors.Is(err, tc.want) {
			t.Errorf("%s@%s token %v: err = %v, want %v", tc.repo, tc.revision, tc.token, err, tc.want)
		}
		if err != nil && (!strings.Contains(err.Error(), tc.repo) || !strings.Contains(err.Error(), tc.revision)) {
			t.Errorf("does not name the repository and revision: %v", err)
		}
		for _, r := range s.Requests() {
			if r.Host == "cdn" && r.Authorization != "" {
				t.Errorf("the token went to another host: %+v", r)
			}
			if r.Host == "hub" && (r.Authorization != "") != tc.token {
				t.Errorf("token: %+v", r)
			}
		}
	}
}

func TestUnauthorizedWithoutCode(t *testing.T) {
	s := start(t)
	s.Break("", &hubtest.Fault{Status: 401})
	_, err := client(t, s).Snapshot(t.Context(), repoName, "main", hub.SnapshotOptions{})
	if !errors.Is(err, hub.ErrUnauthorized) {
		t.Errorf("err = %v", err)
	}
}

func TestOffline(t *testing.T) {
	s := start(t)
	cache := t.TempDir()
	off := func(o *hub.Options) { o.Offline = true }
	_, err := client(t, s, cacheIn(cache), off).Snapshot(t.Context(), repoName, "main", hub.SnapshotOptions{})
	if !errors.Is(err, hub.ErrOffline) {
		t.Fatalf("nothing cached: %v", err)
	}
	dir := mustSnapshot(t, client(t, s, cacheIn(cache)))
	s.Requests()
	for _, revision := range []string{"main", voice().Commit()} {
		got, err := client(t, s, cacheIn(cache), off).Snapshot(t.Context(), repoName, revision, hub.SnapshotOptions{})
		if err != nil || got != dir {
			t.Errorf("%s: %s, %v", revision, got, err)
		}
	}
	if r := s.Requests(); len(r) != 0 {
		t.Errorf("asked the hub: %+v", r)
	}
	if _, err := client(t, s, cacheIn(cache), off).Info(t.Context(), repoName, "main"); !errors.Is(err, hub.ErrOffline) {
		t.Errorf("Info: %v", err)
	}

	// Unreachable: the cache serves as well.
	s.Break("", &hubtest.Fault{Status: 503})
	got, err := client(t, s, cacheIn(cache), func(o *hub.Options) { o.Retries = -1 }).
		Snapshot(t.Context(), repoName, "main", hub.SnapshotOptions{})
	if err != nil || got != dir {
		t.Errorf("unreachable: %s, %v", got, err)
	}

	// A blob that was cleaned away is noticed, and its file named.
	target, err := filepath.EvalSymlinks(filepath.Join(dir, weights))
	if err != nil || os.Remove(target) != nil {
		t.Fatal(err)
	}
	_, err = client(t, s, cacheIn(cache), off).Snapshot(t.Context(), repoName, "main", hub.SnapshotOptions{})
	var e *hub.Error
	if !errors.Is(err, hub.ErrOffline) || !errors.As(err, &e) || e.File != weights {
		t.Errorf("dangling link: %v", err)
	}
}

func TestTraversalIsRefused(t *testing.T) {
	for _, name := range []string{
		"../x.json", "/etc/x.json", "a/../../x.json", "a//x.json", "./x.json", `a\x.json`, "c:x.json", "x\x00.json", "..",
	} {
		s := start(t)
		r := voice()
		r.Listed = []string{name}
		s.Put(repoName, r)
		cache := t.TempDir()
		_, err := client(t, s, cacheIn(cache)).Snapshot(t.Context(), repoName, "main", hub.SnapshotOptions{})
		if !errors.Is(err, hub.ErrName) {
			t.Errorf("%q: %v", name, err)
		}
		if f := tree(t, cache); len(f) != 0 {
			t.Errorf("%q: wrote %v", name, f)
		}
	}
}

func TestClientsShareACache(t *testing.T) {
	s := start(t)
	cache := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := client(t, s, cacheIn(cache)).Snapshot(t.Context(), repoName, "main", hub.SnapshotOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	for _, r := range s.Requests() {
		if r.Host == "cdn" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the weights were fetched %d times", n)
	}
}

func TestCacheThatCannotBeWritten(t *testing.T) {
	s := start(t)
	cache := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(cache, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := client(t, s, cacheIn(cache)).Snapshot(t.Context(), repoName, "main", hub.SnapshotOptions{})
	var pe *fs.PathError
	if !errors.As(err, &pe) || !strings.HasPrefix(pe.Path, cache) {
		t.Errorf("err = %v", err)
	}
}
