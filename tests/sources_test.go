package tests

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chorale/bench/client"
	pb "chorale/proto/gen/chorale/v1"
)

// cutWriter lets a few bytes of a body through and then none.
type cutWriter struct {
	http.ResponseWriter
	r    *http.Request
	left int
}

func (c *cutWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b[:min(len(b), c.left)])
	if c.left -= n; err == nil && n < len(b) {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		<-c.r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// TestE2ESources: the same adapter from a folder, from a web server and by
// upload is one content, stored once; progress is seen; a manager that is
// killed in the middle of a download leaves nothing that the next attempt
// stumbles over.
func TestE2ESources(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			s := m.start(t, limits{registry: []string{"--allow-private-sources"}, workers: 1})
			var stall atomic.Bool
			files := http.FileServer(http.Dir(s.root))
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if stall.Load() && strings.HasSuffix(r.URL.Path, ".safetensors") {
					w = &cutWriter{w, r, 1000}
				}
				files.ServeHTTP(w, r)
			}))
			defer func() { web.CloseClientConnections(); web.Close() }()
			s.load("alto")
			digest := s.sourceDigest("alto")
			stored := s.storedBytes()

			if _, err := s.admin.LoadAdapter(t.Context(), &pb.LoadAdapterRequest{Name: "web", Source: web.URL + "/alto"}); err != nil {
				t.Fatal(err)
			}
			c, err := client.New(client.Options{Server: s.http})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseIdleConnections()
			dir := filepath.Join(s.root, "alto")
			sent := []string{filepath.Join(dir, "adapter_config.json"), filepath.Join(dir, "adapter_model.safetensors")}
			if _, err := c.Upload(t.Context(), &pb.UploadAdapterHeader{Name: "sent", Digest: digest}, sent, nil); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"web", "sent"} {
				if got := s.sourceDigest(name); got != digest {
					t.Errorf("%s: digest %s, want %s", name, got, digest)
				}
			}
			if now := s.storedBytes(); now != stored {
				t.Errorf("%d bytes stored under one name, %d under three", stored, now)
			}

			stall.Store(true)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				_, err := s.admin.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "late", Source: web.URL + "/bass"})
				ended <- err
			}()
			s.until("the download has begun", 20*time.Second, func() bool {
				r, err := s.admin.GetAdapter(t.Context(), &pb.GetAdapterRequest{Name: "late"})
				return err == nil && r.GetAdapter().GetLoading().GetBytesDone() > 0
			})
			if m.name == "split" {
				s.manager.Kill()
				s.startManager(s.managerAddr)
			} else {
				s.front.Kill()
				s.startFront()
			}
			cancel()
			if err := <-ended; err == nil {
				t.Error("a load that was cut off succeeded")
			}
			stall.Store(false)
			s.until("the manager takes loads again", 30*time.Second, func() bool {
				_, err := s.admin.LoadAdapter(t.Context(), &pb.LoadAdapterRequest{Name: "late", Source: web.URL + "/bass"})
				return err == nil
			})
			if left, _ := filepath.Glob(filepath.Join(s.data, "incoming", "*", "*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// sourceDigest is a loaded adapter's digest.
func (s *site) sourceDigest(name string) string {
	s.t.Helper()
	r, err := s.admin.GetAdapter(s.t.Context(), &pb.GetAdapterRequest{Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.GetAdapter().GetDigest()
}

// storedBytes adds up the blobs.
func (s *site) storedBytes() int64 {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.data, "blobs", "sha256", "*", "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	total := int64(0)
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			s.t.Fatal(err)
		}
		total += st.Size()
	}
	return total
}
