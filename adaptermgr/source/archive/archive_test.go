package archive

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	config  = "adapter_config.json"
	weights = "adapter_model.safetensors"
)

// member is an entry of an archive under test.
type member struct {
	name, content string
	kind          byte // of tar; 0: a file
}

func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content)), Typeflag: m.kind}
		if m.kind != 0 && m.kind != tar.TypeReg {
			h.Size, h.Linkname = 0, m.content
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, m.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range members {
		h := &zip.FileHeader{Name: m.name, Method: zip.Deflate}
		if m.content == "" {
			h.Method = zip.Store
		}
		if m.kind == tar.TypeSymlink {
			h.SetMode(fs.ModeSymlink | 0o777)
		}
		f, err := w.CreateHeader(h)
		if err == nil {
			_, err = io.WriteString(f, m.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// memory is where files go in tests.
type memory map[string]*bytes.Buffer

func (m memory) create(name string) (io.WriteCloser, error) {
	if m[name] != nil {
		return nil, fmt.Errorf("%s is created twice", name)
	}
	m[name] = &bytes.Buffer{}
	return closer{m[name]}, nil
}

type closer struct{ io.Writer }

func (closer) Close() error { return nil }

func extract(ctx context.Context, b []byte, l Limits) (memory, error) {
	m := memory{}
	err := Extract(ctx, bytes.NewReader(b), int64(len(b)), []string{config, weights}, l, m.create)
	return m, err
}

var roomy = Limits{Bytes: 1 << 20}

func TestFilesComeOut(t *testing.T) {
	flat := []member{{name: config, content: "{}"}, {name: "README.md", content: "text"}, {name: weights, content: "ww"}}
	deep := []member{
		{name: "./top/", kind: tar.TypeDir},
		{name: "./top/voice/" + weights, content: "ww"},
		{name: "top/voice/" + config, content: "{}"},
		{name: "top/voice/sub/optimizer.pt", content: "x"},
		{name: "__MACOSX/top/voice/._" + config, content: "junk"},
	}
	for name, b := range map[string][]byte{
		"tar": tarOf(t, flat...), "tar.gz": gzipped(t, tarOf(t, flat...)), "zip": zipOf(t, flat...),
		"deep tar": tarOf(t, deep...), "deep tgz": gzipped(t, tarOf(t, deep...)), "deep zip": zipOf(t, deep[1:]...),
	} {
		m, err := extract(t.Context(), b, roomy)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := map[string]string{}
		for k, v := range m {
			got[k] = v.String()
		}
		if d := cmp.Diff(map[string]string{config: "{}", weights: "ww"}, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestBadArchives(t *testing.T) {
	big := strings.Repeat("x", 4096)
	good := gzipped(t, tarOf(t, member{name: config, content: big}))
	flipped := bytes.Clone(good)
	flipped[len(flipped)-6] ^= 1 // in the checksum
	many := make([]member, 101)
	for i := range many {
		many[i].name = fmt.Sprint("f", i)
	}
	encrypted := zipOf(t, member{name: config, content: "{}"})
	encrypted[bytes.LastIndex(encrypted, []byte("PK\x01\x02"))+8] |= 1
	for name, tc := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":          {nil, ErrFormat},
		"text":             {[]byte(big), ErrFormat},
		"zstd":             {[]byte("\x28\xb5\x2f\xfd...."), ErrFormat},
		"xz":               {[]byte("\xfd7zXZ\x00"), ErrFormat},
		"gzip of text":     {gzipped(t, []byte(big)), ErrFormat},
		"cut gzip":         {good[:len(good)/2], ErrFormat},
		"wrong checksum":   {flipped, ErrFormat},
		"cut tar":          {tarOf(t, member{name: config, content: big})[:2000], ErrFormat},
		"cut zip":          {zipOf(t, member{name: config, content: big})[:60], ErrFormat},
		"encrypted":        {encrypted, ErrFormat},
		"dot dot":          {tarOf(t, member{name: "../" + config, content: "{}"}), ErrUnsafe},
		"inner dot dot":    {tarOf(t, member{name: "a/../../" + config, content: "{}"}), ErrUnsafe},
		"absolute":         {tarOf(t, member{name: "/etc/passwd", content: "{}"}), ErrUnsafe},
		"backslash":        {tarOf(t, member{name: `a\..\b`, content: "{}"}), ErrUnsafe},
		"zip dot dot":      {zipOf(t, member{name: "../" + config, content: "{}"}), ErrUnsafe},
		"zip absolute":     {zipOf(t, member{name: "/x", content: "{}"}), ErrUnsafe},
		"symlink":          {tarOf(t, member{config, "/etc/passwd", tar.TypeSymlink}), ErrUnsafe},
		"hard link":        {tarOf(t, member{weights, "/etc/passwd", tar.TypeLink}), ErrUnsafe},
		"other's symlink":  {tarOf(t, member{"docs", "/etc", tar.TypeSymlink}), ErrUnsafe},
		"device":           {tarOf(t, member{"null", "", tar.TypeChar}), ErrUnsafe},
		"fifo":             {tarOf(t, member{"pipe", "", tar.TypeFifo}), ErrUnsafe},
		"zip symlink":      {zipOf(t, member{config, "/etc/passwd", tar.TypeSymlink}), ErrUnsafe},
		"bomb":             {gzipped(t, tarOf(t, member{name: weights, content: strings.Repeat("0", 1<<21)})), ErrTooLarge},
		"bomb passed over": {gzipped(t, tarOf(t, member{name: "other", content: strings.Repeat("0", 1<<21)})), ErrTooLarge},
		"bomb behind":      {gzipped(t, append(tarOf(t), make([]byte, 1<<21)...)), ErrTooLarge},
		"zip bomb":         {zipOf(t, member{name: weights, content: strings.Repeat("0", 1<<21)}), ErrTooLarge},
		"entries":          {tarOf(t, many...), ErrTooLarge},
		"zip entries":      {zipOf(t, many...), ErrTooLarge},
		"two adapters":     {tarOf(t, member{name: "a/" + config, content: "{}"}, member{name: "b/" + config, content: "{}"}), ErrAmbiguous},
		"checkpoint":       {zipOf(t, member{name: config, content: "{}"}, member{name: "checkpoint-1/" + weights, content: "w"}), ErrAmbiguous},
		"twice":            {tarOf(t, member{name: config, content: "{}"}, member{name: "./" + config, content: "[]"}), ErrAmbiguous},
	} {
		_, err := extract(t.Context(), tc.b, Limits{Bytes: 1 << 20, Entries: 100})
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLargeDirectory: a zip's directory would be held in memory.
func TestLargeDirectory(t *testing.T) {
	pad := make([]member, maxDirectory/(maxName+46)+2)
	for i := range pad {
		pad[i].name = fmt.Sprintf("%0*d", maxName, i)
	}
	if _, err := extract(t.Context(), zipOf(t, pad...), roomy); !errors.Is(err, ErrTooLarge) {
		t.Errorf("err = %v", err)
	}
}

func TestEndsOfExtract(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	b := tarOf(t, member{name: config, content: "{}"})
	if _, err := extract(ctx, b, roomy); !errors.Is(err, gone) {
		t.Errorf("cancelled: %v", err)
	}
	full := errors.New("disk full")
	err := Extract(t.Context(), bytes.NewReader(b), int64(len(b)), []string{config}, roomy, func(string) (io.WriteCloser, error) { return nil, full })
	if !errors.Is(err, full) {
		t.Errorf("create fails: %v", err)
	}
}

// FuzzExtract: whatever the bytes, only the wanted names come out, once each,
// within the limit, and nothing panics.
func FuzzExtract(f *testing.F) {
	whole := []member{{name: "a/" + config, content: "{}"}, {name: "a/" + weights, content: strings.Repeat("w", 600)}}
	f.Add(tarOf(f, whole...))
	f.Add(gzipped(f, tarOf(f, whole...)))
	f.Add(zipOf(f, whole...))
	f.Add(tarOf(f, member{"../x", "", tar.TypeSymlink}))
	f.Add([]byte("PK\x05\x06" + strings.Repeat("\x00", 18)))
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 64 << 10
		m, err := extract(t.Context(), b, Limits{Bytes: limit, Entries: 50})
		total := 0
		for name, c := range m {
			if name != config && name != weights {
				t.Errorf("%q came out", name)
			}
			total += c.Len()
		}
		if total > limit {
			t.Errorf("%d bytes came out", total)
		}
		for _, known := range []error{ErrFormat, ErrUnsafe, ErrTooLarge, ErrAmbiguous} {
			if errors.Is(err, known) {
				return
			}
		}
		if err != nil {
			t.Errorf("untyped error: %v", err)
		}
	})
}
