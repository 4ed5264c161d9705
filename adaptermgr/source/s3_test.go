package source

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"chorale/adaptermgr/blob"
)

// bucket answers as an object store does: ListObjectsV2, HeadObject, GetObject
// with Range and If-Match. Objects are a site's files, /BUCKET/KEY.
type bucket struct {
	*site
	keys []string // access keys that were shown, "" for none
}

type listing struct {
	XMLName     xml.Name `xml:"ListBucketResult"`
	Name        string
	KeyCount    int
	MaxKeys     int
	IsTruncated bool
	Contents    []object
}

type object struct {
	Key, ETag    string
	Size         int
	LastModified string
}

func newBucket(t *testing.T, objects map[string]string) *bucket {
	t.Helper()
	files := map[string]string{}
	for k, v := range objects {
		files["/models/"+k] = v
	}
	b := &bucket{site: newSite(t, files)}
	b.Config.Handler = http.HandlerFunc(b.serve)
	return b
}

func (b *bucket) serve(w http.ResponseWriter, r *http.Request) {
	_, cred, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	key, _, _ := strings.Cut(cred, "/")
	b.mu.Lock()
	b.keys = append(b.keys, key)
	b.mu.Unlock()
	w.Header().Set("Last-Modified", "Wed, 21 Oct 2025 07:28:00 GMT")
	switch {
	case r.URL.Query().Has("location"):
		fmt.Fprint(w, `<LocationConstraint>us-east-1</LocationConstraint>`)
	case r.URL.Query().Get("list-type") == "2":
		b.list(w, r)
	case b.lacks(r.URL.Path):
		refuse(w, http.StatusNotFound, "NoSuchKey")
	case !b.matches(r):
		refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
	default:
		b.site.serve(w, r)
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>because</Message></Error>", code)
}

func (b *bucket) lacks(path string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.files[path]
	return !ok
}

func etagOf(content string) string { return digestOf(content)[:8] }

func (b *bucket) matches(r *http.Request) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	want := r.Header.Get("If-Match")
	return want == "" || want == `"`+etagOf(b.files[r.URL.Path])+`"`
}

func (b *bucket) list(w http.ResponseWriter, r *http.Request) {
	name := strings.Trim(r.URL.Path, "/")
	if name == "denied" {
		refuse(w, http.StatusForbidden, "AccessDenied")
		return
	}
	if name != "models" {
		refuse(w, http.StatusNotFound, "NoSuchBucket")
		return
	}
	l := listing{Name: name, MaxKeys: 1000}
	b.mu.Lock()
	for path, content := range b.files {
		if key := strings.TrimPrefix(path, "/models/"); strings.HasPrefix(key, r.URL.Query().Get("prefix")) {
			l.Contents = append(l.Contents, object{key, `"` + etagOf(content) + `"`, len(content), "2025-10-21T07:28:00.000Z"})
		}
	}
	b.mu.Unlock()
	slices.SortFunc(l.Contents, func(x, y object) int { return strings.Compare(x.Key, y.Key) })
	l.KeyCount = len(l.Contents)
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(l)
}

func voices(weights string) map[string]string {
	return map[string]string{
		"team/v/" + ConfigFile: `{"r":8}`, "team/v/" + WeightsFile: weights, "team/v/README.md": "text",
		"team/v2/" + ConfigFile: "other",
	}
}

func (b *bucket) shown() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := slices.Compact(slices.Sorted(slices.Values(b.keys)))
	b.keys = nil
	return k
}

func TestS3(t *testing.T) {
	b := newBucket(t, voices("weights"))
	b.put("/models/v.tgz", tgz(t, adapterFiles()))
	q := blob.NewQuota(0)
	own := S3{Endpoint: b.URL, Region: "us-east-1", Credentials: credentials.NewStaticV4("AKIDTEST", "secret", "")}
	r := fetcher(t, Options{S3: own, Spool: spoolIn(t, t.TempDir(), q)}) // private, but the operator's
	for _, source := range []string{
		"s3://models/team/v", "s3://models/team/v/", "s3://models/team/v?region=eu-west-1", "s3://models/v.tgz",
		"s3://models/team/v?endpoint=" + b.URL, "s3://models/v.tgz#sha256=" + digestOf(b.files["/models/v.tgz"]),
	} {
		checkFetch(t, r, source)
	}
	if got := b.shown(); !slices.Equal(got, []string{"AKIDTEST"}) {
		t.Errorf("keys shown: %q", got)
	}
	// A store that a client names sees no credentials.
	other := newBucket(t, voices("weights"))
	r2 := fetcher(t, Options{S3: own, AllowPrivate: true})
	checkFetch(t, r2, "s3://models/team/v?region=us-east-1&endpoint="+other.URL)
	if got := other.shown(); !slices.Equal(got, []string{""}) {
		t.Errorf("keys shown to another: %q", got)
	}
	for source, want := range map[string]error{
		"s3://models/team/none": ErrNotFound, "s3://none/team/v": ErrNotFound, "s3://denied/team/v": ErrDenied,
		"s3://models": ErrNotFound, "s3://b/team/v": ErrNotFound, "s3://b/v.zip": ErrNotFound, "s3:///x": ErrNotFound, "s3://models/none.zip": ErrNotFound, "s3://models/team/v2": ErrInvalid,
		"s3://models/team/v?acl": ErrUnsupported, "s3://models/team/v?region=a.b": ErrUnsupported,
		"s3://models/team/v?endpoint=ftp://x": ErrUnsupported, "s3://models/team/v#x": ErrUnsupported,
	} {
		_, err := read(t, r, source)
		checkError(t, source, err, want)
	}
	if q.Used() != 0 {
		t.Errorf("used %d", q.Used())
	}
}

func TestS3Faults(t *testing.T) {
	weights := strings.Repeat("0123456789", 100)
	for name, tc := range map[string]struct {
		fault func(b *bucket) func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool)
		want  error
	}{
		"resumes": {func(*bucket) func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool) {
			return cutAfter(300, false)
		}, nil},
		"changes": {func(b *bucket) func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool) {
			return only(WeightsFile, func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
				b.put("/models/team/v/"+WeightsFile, strings.Repeat("x", 1000))
				return &cutter{w, r, 300, false}, false
			})
		}, ErrChanged},
		"changes afterwards": {func(b *bucket) func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool) {
			return only(WeightsFile, func(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
				b.put("/models/team/v/"+WeightsFile, strings.Repeat("x", 1000))
				return w, false
			})
		}, ErrChanged},
		"lies": {func(*bucket) func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool) {
			return only(WeightsFile, func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
				w.Header().Set("Content-Length", "999")
				_, _ = w.Write([]byte(weights[:999]))
				return w, true
			})
		}, ErrLength},
		"wrong checksum": {func(*bucket) func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool) {
			return only(WeightsFile, func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
				w.Header().Set("x-amz-checksum-sha256", base64.StdEncoding.EncodeToString(make([]byte, 32)))
				return w, false
			})
		}, ErrChecksum},
		"right checksum": {func(*bucket) func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool) {
			return only(WeightsFile, func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
				sum, _ := hex.DecodeString(digestOf(weights))
				w.Header().Set("x-amz-checksum-sha256", base64.StdEncoding.EncodeToString(sum))
				return w, false
			})
		}, nil},
		"busy": {func(*bucket) func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool) {
			return only(WeightsFile, func(w http.ResponseWriter, _ *http.Request) (http.ResponseWriter, bool) {
				refuse(w, http.StatusServiceUnavailable, "SlowDown")
				return w, true
			})
		}, ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t, voices(weights))
			b.breakWith(tc.fault(b))
			r := fetcher(t, Options{S3: S3{Endpoint: b.URL, Region: "us-east-1"}, Retries: 2})
			got, err := read(t, r, "s3://models/team/v")
			if tc.want == nil {
				if err != nil || got != weights {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				return
			}
			checkError(t, name, err, tc.want, "s3://models/team/v", WeightsFile)
		})
	}
}

func TestS3FromEnv(t *testing.T) {
	env := map[string]string{"AWS_ENDPOINT_URL": "https://all", "AWS_ENDPOINT_URL_S3": "https://s3", "AWS_DEFAULT_REGION": "r"}
	s := S3FromEnv(func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	if s.Endpoint != "https://s3" || s.Region != "r" || s.Credentials == nil {
		t.Errorf("%+v", s)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	v, err := s.Credentials.GetWithContext(nil)
	if err != nil || v.AccessKeyID != "AKIDTEST" {
		t.Errorf("%v, %v", v.AccessKeyID, err)
	}
}
