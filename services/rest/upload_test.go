package rest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"chorale/adaptermgr"
	"chorale/bench/client"
	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/services/adapters"
	"chorale/services/auth"
)

// collector takes uploads and keeps what came.
type collector struct {
	choralev1.UnimplementedAdapterServiceServer
	header *choralev1.UploadAdapterHeader
	files  map[string]string
	sizes  []int
	refuse error // after the header
	ended  chan error
}

func (c *collector) UploadAdapter(s grpc.ClientStreamingServer[choralev1.UploadAdapterRequest, choralev1.UploadAdapterResponse]) error {
	c.files, c.sizes = map[string]string{}, nil
	name := ""
	for {
		p, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&choralev1.UploadAdapterResponse{Adapter: &choralev1.Adapter{Name: c.header.GetName()}, Revision: 7})
		}
		if err != nil {
			c.ended <- err
			return err
		}
		switch part := p.GetPart().(type) {
		case *choralev1.UploadAdapterRequest_Header:
			c.header = part.Header
			if c.refuse != nil {
				return c.refuse
			}
		case *choralev1.UploadAdapterRequest_File:
			name = part.File
			c.files[name] = ""
		case *choralev1.UploadAdapterRequest_Data:
			c.files[name] += string(part.Data)
			c.sizes = append(c.sizes, len(part.Data))
		}
	}
}

// serveUploads starts a server whose manager is c.
func serveUploads(t *testing.T, c *collector, change ...func(*Options)) *server {
	t.Helper()
	c.ended = make(chan error, 1)
	l := bufconn.Listen(1 << 20)
	gs := grpc.NewServer()
	choralev1.RegisterAdapterServiceServer(gs, c)
	done := make(chan error, 1)
	go func() { done <- gs.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///mem", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); gs.Stop(); <-done })
	change = append(change, func(o *Options) { o.Adapters = choralev1.NewAdapterServiceClient(conn) })
	return serve(t, change...)
}

// formOf makes a body of name, value pairs; "@NAME" is a file.
func formOf(t *testing.T, pairs ...string) (contentType string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		var err error
		if file, ok := strings.CutPrefix(pairs[i], "@"); ok {
			var f io.Writer
			if f, err = w.CreateFormFile("file", file); err == nil {
				_, err = io.WriteString(f, pairs[i+1])
			}
		} else {
			err = w.WriteField(pairs[i], pairs[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), b.Bytes()
}

func postForm(t *testing.T, s *server, contentType string, body io.Reader) (int, string) {
	t.Helper()
	resp, err := s.Client().Post(s.URL+uploadPath, contentType, body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestUploadForm(t *testing.T) {
	c := &collector{}
	s := serveUploads(t, c, func(o *Options) { o.MaxBody = 1000 }) // uploads may be larger
	weights := strings.Repeat("0123456789", 120_000)
	ct, body := formOf(t, "name", "team/voice", "pinned", "true", "replace", "1", "weight", "10", "owner", "o", "etag", "e", "labels", `{"a":"b"}`, "digest", "sha256:"+strings.Repeat("0", 64),
		"@adapter_config.json", "{}", "@adapter_model.safetensors", weights, "@empty", "")
	code, out := postForm(t, s, ct, bytes.NewReader(body))
	if code != 200 || !strings.Contains(out, `"team/voice"`) || !strings.Contains(out, `"pinned":false`) {
		t.Fatalf("%d %s", code, out)
	}
	h := c.header
	if h.GetName() != "team/voice" || !h.GetPinned() || !h.GetReplace() || h.GetMustBeNew() || h.GetLabels()["a"] != "b" || h.GetDigest() == "" || h.GetWeight() != 10 || h.GetOwner() != "o" || h.GetEtag() != "e" {
		t.Errorf("%v", h)
	}
	if c.files["adapter_config.json"] != "{}" || c.files["adapter_model.safetensors"] != weights || len(c.files) != 3 {
		t.Errorf("%d files", len(c.files))
	}
	for _, n := range c.sizes {
		if n > uploadPiece {
			t.Errorf("a piece of %d bytes", n)
		}
	}
}

func TestBadUploadForms(t *testing.T) {
	c := &collector{}
	s := serveUploads(t, c)
	for name, tc := range map[string]struct {
		pairs []string
		says  string
	}{
		"no name":     {[]string{"@f", "x"}, "name: is required"},
		"nothing":     {nil, "name: is required"},
		"unknown":     {[]string{"name", "x", "title", "y"}, "title: is not a field"},
		"weight":      {[]string{"name", "x", "weight", "half"}, "weight: must be a whole number"},
		"flag":        {[]string{"name", "x", "pinned", "perhaps"}, "pinned: must be true or false"},
		"labels":      {[]string{"name", "x", "labels", "[1]"}, "labels: must be a JSON object"},
		"late":        {[]string{"name", "x", "@f", "x", "pinned", "true"}, "pinned: must come before"},
		"large field": {[]string{"name", strings.Repeat("x", maxField+1)}, "name: must have at most"},
	} {
		ct, body := formOf(t, tc.pairs...)
		if code, out := postForm(t, s, ct, bytes.NewReader(body)); code != 400 || !strings.Contains(out, tc.says) {
			t.Errorf("%s: %d %s", name, code, out)
		}
	}
	if code, out := postForm(t, s, "application/json", strings.NewReader("{}")); code != 400 || !strings.Contains(out, "multipart") {
		t.Errorf("JSON: %d %s", code, out)
	}
	// What an upload that failed has sent may still be on its way to its collector.
	c = &collector{}
	s = serveUploads(t, c)
	ct, body := formOf(t, "name", "x", "@adapter_config.json", strings.Repeat("x", 100))
	if code, out := postForm(t, s, ct, bytes.NewReader(body[:len(body)-90])); code != 400 || !strings.Contains(out, "broke off") {
		t.Errorf("cut: %d %s", code, out)
	}
	if err := <-c.ended; err == nil {
		t.Error("the manager was not told that the client broke off")
	}
	resp, err := s.Client().Get(s.URL + uploadPath)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", resp.StatusCode)
	}
	s = serveUploads(t, &collector{refuse: adapters.Status(adaptermgr.ErrExists).Err()})
	ct, body = formOf(t, "name", "x", "@adapter_config.json", strings.Repeat("x", 2<<20))
	if code, out := postForm(t, s, ct, bytes.NewReader(body)); code != 409 || !strings.Contains(out, "already loaded") {
		t.Errorf("refused: %d %s", code, out)
	}
}

// TestUploadByTheClient: what the command line sends, with the key that it
// needs.
func TestUploadByTheClient(t *testing.T) {
	c := &collector{}
	s := serveUploads(t, c, func(o *Options) { o.Keys = auth.NewKeys("key", "admin") })
	dir := t.TempDir()
	var paths []string
	for name, content := range map[string]string{"adapter_config.json": "{}", "adapter_model.safetensors": strings.Repeat("w", 700_000)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	for key, ok := range map[string]bool{"key": false, "admin": true} {
		cl, err := client.New(client.Options{Server: s.URL, APIKey: "key", AdminKey: key})
		if err != nil {
			t.Fatal(err)
		}
		var last, total int64
		h := &choralev1.UploadAdapterHeader{Name: "x", Labels: map[string]string{"a": "b"}, Digest: "sha256:" + strings.Repeat("0", 64)}
		r, err := cl.Upload(t.Context(), h, paths, func(d, n int64) { last, total = d, n })
		cl.CloseIdleConnections()
		if !ok {
			if err == nil {
				t.Error("uploaded with the key of inference")
			}
			continue
		}
		if err != nil || r.GetRevision() != 7 || last != total || total < 700_000 {
			t.Errorf("%v, %v, %d of %d bytes", r, err, last, total)
		}
		if len(c.files["adapter_model.safetensors"]) != 700_000 || c.header.GetLabels()["a"] != "b" || c.header.GetDigest() != h.Digest {
			t.Errorf("%v", c.header)
		}
	}
}
