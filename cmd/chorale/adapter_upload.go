package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"chorale/adaptermgr/source"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// adapterUploadCmd sends an adapter to a server that has another disk.
type adapterUploadCmd struct {
	Name string `arg:"" name:"NAME" help:"The adapter's name."`
	Path string `arg:"" name:"PATH" type:"existingpath" help:"Its folder here, or an archive of it: .tar, .tar.gz, .tgz or .zip."`
	placeFlags
	raceFlag
	clientFlags
	jsonFlag
}

// files lists what to send.
func (a *adapterUploadCmd) files() ([]string, error) {
	st, err := os.Stat(a.Path)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return []string{a.Path}, nil
	}
	var files []string
	for _, name := range []string{source.ConfigFile, source.AddedTokensFile, source.WeightsFile} {
		path := filepath.Join(a.Path, name)
		switch _, err := os.Stat(path); {
		case err == nil:
			files = append(files, path)
		case !errors.Is(err, os.ErrNotExist):
			return nil, err
		case name != source.AddedTokensFile:
			return nil, fmt.Errorf("%s has no %s", a.Path, name)
		}
	}
	return files, nil
}

// Run uploads.
func (a *adapterUploadCmd) Run(ctx context.Context) error {
	files, err := a.files()
	if err != nil {
		return err
	}
	c, ctx, done, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	report, end := byteProgress(os.Stderr, a.Name)
	resp, err := c.Upload(ctx, &choralev1.UploadAdapterHeader{
		Name: a.Name, Pinned: a.Pinned, Replace: a.Replace, Labels: a.Label, Digest: a.Digest,
		Weight: a.Weight, Owner: a.Owner, Etag: a.Etag,
	}, files, report)
	end(err == nil)
	if err != nil {
		return explain(ctx, err)
	}
	if done, err := a.print(os.Stdout, resp); done {
		return err
	}
	return writeLoaded(os.Stdout, &choralev1.LoadAdapterResponse{
		Adapter: resp.GetAdapter(), Revision: resp.GetRevision(), Evicted: resp.GetEvicted(),
	})
}
