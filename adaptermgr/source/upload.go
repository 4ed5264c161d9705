package source

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"chorale/adaptermgr/source/spool"
)

// Upload collects the files that one client sends: an adapter's, or one
// archive that holds them. It is not for concurrent use.
type Upload struct {
	r    *Resolver
	slot *spool.Slot
	id   string
	// label is the first file's name, for people.
	label string

	part  *spool.Part
	limit int64 // of the part
	seen  map[string]bool
}

// Uploads begins uploads; a *Resolver does.
type Uploads interface {
	NewUpload() (*Upload, error)
}

var _ Uploads = (*Resolver)(nil)

// NewUpload begins an upload. The caller closes it when the adapter is loaded,
// or will not be.
func (r *Resolver) NewUpload() (*Upload, error) {
	if r.o.Spool == nil {
		return nil, fmt.Errorf("%w: this server takes no uploads", ErrUnsupported)
	}
	u := &Upload{r: r, id: strings.ToLower(rand.Text()), seen: map[string]bool{}}
	var err error
	if u.slot, err = r.o.Spool.Begin(u.id); err != nil {
		return nil, err
	}
	r.uploads.mu.Lock()
	defer r.uploads.mu.Unlock()
	if r.uploads.byID == nil {
		r.uploads.byID = map[string]*Upload{}
	}
	r.uploads.byID[u.id] = u
	return u, nil
}

// Source is what Fetch takes for what has been uploaded.
func (u *Upload) Source() string {
	if u.label == "" {
		return "upload://" + u.id
	}
	return "upload://" + u.id + "/" + u.label
}

// File begins the next file. name may be a path, of which the last part
// counts. Files that are no adapter's are refused.
func (u *Upload) File(name string) error {
	base := name[strings.LastIndexAny(name, `/\`)+1:]
	limit := map[string]int64{ConfigFile: maxConfig, WeightsFile: u.r.o.MaxWeights, AddedTokensFile: maxAddedTokens}[base]
	as := base
	switch {
	case base == pickledFile:
		return pickled("upload")
	case limit > 0:
	case isArchive(base):
		as, limit = archiveFile, u.r.o.MaxWeights+maxBeside
	default:
		return fail("upload", base, fmt.Errorf("%w: want %s, %s and perhaps %s, or one .tar, .tar.gz, .tgz or .zip",
			ErrInvalid, ConfigFile, WeightsFile, AddedTokensFile))
	}
	if u.seen[as] || len(u.seen) > 0 && u.seen[archiveFile] != (as == archiveFile) {
		return fail("upload", base, fmt.Errorf("%w: a file twice, or more than one archive", ErrInvalid))
	}
	if err := u.end(); err != nil {
		return err
	}
	u.seen[as] = true
	if u.label == "" || as == WeightsFile {
		u.label = printable(base)
	}
	var err error
	u.part, err = u.slot.Create(as)
	u.limit = limit
	return fail("upload", base, err)
}

// printable is a name that is fit for logs.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == '"' || r > '~' {
			return '_'
		}
		return r
	}, name)
}

// Write appends to the file begun last.
func (u *Upload) Write(b []byte) (int, error) {
	switch {
	case u.part == nil:
		return 0, fail("upload", "", fmt.Errorf("%w: bytes before a file's name", ErrInvalid))
	case u.part.Size()+int64(len(b)) > u.limit:
		return 0, fail("upload", u.label, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, u.limit))
	}
	return u.part.Write(b)
}

// Size returns the bytes of the file begun last.
func (u *Upload) Size() int64 {
	if u.part == nil {
		return 0
	}
	return u.part.Size()
}

func (u *Upload) end() error {
	if u.part == nil {
		return nil
	}
	err := u.part.Close()
	u.part = nil
	return err
}

// Complete ends the last file: all has come.
func (u *Upload) Complete() error {
	if len(u.seen) == 0 {
		return fail("upload", "", fmt.Errorf("%w: no file was sent", ErrInvalid))
	}
	return u.end()
}

// Close removes the upload. An artifact that was fetched from it must be
// closed before.
func (u *Upload) Close() error {
	u.r.uploads.mu.Lock()
	delete(u.r.uploads.byID, u.id)
	u.r.uploads.mu.Unlock()
	return errors.Join(u.end(), u.slot.Release(false))
}

// fromUpload reads what has been uploaded; rest is the source after upload://.
func (r *Resolver) fromUpload(ctx context.Context, source, rest string) (*Artifact, error) {
	id, _, _ := strings.Cut(rest, "/")
	r.uploads.mu.Lock()
	u := r.uploads.byID[id]
	delete(r.uploads.byID, id)
	r.uploads.mu.Unlock()
	if u == nil {
		return nil, fail(source, "", fmt.Errorf("%w: an upload can be loaded once; upload it again", ErrNotFound))
	}
	if u.seen[archiveFile] {
		if err := r.unpack(ctx, source, u.slot, archiveFile); err != nil {
			return nil, err
		}
		if err := u.slot.Remove(archiveFile); err != nil { // its bytes are on disk twice now
			return nil, err
		}
	}
	return r.held(source, u.slot)
}
