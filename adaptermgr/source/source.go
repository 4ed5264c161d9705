package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"chorale/internal/hub"
)

// Errors of this package.
var (
	// ErrNotFound marks a source that is not there, or that is not allowed.
	ErrNotFound = errors.New("adapter source not found")
	// ErrInvalid marks a source that is not a complete adapter.
	ErrInvalid = errors.New("not a PEFT adapter")
	// ErrUnsupported marks an adapter in a form that is not read.
	ErrUnsupported = errors.New("unsupported adapter format")
	// ErrTooLarge marks files beyond the limits.
	ErrTooLarge = errors.New("adapter too large")
	// ErrDenied marks a hub repository that the token does not open.
	ErrDenied = errors.New("adapter source refuses access")
	// ErrUnavailable marks a hub that cannot be reached.
	ErrUnavailable = errors.New("adapter source unavailable")
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
)

// Artifact is a fetched adapter. The caller closes it.
type Artifact struct {
	// Config is adapter_config.json.
	Config []byte
	// AddedTokens is added_tokens.json, nil when there is none.
	AddedTokens []byte
	// Weights reads adapter_model.safetensors; Size is its length.
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

// Options configure a Resolver.
type Options struct {
	// Roots are folders below which any client may name a folder.
	Roots []string
	// Exact are sources that the operator named: each is allowed by this very
	// string. Those that are no folder at construction (hub names) have no effect.
	Exact []string
	// Hub is asked for ORG/NAME; nil: never.
	Hub Hub
	// MaxWeights bounds the weights file in bytes, default DefaultMaxWeights.
	MaxWeights int64
	// Log tells the operator why a source was refused; nil: nobody.
	Log *zap.Logger
}

// Resolver fetches sources. It is safe for concurrent use.
type Resolver struct {
	roots []string          // absolute, symlinks resolved
	exact map[string]string // as given → absolute path
	hub   Hub
	max   int64
	log   *zap.Logger
}

// New returns a Resolver. Roots that are no folders are an error; relative
// paths count from the working directory at this moment.
func New(o Options) (*Resolver, error) {
	r := &Resolver{exact: map[string]string{}, hub: o.Hub, max: o.MaxWeights, log: o.Log}
	if r.max <= 0 {
		r.max = DefaultMaxWeights
	}
	if r.log == nil {
		r.log = zap.NewNop()
	}
	for _, root := range o.Roots {
		real, err := realDir(root)
		if err != nil {
			return nil, fmt.Errorf("adapter root %q: %w", root, err)
		}
		r.roots = append(r.roots, real)
	}
	for _, e := range o.Exact {
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

func realDir(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(real)
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("%s is not a directory", real)
	}
	return real, err
}

// Fetch opens the adapter that source names.
func (r *Resolver) Fetch(ctx context.Context, source string) (*Artifact, error) {
	if dir, ok := r.exact[source]; ok {
		return r.read(source, inDir(dir))
	}
	open, done, why := r.local(source)
	if open != nil {
		defer done()
		return r.read(source, open)
	}
	if repo, revision, err := hub.ParseName(source); r.hub != nil && err == nil && strings.Contains(repo, "/") {
		return r.fromHub(ctx, source, repo, revision)
	}
	r.log.Warn("adapter source refused", zap.String("source", source), zap.Error(why))
	return nil, fmt.Errorf("%w: %q is not a directory below an adapter root", ErrNotFound, source)
}

// opener opens one of an adapter's files.
type opener func(name string) (*os.File, error)

// inDir opens files in a trusted folder, wherever symlinks lead.
func inDir(dir string) opener {
	return func(name string) (*os.File, error) {
		return os.OpenFile(filepath.Join(dir, name), openFlags, 0)
	}
}

// openFlags keep a FIFO from blocking the open.
const openFlags = os.O_RDONLY | syscall.O_NONBLOCK

// local looks for an allowed folder. When there is none, why tells the
// operator the reason.
func (r *Resolver) local(source string) (open opener, done func(), why error) {
	why = errors.New("no adapter root is set")
	for _, path := range r.candidates(source) {
		real, err := realDir(path)
		if err != nil {
			why = err
			continue
		}
		for _, base := range r.roots {
			rel, err := filepath.Rel(base, real)
			if err != nil || !filepath.IsLocal(rel) {
				why = fmt.Errorf("%s is not below an adapter root", real)
				continue
			}
			root, err := os.OpenRoot(base)
			if err != nil {
				why = err
				continue
			}
			return func(name string) (*os.File, error) {
				return root.OpenFile(filepath.Join(rel, name), openFlags, 0)
			}, func() { root.Close() }, nil
		}
	}
	return nil, nil, why
}

// candidates are the paths that source may mean: as it stands, and below each
// root.
func (r *Resolver) candidates(source string) []string {
	if source == "" || strings.ContainsRune(source, 0) {
		return nil
	}
	paths := []string{source}
	if !filepath.IsAbs(source) {
		for _, root := range r.roots {
			paths = append(paths, filepath.Join(root, source))
		}
	}
	return paths
}

func (r *Resolver) fromHub(ctx context.Context, source, repo, revision string) (*Artifact, error) {
	dir, err := r.hub.Snapshot(ctx, repo, revision, hub.SnapshotOptions{
		Allow: []string{ConfigFile, WeightsFile, AddedTokensFile},
	})
	if err != nil {
		return nil, fmt.Errorf("adapter %q: %w", source, hubError(err))
	}
	a, err := r.read(source, inDir(dir))
	if errors.Is(err, ErrInvalid) && r.onlyPickled(ctx, repo, revision) {
		return nil, pickled(source)
	}
	return a, err
}

func (r *Resolver) onlyPickled(ctx context.Context, repo, revision string) bool {
	info, err := r.hub.Info(ctx, repo, revision)
	if err != nil {
		return false
	}
	has := map[string]bool{}
	for _, f := range info.Files {
		has[f] = true
	}
	return has[pickledFile] && !has[WeightsFile]
}

func pickled(source string) error {
	return fmt.Errorf("adapter %q: %w: it has only %s, which is a pickle and can run code; convert it to %s",
		source, ErrUnsupported, pickledFile, WeightsFile)
}

// hubError adds this package's sentinel to an error of the hub.
func hubError(err error) error {
	for _, m := range []struct{ from, to error }{
		{hub.ErrNotFound, ErrNotFound},
		{hub.ErrName, ErrNotFound},
		{hub.ErrOffline, ErrNotFound},
		{hub.ErrGated, ErrDenied},
		{hub.ErrUnauthorized, ErrDenied},
		{hub.ErrTooLarge, ErrTooLarge},
		{hub.ErrNetwork, ErrUnavailable},
		{hub.ErrProtocol, ErrUnavailable},
		{hub.ErrChecksum, ErrUnavailable},
	} {
		if errors.Is(err, m.from) {
			return fmt.Errorf("%w: %w", m.to, err)
		}
	}
	return err
}

// read reads the small files and opens the weights.
func (r *Resolver) read(source string, open opener) (_ *Artifact, err error) {
	config, err := r.small(source, open, ConfigFile, maxConfig)
	if err != nil {
		return nil, err
	}
	if config == nil {
		return nil, fmt.Errorf("adapter %q: %w: no %s", source, ErrInvalid, ConfigFile)
	}
	tokens, err := r.small(source, open, AddedTokensFile, maxAddedTokens)
	if err != nil {
		return nil, err
	}
	f, size, err := r.regular(source, open, WeightsFile)
	if err != nil {
		return nil, err
	}
	if f == nil {
		if p, _, err := r.regular(source, open, pickledFile); err == nil && p != nil {
			p.Close()
			return nil, pickled(source)
		}
		return nil, fmt.Errorf("adapter %q: %w: no %s", source, ErrInvalid, WeightsFile)
	}
	if size > r.max {
		f.Close()
		return nil, fmt.Errorf("adapter %q: %w: %s has %d bytes, the limit is %d", source, ErrTooLarge, WeightsFile, size, r.max)
	}
	return &Artifact{Config: config, AddedTokens: tokens, Weights: f, Size: size}, nil
}

// regular opens a regular file; nil when there is none. Files that symlinks
// lead out of the root to are none, too.
func (r *Resolver) regular(source string, open opener, name string) (*os.File, int64, error) {
	f, err := open(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.log.Warn("adapter file refused", zap.String("source", source), zap.String("file", name), zap.Error(err))
		}
		return nil, 0, nil
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("adapter %q: %w: %s is not a regular file", source, ErrInvalid, name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// small reads a whole file of at most limit bytes; nil when there is none.
func (r *Resolver) small(source string, open opener, name string, limit int64) ([]byte, error) {
	f, size, err := r.regular(source, open, name)
	if f == nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: %s has %d bytes, the limit is %d", ErrTooLarge, name, max(size, int64(len(b))), limit)
	}
	if err != nil {
		return nil, fmt.Errorf("adapter %q: %w", source, err)
	}
	return b, nil
}
