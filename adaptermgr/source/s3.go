package source

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"chorale/adaptermgr/source/guard"
	"chorale/adaptermgr/source/spool"
)

// defaultS3 is Amazon's.
const defaultS3 = "https://s3.amazonaws.com"

// S3 is the operator's object store.
type S3 struct {
	// Endpoint is its URL, default Amazon's.
	Endpoint string
	// Region, empty: the store is asked.
	Region string
	// Credentials are shown to this endpoint only; nil: none.
	Credentials *credentials.Credentials
}

// S3FromEnv returns what AWS's tools would use by the environment:
// AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION, and
// credentials of AWS_ACCESS_KEY_ID …, of the credentials file and of a
// container or service account. A machine's own role is asked for only with
// AWS_EC2_METADATA_DISABLED=false: elsewhere the question takes seconds.
func S3FromEnv(lookup func(string) (string, bool)) S3 {
	first := func(names ...string) string {
		for _, n := range names {
			if v, _ := lookup(n); v != "" {
				return v
			}
		}
		return ""
	}
	providers := []credentials.Provider{&credentials.EnvAWS{}, &credentials.EnvMinio{}, &credentials.FileAWSCredentials{}}
	roles := first("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
	if roles != "" || strings.EqualFold(first("AWS_EC2_METADATA_DISABLED"), "false") {
		providers = append(providers, &credentials.IAM{Client: &http.Client{Timeout: 5 * time.Second}})
	}
	return S3{
		Endpoint:    first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
		Region:      first("AWS_REGION", "AWS_DEFAULT_REGION"),
		Credentials: credentials.NewChainCredentials(providers),
	}
}

// fromS3 fetches s3://BUCKET/PREFIX, a folder or an archive.
func (r *Resolver) fromS3(ctx context.Context, source string) (*Artifact, error) {
	o, want, err := r.parseS3(source)
	if err != nil {
		return nil, fail(source, "", err)
	}
	key := o.client.EndpointURL().String() + "/" + o.bucket + "/" + o.key
	if isArchive(o.key) {
		return r.archived(ctx, source, key, o, want)
	}
	if want != "" {
		return nil, fail(source, "", fmt.Errorf("%w: #sha256= is for archives; a folder has several files", ErrUnsupported))
	}
	w := r.watch(ctx)
	defer w.stop()
	if err := o.list(w.ctx); err != nil {
		return nil, fail(source, "", w.explain(err))
	}
	return r.folder(ctx, source, key, o)
}

var regionName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// parseS3 reads s3://BUCKET/KEY[?endpoint=URL&region=REGION][#sha256=…].
func (r *Resolver) parseS3(source string) (o *s3Origin, want string, err error) {
	u, err := url.Parse(source)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") == "" {
		return nil, "", fmt.Errorf("%w: want s3://BUCKET/PREFIX", ErrNotFound)
	}
	if err := s3utils.CheckValidBucketName(u.Host); err != nil {
		return nil, "", fmt.Errorf("%w: bucket %q: %w", ErrNotFound, u.Host, err)
	}
	if u.Fragment != "" {
		if want, err = fragmentDigest(u.Fragment); err != nil {
			return nil, "", err
		}
	}
	q := u.Query()
	for name := range q {
		if name != "endpoint" && name != "region" {
			return nil, "", fmt.Errorf("%w: s3:// takes endpoint= and region=, not %q", ErrUnsupported, name)
		}
	}
	region := r.o.S3.Region
	if q.Has("region") {
		if region = q.Get("region"); !regionName.MatchString(region) {
			return nil, "", fmt.Errorf("%w: region %q", ErrUnsupported, region)
		}
	}
	o = &s3Origin{bucket: u.Host, key: strings.Trim(u.Path, "/")}
	o.client, err = r.s3Client(source, q.Get("endpoint"), region)
	return o, want, err
}

// s3Client talks to the operator's store, with credentials, or to one that the
// source names, without.
func (r *Resolver) s3Client(source, endpoint, region string) (*minio.Client, error) {
	own := r.o.S3.Endpoint
	if own == "" {
		own = defaultS3
	}
	o := minio.Options{Region: region, MaxRetries: 1, Creds: r.o.S3.Credentials, Transport: r.open}
	switch {
	case endpoint == "" || strings.TrimRight(endpoint, "/") == strings.TrimRight(own, "/"):
		endpoint = own
	default:
		// A store that a client names must not see what opens the operator's.
		o.Creds, o.Transport = nil, r.transport(r.trusts(source))
	}
	if o.Creds == nil {
		o.Creds = credentials.NewStatic("", "", "", credentials.SignatureAnonymous)
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.User != nil:
		return nil, fmt.Errorf("%w: endpoint %q is not https://HOST", ErrUnsupported, endpoint)
	case u.Scheme == "http" && endpoint != own && !r.trusts(source):
		return nil, fmt.Errorf("%w: only https is allowed, without --allow-private-sources", ErrDenied)
	}
	o.Secure = u.Scheme == "https"
	c, err := minio.New(u.Host, &o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return c, nil
}

// s3Origin is a folder in a bucket, or an archive.
type s3Origin struct {
	client      *minio.Client
	bucket, key string
	// listed are the folder's files, by name, as they were at the start.
	listed map[string]spool.Stamp
}

// maxListed bounds how much of a folder is looked through.
const maxListed = 10_000

// list looks for the adapter's files. It needs the right to list the bucket:
// without it a store says of a file that is not there only that it may not be
// read.
func (o *s3Origin) list(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing's goroutine
	o.listed = map[string]spool.Stamp{}
	n := 0
	for obj := range o.client.ListObjects(ctx, o.bucket, minio.ListObjectsOptions{Prefix: o.key + "/"}) {
		if obj.Err != nil {
			return s3Error(obj.Err)
		}
		name := strings.TrimPrefix(obj.Key, o.key+"/")
		if slices.Contains([]string{ConfigFile, WeightsFile, AddedTokensFile, pickledFile}, name) {
			o.listed[name] = spool.Stamp{ETag: obj.ETag, Size: obj.Size}
		}
		if n++; n > maxListed {
			return fmt.Errorf("%w: more than %d objects beside the adapter", ErrTooLarge, maxListed)
		}
	}
	return nil
}

// object returns a file's key.
func (o *s3Origin) object(file string) string {
	if o.listed == nil {
		return o.key
	}
	return o.key + "/" + file
}

// open implements origin.
func (o *s3Origin) open(ctx context.Context, q request) (*reply, error) {
	stamp, there := o.listed[q.file]
	if o.listed != nil && !there {
		return nil, ErrNotFound
	}
	if o.listed == nil || q.check {
		st, err := o.client.StatObject(ctx, o.bucket, o.object(q.file), minio.StatObjectOptions{})
		if err != nil {
			return nil, s3Error(err)
		}
		now := spool.Stamp{ETag: st.ETag, Size: st.Size}
		if q.check && now.Same(q.have) {
			return &reply{current: true}, nil
		}
		stamp = now
	}
	from := q.from
	if !stamp.Same(q.have) || q.check {
		from = 0
	}
	return o.read(ctx, q.file, from, stamp)
}

// read requests the contents that stamp is about.
func (o *s3Origin) read(ctx context.Context, file string, from int64, stamp spool.Stamp) (*reply, error) {
	var opts minio.GetObjectOptions
	opts.Set("x-amz-checksum-mode", "ENABLED")
	if stamp.ETag != "" {
		if err := opts.SetMatchETag(stamp.ETag); err != nil {
			return nil, err
		}
	}
	if from > 0 {
		if err := opts.SetRange(from, 0); err != nil {
			return nil, err
		}
	}
	core := minio.Core{Client: o.client}
	body, info, h, err := core.GetObject(ctx, o.bucket, o.object(file), opts)
	if err != nil {
		return nil, s3Error(err)
	}
	rep := &reply{body: body, stamp: stamp}
	if info.ETag != "" {
		rep.stamp.ETag = info.ETag
	}
	length := info.Size
	if cr := h.Get("Content-Range"); cr != "" {
		if rep.from, length, err = contentRange(cr); err != nil {
			body.Close()
			return nil, err
		}
	}
	if length >= 0 && length != stamp.Size {
		body.Close()
		return nil, fmt.Errorf("%w: %d bytes listed, %d sent", ErrLength, stamp.Size, length)
	}
	if b, err := base64.StdEncoding.DecodeString(info.ChecksumSHA256); err == nil && len(b) == 32 && h.Get("x-amz-checksum-type") != "COMPOSITE" {
		rep.stamp.SHA256 = hex.EncodeToString(b)
	}
	return rep, nil
}

// s3Error maps a store's error.
func s3Error(err error) error {
	e := minio.ToErrorResponse(err)
	say := func(kind error) error {
		if e.Message == "" || e.Code == "" {
			return kind
		}
		return fmt.Errorf("%w (%s: %s)", kind, e.Code, e.Message)
	}
	switch {
	case errors.Is(err, guard.ErrPrivate):
		return ErrPrivate
	case e.Code == "ExpiredToken", e.Code == "InvalidToken", e.Code == "AuthorizationHeaderMalformed":
		return say(ErrDenied)
	case e.StatusCode == 0:
		return connectError(err)
	case e.StatusCode == http.StatusPreconditionFailed:
		return ErrChanged
	case e.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return errRange
	case e.StatusCode == http.StatusNotFound:
		return say(ErrNotFound)
	case e.StatusCode == http.StatusForbidden, e.StatusCode == http.StatusUnauthorized:
		return say(ErrDenied)
	case e.StatusCode == http.StatusTooManyRequests, e.StatusCode >= 500:
		return temporary{say(ErrUnavailable)}
	}
	return say(ErrUnavailable)
}
