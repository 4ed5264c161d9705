package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
)

// repoDir is one repository's folder in the cache.
type repoDir struct {
	cache, name string
}

func (c *Client) repoDir(repo string) repoDir {
	return repoDir{c.o.CacheDir, "models--" + strings.ReplaceAll(repo, "/", "--")}
}

func (d repoDir) blob(etag string) string {
	return filepath.Join(d.cache, d.name, "blobs", etag)
}

func (d repoDir) lock(etag string) string {
	return filepath.Join(d.cache, ".locks", d.name, etag+".lock")
}

func (d repoDir) snapshot(commit string) string {
	return filepath.Join(d.cache, d.name, "snapshots", commit)
}

func (d repoDir) ref(revision string) string {
	return filepath.Join(d.cache, d.name, "refs", filepath.FromSlash(revision))
}

// present tells whether path is a regular file of that size, through symlinks.
func present(path string, size int64) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Size() == size
}

// link makes snapshots/commit/file point to the blob, relative, so that the
// cache can be moved; where symlinks are not to be had, it is a hard link.
func (d repoDir) link(commit, file, etag string) error {
	path := filepath.Join(d.snapshot(commit), filepath.FromSlash(file))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	target, err := filepath.Rel(filepath.Dir(path), d.blob(etag))
	if err != nil {
		return err
	}
	if have, err := os.Readlink(path); err == nil && have == target {
		return nil
	}
	tmp := tempName(path)
	_ = os.Remove(tmp)
	if err := os.Symlink(target, tmp); err != nil {
		if err := os.Link(d.blob(etag), tmp); err != nil {
			return err
		}
	}
	return errors.Join(os.Rename(tmp, path), syncDir(filepath.Dir(path)))
}

// temps numbers the temporary names of this process.
var temps atomic.Uint64

// tempName returns a name beside path that no other writer uses. What is made
// there is then renamed to path: readers never see the file missing.
func tempName(path string) string {
	return fmt.Sprintf("%s.%d-%d.tmp", path, os.Getpid(), temps.Add(1))
}

// setRef records which commit a branch or tag stood for.
func (d repoDir) setRef(revision, commit string) error {
	if revision == commit {
		return nil
	}
	path := d.ref(revision)
	if have, err := os.ReadFile(path); err == nil && string(have) == commit {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := tempName(path)
	if err := os.WriteFile(tmp, []byte(commit), 0o644); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}

// cached finds the snapshot of a revision on disk and the wanted files in it.
func (c *Client) cached(repo, revision string, allow []string) (dir string, err error) {
	d := c.repoDir(repo)
	commit := revision
	if b, err := os.ReadFile(d.ref(revision)); err == nil {
		commit = strings.TrimSpace(string(b))
	}
	if !commitName.MatchString(commit) {
		return "", fmt.Errorf("%w (%s)", ErrOffline, c.o.CacheDir)
	}
	dir = d.snapshot(commit)
	files, err := listSnapshot(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%w (%s)", ErrOffline, c.o.CacheDir)
		}
		return "", err
	}
	wanted := filter(files, allow)
	if len(wanted) == 0 {
		return "", fmt.Errorf("%w: the snapshot %s has none of the files wanted", ErrOffline, commit)
	}
	for _, f := range wanted {
		// A symlink whose blob was cleaned away.
		if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(f))); err != nil {
			return "", &Error{Repo: repo, Revision: revision, File: f, Err: ErrOffline}
		}
	}
	return dir, nil
}

func listSnapshot(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		files = append(files, filepath.ToSlash(rel))
		return err
	})
	slices.Sort(files)
	return files, err
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return ignoreUnsupported(f.Sync())
}

// ignoreUnsupported drops the error of systems that cannot sync a folder.
func ignoreUnsupported(err error) error {
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
