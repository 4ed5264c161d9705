package source

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chorale/adaptermgr/blob"
	"chorale/internal/hub"
	"chorale/internal/hub/hubtest"
)

// send uploads name, content pairs.
func send(t *testing.T, r *Resolver, files ...string) (*Upload, error) {
	t.Helper()
	u, err := r.NewUpload()
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(files); i += 2 {
		if err := u.File(files[i]); err != nil {
			return u, err
		}
		for _, piece := range []string{files[i+1][:len(files[i+1])/2], files[i+1][len(files[i+1])/2:]} {
			if _, err := io.WriteString(u, piece); err != nil {
				return u, err
			}
		}
	}
	return u, u.Complete()
}

func TestUpload(t *testing.T) {
	dir := t.TempDir()
	q := blob.NewQuota(0)
	r := fetcher(t, Options{Spool: spoolIn(t, dir, q)})
	for _, files := range [][]string{
		{ConfigFile, `{"r":8}`, WeightsFile, "weights"},
		{"my voice/" + WeightsFile, "weights", `C:\voice\` + ConfigFile, `{"r":8}`},
		{"voice.TGZ", tgz(t, adapterFiles())},
	} {
		u, err := send(t, r, files...)
		if err != nil {
			t.Fatal(err)
		}
		checkFetch(t, r, u.Source())
		if _, err := r.Fetch(t.Context(), u.Source()); !errors.Is(err, ErrNotFound) {
			t.Errorf("a second time: %v", err)
		}
		if err := errors.Join(u.Close(), u.Close()); err != nil {
			t.Error(err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	if len(left) != 0 || q.Used() != 0 {
		t.Errorf("left behind: %v, %d bytes", left, q.Used())
	}
}

func TestBadUploads(t *testing.T) {
	q := blob.NewQuota(2 << 20)
	r := fetcher(t, Options{Spool: spoolIn(t, t.TempDir(), q), MaxWeights: 1000})
	large := strings.Repeat("x", 1001)
	for name, tc := range map[string]struct {
		files []string
		want  error
	}{
		"nothing":        {nil, ErrInvalid},
		"stranger":       {[]string{"evil.sh", "x"}, ErrInvalid},
		"no name":        {[]string{"", "x"}, ErrInvalid},
		"pickle":         {[]string{pickledFile, "x"}, ErrUnsupported},
		"twice":          {[]string{ConfigFile, "{}", "b/" + ConfigFile, "{}"}, ErrInvalid},
		"two archives":   {[]string{"a.zip", "x", "b.tar", "x"}, ErrInvalid},
		"both kinds":     {[]string{ConfigFile, "{}", "b.tar", "x"}, ErrInvalid},
		"large weights":  {[]string{WeightsFile, large}, ErrTooLarge},
		"large config":   {[]string{ConfigFile, strings.Repeat("x", maxConfig+2)}, ErrTooLarge},
		"over the quota": {[]string{"a.tar", strings.Repeat("x", 5<<20)}, blob.ErrFull},
	} {
		u, err := send(t, r, tc.files...)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err := u.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	u, err := send(t, r, "a.zip", "no zip")
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Fetch(t.Context(), u.Source())
	checkError(t, "broken archive", err, ErrArchive, "upload://")
	u.Close()
	u, err = send(t, r, ConfigFile, "{}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Fetch(t.Context(), u.Source())
	checkError(t, "no weights", err, ErrInvalid, WeightsFile)
	u.Close()
	if q.Used() != 0 {
		t.Errorf("used %d", q.Used())
	}
	if u, err := r.NewUpload(); err != nil {
		t.Error(err)
	} else if _, err := u.Write([]byte("x")); !errors.Is(err, ErrInvalid) {
		t.Errorf("bytes without a file: %v", err)
	}
	if _, err := resolver(t, Options{}).NewUpload(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("no spool: %v", err)
	}
}

func TestHubURIs(t *testing.T) {
	s := hubtest.New()
	defer s.Close()
	s.Put("org/voice", hubtest.Repo{Files: map[string][]byte{ConfigFile: []byte(`{"r":8}`), WeightsFile: []byte("weights")}, Branch: "v2"})
	c, err := hub.New(hub.Options{CacheDir: t.TempDir(), Endpoint: s.URL, Retries: -1, StallTimeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	r := resolver(t, Options{Hub: c})
	s.Break(WeightsFile, &hubtest.Fault{StallAfter: 3})
	_, err = read(t, r, "hf://org/voice@v2")
	checkError(t, "stalls", err, ErrStalled, "hf://org/voice@v2", WeightsFile)
	_, err = read(t, resolver(t, Options{Hub: c, MaxWeights: 6}), "hf://org/voice@v2")
	checkError(t, "large", err, ErrTooLarge, WeightsFile)
	s.Break(WeightsFile, nil)
	var last [2]int64
	a, err := r.Fetch(WithProgress(t.Context(), func(done, total int64) { last = [2]int64{done, total} }), "hf://org/voice@v2")
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if last != [2]int64{14, 14} {
		t.Errorf("progress %v", last)
	}
	for _, source := range []string{"hf://org/voice", "hf://org/none", "hf://", "hf://a/b/c", "hf://../x"} {
		_, err := read(t, r, source)
		checkError(t, source, err, ErrNotFound)
	}
	root := t.TempDir()
	write(t, filepath.Join(root, "a"), adapterFiles())
	checkFetch(t, resolver(t, Options{Roots: []string{root}}), "file://"+filepath.Join(root, "a"))
}
