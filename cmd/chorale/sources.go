package main

import (
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"chorale/adaptermgr"
	"chorale/adaptermgr/blob"
	"chorale/adaptermgr/source"
	"chorale/adaptermgr/source/spool"
	"chorale/internal/hub"
)

// sourceFlags bound where adapters come from, and what they take on disk.
type sourceFlags struct {
	AllowPrivateSources bool   `group:"lora" help:"Let clients name adapters by http:// and in private networks (default: by https:// at public addresses only)."`
	S3Endpoint          string `name:"s3-endpoint" group:"lora" placeholder:"URL" help:"Object store of s3:// adapters (default: $AWS_ENDPOINT_URL_S3, else Amazon's). Credentials come from the environment as for AWS's tools."`
	MaxAdapterBytes     int64  `group:"lora" placeholder:"BYTES" help:"Largest weights file of an adapter (default: 16 GiB)."`
	AdapterDiskQuota    int64  `group:"lora" placeholder:"BYTES" help:"Most bytes of stored adapters, with those on their way in (default: no limit)."`
}

// openSources opens what adapters come from and the disk that they are kept
// on. The registry must be open: its lock tells that nobody else is at work in
// dir.
func (f *registryFlags) openSources(dir string, exact []initial, log *zap.Logger) (*source.Resolver, adaptermgr.Blobs, error) {
	quota := blob.NewQuota(f.AdapterDiskQuota)
	blobs, err := adaptermgr.OpenBlobsWithin(filepath.Join(dir, "blobs"), quota)
	if err != nil {
		return nil, nil, err
	}
	in, err := spool.Open(spool.Options{Dir: filepath.Join(dir, "incoming"), Budget: quota})
	if err != nil {
		return nil, nil, fmt.Errorf("data directory: %w", err)
	}
	quota.OnPressure(in.Relieve)
	client, err := hub.FromEnv()
	if err != nil {
		return nil, nil, err
	}
	o := source.Options{
		Roots: f.AdapterRoot, Hub: client, Spool: in, S3: source.S3FromEnv(os.LookupEnv),
		AllowPrivate: f.AllowPrivateSources, MaxWeights: f.MaxAdapterBytes, Log: log,
	}
	if f.S3Endpoint != "" {
		o.S3.Endpoint = f.S3Endpoint
	}
	for _, a := range exact {
		o.Exact = append(o.Exact, a.Path)
	}
	src, err := source.New(o)
	return src, blobs, err
}
