package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"chorale/adaptermgr/source/archive"
	"chorale/adaptermgr/source/spool"
)

// archiveFile is an archive's name in its slot.
const archiveFile = "archive"

// acquire takes the slot of a source; key names what is fetched.
func (r *Resolver) acquire(ctx context.Context, source, key string, o origin) (*transfer, error) {
	slot, err := r.o.Spool.Acquire(ctx, key)
	if err != nil {
		return nil, fail(source, "", err)
	}
	return &transfer{r: r, slot: slot, origin: o, source: source, progress: progressOf(ctx)}, nil
}

// finish opens what a transfer has brought, or ends it: what has come is kept
// when another attempt may go on from it.
func (t *transfer) finish(ctx context.Context, err error) (*Artifact, error) {
	var a *Artifact
	if err == nil {
		a, err = t.r.held(t.source, t.slot)
	}
	if err != nil {
		keep := ctx.Err() != nil || isTemporary(err)
		return nil, errors.Join(err, t.slot.Release(keep))
	}
	t.slot.Unlock()
	return a, nil
}

// folder fetches the files of an adapter that lie beside one another.
func (r *Resolver) folder(ctx context.Context, source, key string, o origin) (*Artifact, error) {
	t, err := r.acquire(ctx, source, key, o)
	if err != nil {
		return nil, err
	}
	return t.finish(ctx, t.files(ctx))
}

// files fetches each file of the adapter and makes sure that they belong
// together.
func (t *transfer) files(ctx context.Context) error {
	limits := map[string]int64{ConfigFile: maxConfig, WeightsFile: t.r.o.MaxWeights, AddedTokensFile: maxAddedTokens}
	names := []string{ConfigFile, WeightsFile, AddedTokensFile}
	there := make([]bool, len(names))
	g, gctx := errgroup.WithContext(ctx)
	for i, name := range names {
		g.Go(func() error {
			err := t.get(gctx, name, limits[name], "")
			if errors.Is(err, ErrNotFound) {
				return t.slot.Remove(name)
			}
			there[i] = err == nil
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	switch {
	case !there[0] && !there[1]:
		return fail(t.source, "", fmt.Errorf("%w: neither %s nor %s is there", ErrNotFound, ConfigFile, WeightsFile))
	case !there[0]:
		return nil // reading says it
	case !there[1]:
		return t.unpickled(ctx)
	}
	for i, name := range names {
		if there[i] {
			if err := t.unchanged(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpickled tells why there are no weights.
func (t *transfer) unpickled(ctx context.Context) error {
	w := t.r.watch(ctx)
	defer w.stop()
	rep, err := t.origin.open(w.ctx, request{file: pickledFile})
	if err != nil {
		return nil // reading says that there are none
	}
	if rep.body != nil {
		rep.body.Close()
	}
	return pickled(t.source)
}

// archived fetches an archive and takes the adapter out of it.
func (r *Resolver) archived(ctx context.Context, source, key string, o origin, want string) (*Artifact, error) {
	t, err := r.acquire(ctx, source, key, o)
	if err != nil {
		return nil, err
	}
	if err = t.get(ctx, archiveFile, r.o.MaxWeights+maxBeside, want); err == nil {
		err = r.unpack(ctx, source, t.slot, archiveFile)
	}
	return t.finish(ctx, err)
}

// unpack takes an adapter's files out of an archive in the slot.
func (r *Resolver) unpack(ctx context.Context, source string, slot *spool.Slot, name string) error {
	names := []string{ConfigFile, WeightsFile, AddedTokensFile, pickledFile}
	for _, n := range names {
		if err := slot.Remove(n); err != nil {
			return err
		}
	}
	f, err := slot.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	limits := archive.Limits{Bytes: r.o.MaxWeights + maxBeside}
	err = archive.Extract(ctx, f, st.Size(), names, limits, func(name string) (io.WriteCloser, error) { return slot.Create(name) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, archive.ErrTooLarge):
		err = fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, archive.ErrFormat), errors.Is(err, archive.ErrUnsafe), errors.Is(err, archive.ErrAmbiguous):
		err = fmt.Errorf("%w: %w", ErrArchive, err)
	}
	return fail(source, "", err)
}

// held reads the adapter in a slot. The artifact's Close releases the slot.
func (r *Resolver) held(source string, slot *spool.Slot) (*Artifact, error) {
	a, err := r.read(Redact(source), slot.Open)
	if err != nil {
		return nil, err
	}
	f, ok := a.Weights.(*os.File)
	if !ok {
		return nil, errors.Join(fmt.Errorf("source: %T is not a file", a.Weights), a.Close())
	}
	a.Weights = &slotFile{f, slot}
	return a, nil
}

// slotFile is a weights file in a slot that is released with it.
type slotFile struct {
	*os.File
	slot *spool.Slot
}

// MoveTo makes it a blob.Movable.
func (f *slotFile) MoveTo(path string) error { return f.slot.Take(WeightsFile, path) }

// Close closes the file and releases the slot.
func (f *slotFile) Close() error { return errors.Join(f.File.Close(), f.slot.Release(false)) }
