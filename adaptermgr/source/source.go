package source

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"chorale/adaptermgr/source/guard"
	"chorale/adaptermgr/source/spool"
	"chorale/internal/hub"
)

// The files of a PEFT adapter.
const (
	ConfigFile      = "adapter_config.json"
	WeightsFile     = "adapter_model.safetensors"
	pickledFile     = "adapter_model.bin"
	AddedTokensFile = "added_tokens.json"
)

const (
	maxConfig      = 1 << 20
	maxAddedTokens = 16 << 20
	// DefaultMaxWeights is 16 GiB: rank 512 on every module of a 70B model in
	// bf16 stays below it.
	DefaultMaxWeights = 16 << 30
	// maxBeside is what an archive may hold beside the weights.
	maxBeside = 1 << 30
)

// Artifact is a fetched adapter. The caller closes it.
type Artifact struct {
	// Config is adapter_config.json.
	Config []byte
	// AddedTokens is added_tokens.json, nil when there is none.
	AddedTokens []byte
	// Weights reads adapter_model.safetensors; Size is its length. Weights that
	// were fetched for this very call are a blob.Movable.
	Weights io.ReadCloser
	Size    int64
}

// Close closes the weights file.
func (a *Artifact) Close() error { return a.Weights.Close() }

// Hub is what is needed of a hub's client.
type Hub interface {
	Snapshot(ctx context.Context, repo, revision string, o hub.SnapshotOptions) (string, error)
	Info(ctx context.Context, repo, revision string) (hub.Info, error)
}

var _ Hub = (*hub.Client)(nil)

// Options configure a Resolver. The zero value of a field means its default.
type Options struct {
	// Roots are folders below which any client may name a folder.
	Roots []string
	// Exact are sources that the operator named: always allowed, by this very
	// string, private addresses too. Paths that are no folder at construction have
	// no effect.
	Exact []string
	// Hub is asked for ORG/NAME; nil: never.
	Hub Hub
	// Spool holds what is fetched and uploaded; nil: HTTPS, S3 and uploads are
	// refused.
	Spool *spool.Spool
	// S3 is where s3:// is, unless a source says otherwise.
	S3 S3
	// AllowPrivate lets clients name servers by http and in private networks.
	AllowPrivate bool
	// MaxWeights bounds the weights file in bytes, default DefaultMaxWeights.
	MaxWeights int64
	// Parallel files are fetched at once, default 8; others wait.
	Parallel int
	// StallTimeout ends a request that brings no byte for so long, default 30 s.
	StallTimeout time.Duration
	// Retries after failures in a row that brought no byte, default 4; negative: none.
	Retries int
	// RetryWait before the first retry, doubled for each next up to 10 s, default 500 ms.
	RetryWait time.Duration
	// Log tells the operator why a source was refused; nil: nobody.
	Log *zap.Logger

	control func(network, address string, c syscall.RawConn) error // guard.Control, but in tests
	tls     *tls.Config
}

func (o *Options) setDefaults() {
	if o.MaxWeights <= 0 {
		o.MaxWeights = DefaultMaxWeights
	}
	if o.Parallel <= 0 {
		o.Parallel = 8
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = 30 * time.Second
	}
	if o.Retries == 0 {
		o.Retries = 4
	}
	if o.RetryWait <= 0 {
		o.RetryWait = 500 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.control == nil {
		o.control = guard.Control
	}
}

// Resolver fetches sources. It is safe for concurrent use.
type Resolver struct {
	o       Options
	roots   []string          // absolute, symlinks resolved
	exact   map[string]string // as given → absolute path, empty for URIs
	slots   chan struct{}     // of Parallel
	guarded *http.Transport   // for what clients name
	open    *http.Transport   // for what the operator names
	uploads uploads
}

// New returns a Resolver. Roots that are no folders are an error; relative
// paths count from the working directory at this moment.
func New(o Options) (*Resolver, error) {
	o.setDefaults()
	r := &Resolver{
		o: o, exact: map[string]string{}, slots: make(chan struct{}, o.Parallel),
		guarded: guard.Transport(o.control), open: guard.Transport(nil),
	}
	r.guarded.TLSClientConfig, r.open.TLSClientConfig = o.tls.Clone(), o.tls.Clone()
	for _, root := range o.Roots {
		real, err := realDir(root)
		if err != nil {
			return nil, fmt.Errorf("adapter root %q: %w", root, err)
		}
		r.roots = append(r.roots, real)
	}
	for _, e := range o.Exact {
		if strings.Contains(e, "://") {
			r.exact[e] = ""
			continue
		}
		abs, err := filepath.Abs(e)
		if err != nil {
			return nil, fmt.Errorf("adapter path %q: %w", e, err)
		}
		if st, err := os.Stat(abs); err == nil && st.IsDir() {
			r.exact[e] = abs
		}
	}
	return r, nil
}

// CloseIdleConnections gives back connections that no request uses.
func (r *Resolver) CloseIdleConnections() {
	r.guarded.CloseIdleConnections()
	r.open.CloseIdleConnections()
}

// trusts tells whether a source may be anywhere in the network.
func (r *Resolver) trusts(source string) bool {
	_, named := r.exact[source]
	return named || r.o.AllowPrivate
}

func (r *Resolver) transport(trusted bool) *http.Transport {
	if trusted {
		return r.open
	}
	return r.guarded
}

// transferSlot waits for its turn to fetch a file.
func (r *Resolver) transferSlot(ctx context.Context) (done func(), err error) {
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Fetch brings the adapter that source names; see the package comment for what
// it may be. Progress is told as WithProgress says.
func (r *Resolver) Fetch(ctx context.Context, source string) (*Artifact, error) {
	if dir := r.exact[source]; dir != "" {
		return r.readFolder(source, inDir(dir))
	}
	scheme, rest, isURI := strings.Cut(source, "://")
	if isURI && !strings.Contains(scheme, "/") {
		a, err := r.fromURI(ctx, source, scheme, rest)
		if err != nil {
			r.o.Log.Warn("adapter source failed", zap.String("source", Redact(source)), zap.Error(err))
		}
		return a, err
	}
	return r.fromFolder(ctx, source)
}

func (r *Resolver) fromURI(ctx context.Context, source, scheme, rest string) (*Artifact, error) {
	switch scheme {
	case "file":
		return r.fromFolder(ctx, rest)
	case "hf":
		repo, revision, err := hub.ParseName(rest)
		if err != nil || r.o.Hub == nil {
			return nil, fail(source, "", fmt.Errorf("%w: want hf://ORG/NAME or hf://ORG/NAME@REVISION", ErrNotFound))
		}
		return r.fromHub(ctx, source, repo, revision)
	case "http", "https", "s3", "upload":
	default:
		return nil, fail(source, "", fmt.Errorf("%w: %s:// is not read; a folder, hf://, s3:// and https:// are", ErrUnsupported, scheme))
	}
	if r.o.Spool == nil {
		return nil, fail(source, "", fmt.Errorf("%w: this server reads folders and hubs only", ErrUnsupported))
	}
	switch scheme {
	case "s3":
		return r.fromS3(ctx, source)
	case "upload":
		return r.fromUpload(ctx, source, rest)
	}
	return r.fromHTTP(ctx, source)
}

// fromFolder reads a folder below a root, or else asks the hub.
func (r *Resolver) fromFolder(ctx context.Context, source string) (*Artifact, error) {
	open, done, why := r.local(source)
	if open != nil {
		defer done()
		return r.readFolder(source, open)
	}
	if repo, revision, err := hub.ParseName(source); r.o.Hub != nil && err == nil && strings.Contains(repo, "/") {
		return r.fromHub(ctx, source, repo, revision)
	}
	r.o.Log.Warn("adapter source refused", zap.String("source", source), zap.Error(why))
	return nil, fmt.Errorf("%w: %q is not a directory below an adapter root", ErrNotFound, source)
}

// uploads are those that are not closed yet.
type uploads struct {
	mu   sync.Mutex
	byID map[string]*Upload
}
