package source

import (
	"context"
	"errors"
	"fmt"

	"chorale/internal/hub"
)

func (r *Resolver) fromHub(ctx context.Context, source, repo, revision string) (*Artifact, error) {
	p := progressOf(ctx)
	dir, err := r.o.Hub.Snapshot(ctx, repo, revision, hub.SnapshotOptions{
		Allow:        []string{ConfigFile, WeightsFile, AddedTokensFile},
		MaxFileBytes: r.o.MaxWeights,
		Progress:     func(s hub.Progress) { p.set("", counts{s.TotalDone, s.TotalSize}) },
	})
	if err != nil {
		return nil, fmt.Errorf("adapter %q: %w", source, hubError(err))
	}
	a, err := r.readFolder(source, inDir(dir))
	if errors.Is(err, ErrInvalid) && r.onlyPickled(ctx, repo, revision) {
		return nil, pickled(source)
	}
	return a, err
}

func (r *Resolver) onlyPickled(ctx context.Context, repo, revision string) bool {
	info, err := r.o.Hub.Info(ctx, repo, revision)
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
		{hub.ErrStalled, ErrStalled},
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
