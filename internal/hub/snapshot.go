package hub

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// SnapshotOptions choose files and watch their arrival.
type SnapshotOptions struct {
	// Allow are patterns on whole paths, * for any characters; default
	// DefaultAllow.
	Allow []string
	// MaxFileBytes bounds each file, if the client's own limit is not lower; 0: no more.
	MaxFileBytes int64
	// Progress, if set, is called from one goroutine at a time and must return
	// soon: the download waits for it.
	Progress func(Progress)
}

// Progress tells how far a snapshot is. All sizes are bytes.
type Progress struct {
	// File is the file that this call is about; Done of its Size bytes are on disk.
	File       string
	Done, Size int64
	// TotalDone of TotalSize bytes of the whole snapshot are on disk.
	TotalDone, TotalSize int64
}

// Snapshot makes sure that the wanted files of a repository's revision are in
// the cache and returns the folder that holds them. Offline, or when the hub
// cannot be reached, it returns what the cache knows of that revision; then
// only what is not there is an error. The error is an *Error.
func (c *Client) Snapshot(ctx context.Context, repo, revision string, o SnapshotOptions) (dir string, err error) {
	if revision == "" {
		revision = DefaultRevision
	}
	dir, err = c.snapshot(ctx, repo, revision, o)
	return dir, wrap(repo, revision, "", err)
}

func (c *Client) snapshot(ctx context.Context, repo, revision string, o SnapshotOptions) (string, error) {
	if err := errors.Join(checkRepo(repo), checkRevision(revision)); err != nil {
		return "", err
	}
	if c.o.Offline {
		return c.cached(repo, revision, o.Allow)
	}
	info, err := c.info(ctx, repo, revision)
	if errors.Is(err, ErrNetwork) {
		if dir, cerr := c.cached(repo, revision, o.Allow); cerr == nil {
			return dir, nil
		}
	}
	if err != nil {
		return "", err
	}
	files := filter(info.Files, o.Allow)
	if len(files) == 0 {
		return "", fmt.Errorf("%w: none of its %d files is of a kind wanted", ErrNotFound, len(info.Files))
	}
	j := &job{c: c, dir: c.repoDir(repo), repo: repo, revision: revision, commit: info.Commit, report: o.Progress, maxFile: c.o.MaxFileBytes}
	if o.MaxFileBytes > 0 {
		j.maxFile = min(j.maxFile, o.MaxFileBytes)
	}
	if err := j.plan(ctx, files); err != nil {
		return "", err
	}
	if err := j.fetch(ctx); err != nil {
		return "", err
	}
	if err := j.dir.setRef(revision, info.Commit); err != nil {
		return "", err
	}
	return j.dir.snapshot(info.Commit), nil
}

// job is one snapshot on its way.
type job struct {
	c                      *Client
	dir                    repoDir
	repo, revision, commit string
	maxFile                int64

	files []wanted

	mu     sync.Mutex // guards report's calls and done
	report func(Progress)
	done   int64
	total  int64
}

type wanted struct {
	name  string
	url   string
	meta  meta
	there bool // linked already: a commit's files never change
}

// plan learns each file's etag and size and checks the limits, before any
// file is fetched.
func (j *job) plan(ctx context.Context, names []string) error {
	j.files = make([]wanted, len(names))
	err := j.each(ctx, len(names), func(ctx context.Context, i int) (string, error) {
		w := &j.files[i]
		w.name, w.url = names[i], j.url(names[i])
		path := filepath.Join(j.dir.snapshot(j.commit), filepath.FromSlash(w.name))
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			w.there, w.meta.size = true, st.Size()
			return w.name, nil
		}
		var err error
		w.meta, err = j.c.head(ctx, w.url)
		if err == nil && w.meta.size > j.maxFile {
			err = fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, w.meta.size, j.maxFile)
		}
		return w.name, err
	})
	if err != nil {
		return err
	}
	for _, w := range j.files {
		if w.meta.size > j.c.o.MaxTotalBytes-j.total {
			return fmt.Errorf("%w: more than %d bytes together", ErrTooLarge, j.c.o.MaxTotalBytes)
		}
		j.total += w.meta.size
	}
	return nil
}

func (j *job) url(file string) string {
	parts := strings.Split(file, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return j.c.endpoint.String() + "/" + j.repo + "/resolve/" + j.commit + "/" + strings.Join(parts, "/")
}

func (j *job) fetch(ctx context.Context) error {
	return j.each(ctx, len(j.files), func(ctx context.Context, i int) (string, error) {
		w, seen := j.files[i], int64(0)
		progress := func(done int64) {
			j.progress(w, done, done-seen)
			seen = done
		}
		if !w.there {
			if err := j.c.download(ctx, j.dir, w.url, w.meta, progress); err != nil {
				return w.name, err
			}
			if err := j.dir.link(j.commit, w.name, w.meta.etag); err != nil {
				return w.name, err
			}
		}
		if seen != w.meta.size || seen == 0 {
			progress(w.meta.size)
		}
		return w.name, nil
	})
}

func (j *job) progress(w wanted, done, delta int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.done += delta
	if j.report != nil {
		j.report(Progress{File: w.name, Done: done, Size: w.meta.size, TotalDone: j.done, TotalSize: j.total})
	}
}

// each runs do for 0…n-1, Parallel at a time, and stops at the first error.
func (j *job) each(ctx context.Context, n int, do func(context.Context, int) (file string, err error)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(j.c.o.Parallel)
	for i := range n {
		g.Go(func() error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			file, err := do(ctx, i)
			return wrap(j.repo, j.revision, file, err)
		})
	}
	return g.Wait()
}
