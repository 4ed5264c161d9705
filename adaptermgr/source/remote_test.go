package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chorale/adaptermgr/blob"
	"chorale/adaptermgr/source/spool"
)

// site is a web server of files, with ETags and ranges, and a fault.
type site struct {
	*httptest.Server

	mu    sync.Mutex
	files map[string]string
	// fault may answer in the file's place, or change w.
	fault func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool)
	asked []string // "PATH STATUS RANGE"
}

func newSite(t *testing.T, files map[string]string) *site {
	t.Helper()
	s := &site{files: files}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	content, ok := s.files[r.URL.Path]
	fault := s.fault
	s.mu.Unlock()
	rec := &recorder{ResponseWriter: w, code: 200}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked = append(s.asked, fmt.Sprint(r.URL.Path, " ", rec.code, " ", r.Header.Get("Range")))
	}()
	if !ok {
		http.NotFound(rec, r)
		return
	}
	sum := sha256.Sum256([]byte(content))
	rec.Header().Set("ETag", `"`+hex.EncodeToString(sum[:4])+`"`)
	out := http.ResponseWriter(rec)
	if fault != nil {
		var done bool
		if out, done = fault(rec, r); done {
			return
		}
	}
	http.ServeContent(out, r, "", time.Time{}, strings.NewReader(content))
}

func (s *site) put(path, content string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = content
}

func (s *site) breakWith(f func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// took returns what was asked since the last call.
func (s *site) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.asked
	s.asked = nil
	return a
}

type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(c int) { r.code = c; r.ResponseWriter.WriteHeader(c) }

// cutter cuts the connection, or stalls, after some bytes of a body.
type cutter struct {
	http.ResponseWriter
	r     *http.Request
	left  int
	stall bool
}

func (c *cutter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b[:min(len(b), c.left)])
	if c.left -= n; err == nil && n < len(b) {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		if c.stall {
			<-c.r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// only makes a fault of one file's.
func only(suffix string, f func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool)) func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool) {
	return func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
		if strings.HasSuffix(r.URL.Path, suffix) {
			return f(w, r)
		}
		return w, false
	}
}

func cutAfter(n int, stall bool) func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool) {
	return only(WeightsFile, func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
		return &cutter{w, r, n, stall}, false
	})
}

// voice is an adapter in a folder /v of a site.
func voice(weights string) map[string]string {
	return map[string]string{"/v/" + ConfigFile: `{"r":8}`, "/v/" + WeightsFile: weights}
}

func fetcher(t *testing.T, o Options) *Resolver {
	t.Helper()
	if o.Spool == nil {
		o.Spool = spoolIn(t, t.TempDir(), nil)
	}
	if o.RetryWait == 0 {
		o.RetryWait = time.Millisecond
	}
	r := resolver(t, o)
	t.Cleanup(r.CloseIdleConnections)
	return r
}

func spoolIn(t *testing.T, dir string, b spool.Budget) *spool.Spool {
	t.Helper()
	s, err := spool.Open(spool.Options{Dir: dir, Budget: b})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, r *Resolver, source string) (string, error) {
	t.Helper()
	a, err := r.Fetch(t.Context(), source)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(a.Weights)
	return string(b), errors.Join(err, a.Close())
}

func tgz(t *testing.T, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range files {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
		if err == nil {
			_, err = io.WriteString(w, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestHTTPFoldersAndArchives(t *testing.T) {
	s := newSite(t, voice("weights"))
	arc := tgz(t, map[string]string{"x/" + ConfigFile: `{"r":8}`, "x/" + WeightsFile: "weights"})
	s.put("/v.tar.gz", arc)
	s.put("/a b/"+ConfigFile, `{"r":8}`)
	s.put("/a b/"+WeightsFile, "weights")
	dir := t.TempDir()
	q := blob.NewQuota(0)
	r := fetcher(t, Options{AllowPrivate: true, Spool: spoolIn(t, dir, q)})
	for _, source := range []string{
		"/v", "/v/", "/v/?sig=1", "/v/" + ConfigFile, "/v/" + WeightsFile, "/a%20b", "/v.tar.gz", "/v.tar.gz?sig=x",
		"/v.tar.gz#sha256=" + digestOf(arc), "/v.tar.gz#sha256=" + strings.ToUpper(digestOf(arc)),
	} {
		checkFetch(t, r, s.URL+source)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	if len(left) != 0 || q.Used() != 0 {
		t.Errorf("left behind: %v, %d bytes", left, q.Used())
	}
}

// TestWeightsAreMoved: what was fetched becomes the blob, without a copy.
func TestWeightsAreMoved(t *testing.T) {
	s := newSite(t, voice("weights"))
	q := blob.NewQuota(20) // not enough for both
	dir := t.TempDir()
	store, err := blob.OpenWithin(filepath.Join(dir, "blobs"), q)
	if err != nil {
		t.Fatal(err)
	}
	r := fetcher(t, Options{AllowPrivate: true, Spool: spoolIn(t, filepath.Join(dir, "in"), q)})
	a, err := r.Fetch(t.Context(), s.URL+"/v")
	if err != nil {
		t.Fatal(err)
	}
	g, err := store.Stage(t.Context(), a.Weights, a.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Commit(), a.Close()); err != nil {
		t.Fatal(err)
	}
	if g.Digest() != digestOf("weights") || q.Used() != 7 {
		t.Errorf("%s, used %d", g.Digest(), q.Used())
	}
}

func TestABrokenDownloadGoesOn(t *testing.T) {
	weights := strings.Repeat("0123456789", 100)
	s := newSite(t, voice(weights))
	s.breakWith(cutAfter(300, false))
	r := fetcher(t, Options{AllowPrivate: true})
	got, err := read(t, r, s.URL+"/v")
	if err != nil || got != weights {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	asked := strings.Join(s.took(), "\n")
	for _, want := range []string{"206 bytes=300-", "206 bytes=600-", "206 bytes=900-"} {
		if !strings.Contains(asked, want) {
			t.Errorf("not asked for %s:\n%s", want, asked)
		}
	}
	// A server without ranges: from the start, as often as allowed.
	s.breakWith(only(WeightsFile, func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
		r.Header.Del("Range")
		return &cutter{w, r, 300, false}, false
	}))
	if _, err = read(t, r, s.URL+"/v"); !errors.Is(err, ErrLength) || !strings.Contains(err.Error(), "300 of 1000") {
		t.Errorf("err = %v", err)
	}
}

func TestADownloadGoesOnAfterARestart(t *testing.T) {
	weights := strings.Repeat("0123456789", 100)
	for _, changed := range []bool{false, true} {
		s := newSite(t, voice(weights))
		s.breakWith(cutAfter(300, false))
		dir := t.TempDir()
		r := fetcher(t, Options{AllowPrivate: true, Retries: -1, Spool: spoolIn(t, dir, nil)})
		if _, err := read(t, r, s.URL+"/v"); !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		s.breakWith(nil)
		s.took()
		want := weights
		if changed { // what was fetched then belongs to nothing
			want = strings.Repeat("x", 500)
			s.put("/v/"+WeightsFile, want)
		}
		r = fetcher(t, Options{AllowPrivate: true, Retries: -1, Spool: spoolIn(t, dir, nil)})
		if got, err := read(t, r, s.URL+"/v"); err != nil || got != want {
			t.Errorf("changed %v: %d bytes, %v", changed, len(got), err)
		}
		if asked := strings.Join(s.took(), "\n"); !strings.Contains(asked, "bytes=300-") {
			t.Errorf("not gone on:\n%s", asked)
		}
	}
}

// checkError looks for the kind, the source and the file.
func checkError(t *testing.T, name string, err, want error, says ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v", name, err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%s: %q is not in: %v", name, s, err)
		}
	}
}

func TestBadServers(t *testing.T) {
	weights := strings.Repeat("0123456789", 100)
	type fault = func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool)
	status := func(code int) fault {
		return func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
			w.WriteHeader(code)
			return w, true
		}
	}
	for name, tc := range map[string]struct {
		fault fault
		want  error
		file  string
	}{
		"stalls": {only(WeightsFile, func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
			if r.Header.Get("Range") == "" {
				return &cutter{w, r, 300, true}, false
			}
			return &cutter{w, r, 0, true}, false
		}), ErrStalled, WeightsFile},
		"never answers": {only(ConfigFile, func(_ http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
			<-r.Context().Done()
			return nil, true
		}), ErrStalled, ConfigFile},
		"sends less than announced": {only(WeightsFile, func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
			w.Header().Set("Content-Length", "1500")
			_, _ = io.WriteString(w, weights)
			return w, true
		}), ErrLength, WeightsFile},
		"another length on resuming": {only(WeightsFile, func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
			if r.Header.Get("Range") == "" {
				return &cutter{w, r, 300, false}, false
			}
			w.Header().Set("Content-Range", "bytes 300-1999/2000")
			w.WriteHeader(http.StatusPartialContent)
			return w, true
		}), ErrLength, WeightsFile},
		"nonsense range": {only(WeightsFile, func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
			if r.Header.Get("Range") == "" {
				return &cutter{w, r, 300, false}, false
			}
			w.Header().Set("Content-Range", "bytes some-")
			w.WriteHeader(http.StatusPartialContent)
			return w, true
		}), ErrLength, WeightsFile},
		"forbidden":  {only(WeightsFile, status(403)), ErrDenied, WeightsFile},
		"failing":    {only(WeightsFile, status(503)), ErrUnavailable, WeightsFile},
		"teapot":     {only(WeightsFile, status(418)), ErrUnavailable, WeightsFile},
		"no weights": {only(WeightsFile, status(404)), ErrInvalid, WeightsFile},
		"no config":  {only(ConfigFile, status(410)), ErrInvalid, ConfigFile},
		"nothing":    {status(404), ErrNotFound, ConfigFile},
		"large": {only(WeightsFile, func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
			w.Header().Set("Content-Length", "2001")
			w.WriteHeader(200)
			return w, true
		}), ErrTooLarge, WeightsFile},
		"endless": {only(WeightsFile, func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
			for range 3 {
				_, _ = io.WriteString(w, weights)
				_ = http.NewResponseController(w).Flush()
			}
			return w, true
		}), ErrTooLarge, WeightsFile},
		"large config": {only(ConfigFile, func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
			w.Header().Set("Content-Length", "99999999")
			w.WriteHeader(200)
			return w, true
		}), ErrTooLarge, ConfigFile},
		"wrong digest": {only(WeightsFile, func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
			w.Header().Set("Repr-Digest", "md5=:AAAA:, sha-256=:"+base64.StdEncoding.EncodeToString(make([]byte, 32))+":")
			return w, false
		}), ErrChecksum, WeightsFile},
		"redirects for ever": {only(WeightsFile, func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
			return w, true
		}), ErrUnavailable, WeightsFile},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, voice(weights))
			s.breakWith(tc.fault)
			idle := 10 * time.Second
			if errors.Is(tc.want, ErrStalled) {
				idle = 300 * time.Millisecond
			}
			r := fetcher(t, Options{AllowPrivate: true, MaxWeights: 2000, Retries: 1, StallTimeout: idle})
			_, err := read(t, r, s.URL+"/v?token=secret")
			checkError(t, name, err, tc.want, s.URL+"/v", tc.file)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("tells a secret: %v", err)
			}
		})
	}
}

func TestPickledOnAServer(t *testing.T) {
	s := newSite(t, map[string]string{"/v/" + ConfigFile: "{}", "/v/" + pickledFile: "x"})
	r := fetcher(t, Options{AllowPrivate: true})
	_, err := read(t, r, s.URL+"/v")
	checkError(t, "folder", err, ErrUnsupported, "pickle")
	s.put("/v.tgz", tgz(t, map[string]string{ConfigFile: "{}", pickledFile: "x"}))
	_, err = read(t, r, s.URL+"/v.tgz")
	checkError(t, "archive", err, ErrUnsupported, "pickle")
}

func TestContentsThatChange(t *testing.T) {
	weights := strings.Repeat("0123456789", 100)
	t.Run("during a file", func(t *testing.T) {
		s := newSite(t, voice(weights))
		s.breakWith(only(WeightsFile, func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
			go s.put("/v/"+WeightsFile, strings.Repeat("x", 1000)) // before the second request
			return &cutter{w, r, 300, false}, false
		}))
		r := fetcher(t, Options{AllowPrivate: true, RetryWait: 50 * time.Millisecond})
		_, err := read(t, r, s.URL+"/v")
		checkError(t, "changed", err, ErrChanged, s.URL+"/v", WeightsFile)
	})
	t.Run("between files", func(t *testing.T) {
		s := newSite(t, voice(weights))
		s.breakWith(only(WeightsFile, func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
			time.Sleep(50 * time.Millisecond) // the config has come
			s.put("/v/"+ConfigFile, `{"r":16}`)
			return w, false
		}))
		r := fetcher(t, Options{AllowPrivate: true})
		_, err := read(t, r, s.URL+"/v")
		checkError(t, "changed", err, ErrChanged, s.URL+"/v", ConfigFile)
	})
	t.Run("in a folder", func(t *testing.T) {
		for name, change := range map[string]func(path string) error{
			"grows":      func(p string) error { return os.WriteFile(p, []byte("weights and more"), 0o644) },
			"shrinks":    func(p string) error { return os.Truncate(p, 3) },
			"is written": func(p string) error { return os.Chtimes(p, time.Now(), time.Now().Add(time.Minute)) },
		} {
			root := t.TempDir()
			dir := write(t, filepath.Join(root, "a"), adapterFiles())
			a, err := resolver(t, Options{Roots: []string{root}}).Fetch(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			if err := change(filepath.Join(dir, WeightsFile)); err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(a.Weights)
			checkError(t, name, err, ErrChanged, `"a"`, WeightsFile)
			a.Close()
		}
	})
}

func TestChecksumOfAnArchive(t *testing.T) {
	s := newSite(t, map[string]string{"/v.tgz": tgz(t, adapterFiles()), "/bad.zip": "PK\x03\x04 and no more"})
	r := fetcher(t, Options{AllowPrivate: true})
	_, err := read(t, r, s.URL+"/v.tgz#sha256="+digestOf("other"))
	checkError(t, "wrong", err, ErrChecksum, digestOf("other"))
	_, err = read(t, r, s.URL+"/bad.zip")
	checkError(t, "broken", err, ErrArchive, s.URL)
	for _, f := range []string{"#sha256=12", "#md5=" + digestOf(""), "#x"} {
		_, err = read(t, r, s.URL+"/v.tgz"+f)
		checkError(t, f, err, ErrUnsupported, "sha256")
	}
	_, err = read(t, r, s.URL+"/v#sha256="+digestOf(""))
	checkError(t, "folder", err, ErrUnsupported, "archives")
}

// TestTenNamesAtOnce: one source asked for many times at once is fetched once.
func TestTenNamesAtOnce(t *testing.T) {
	weights := strings.Repeat("0123456789", 100_000)
	s := newSite(t, voice(weights))
	q := blob.NewQuota(0)
	r := fetcher(t, Options{AllowPrivate: true, Spool: spoolIn(t, t.TempDir(), q)})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			a, err := r.Fetch(context.Background(), s.URL+"/v")
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(100 * time.Millisecond) // the others come meanwhile
			b, err := io.ReadAll(a.Weights)
			if err != nil || string(b) != weights {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	whole := 0
	for _, a := range s.took() {
		if strings.HasPrefix(a, "/v/"+WeightsFile+" 200") {
			whole++
		}
	}
	if whole != 1 || q.Used() != 0 {
		t.Errorf("fetched %d times, %d bytes left", whole, q.Used())
	}
}

func TestProgressAndQuota(t *testing.T) {
	weights := strings.Repeat("0123456789", 100_000)
	s := newSite(t, voice(weights))
	q := blob.NewQuota(int64(len(weights)) + 100)
	r := fetcher(t, Options{AllowPrivate: true, Spool: spoolIn(t, t.TempDir(), q)})
	var last [2]int64
	ctx := WithProgress(t.Context(), func(done, total int64) {
		if done < last[0] {
			t.Errorf("%d bytes, then %d", last[0], done)
		}
		last = [2]int64{done, total}
	})
	a, err := r.Fetch(ctx, s.URL+"/v")
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(len(weights) + len(`{"r":8}`)); last != [2]int64{want, want} || q.Used() != want {
		t.Errorf("progress %v, used %d, want %d", last, q.Used(), want)
	}
	a.Close()
	s.put("/v/"+WeightsFile, weights+weights)
	_, err = read(t, r, s.URL+"/v")
	checkError(t, "quota", err, blob.ErrFull, s.URL, WeightsFile, "quota")
	if q.Used() != 0 {
		t.Errorf("used %d", q.Used())
	}
}

func TestCancelledFetchKeepsWhatCame(t *testing.T) {
	s := newSite(t, voice(strings.Repeat("0123456789", 100)))
	s.breakWith(cutAfter(300, true))
	q := blob.NewQuota(0)
	sp := spoolIn(t, t.TempDir(), q)
	r := fetcher(t, Options{AllowPrivate: true, Spool: sp})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	time.AfterFunc(100*time.Millisecond, func() { cancel(gone) })
	_, err := r.Fetch(ctx, s.URL+"/v")
	checkError(t, "cancelled", err, gone)
	if q.Used() < 300 {
		t.Errorf("kept %d bytes", q.Used())
	}
	sp.Relieve(1)
	if q.Used() != 0 {
		t.Errorf("after pressure: %d bytes", q.Used())
	}
}
