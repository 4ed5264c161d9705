package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	choralev1 "chorale/proto/gen/chorale/v1"
)

// raceFlag makes changes safe to race.
type raceFlag struct {
	Etag string `placeholder:"ETAG" help:"Refuse the change if the adapter was changed since this etag (see get)."`
}

// changeFlags make changes safe to repeat and to race.
type changeFlags struct {
	raceFlag
	RequestID string `name:"request-id" placeholder:"ID" help:"The same change with the same id is made once, however often it is asked for."`
}

// placeFlags say what is to become of an adapter that comes.
type placeFlags struct {
	Pinned  bool              `help:"Never evict it from device memory."`
	Replace bool              `help:"Put it in the place of another of that name; running requests keep the old one."`
	Weight  *int32            `placeholder:"PERCENT" help:"Load it as a canary beside the version that answers, with this share of new requests; 0: only for those who name the version."`
	Owner   string            `placeholder:"TENANT" help:"Whose it is."`
	Label   map[string]string `placeholder:"NAME=VALUE" help:"A label; may be repeated."`
	Digest  string            `placeholder:"SHA256" help:"The digest that it must have (validate tells it)."`
}

type adapterLoadCmd struct {
	Adapter string `arg:"" name:"NAME[=PATH]" help:"The adapter's name, and where it is: a folder, ORG/NAME on a hub, s3://BUCKET/PREFIX, https://…, a folder or an archive."`
	Path    string `arg:"" optional:"" name:"PATH" help:"Where it is, for names that hold an equals sign."`
	placeFlags
	changeFlags
	clientFlags
	jsonFlag
}

// names splits the arguments into name and source.
func (a *adapterLoadCmd) names() (name, source string, err error) {
	if a.Path != "" {
		return a.Adapter, absolute(a.Path), nil
	}
	name, source, ok := strings.Cut(a.Adapter, "=")
	if !ok || name == "" || source == "" {
		return "", "", fmt.Errorf("want NAME=PATH or NAME PATH, got %q", a.Adapter)
	}
	return name, absolute(source), nil
}

// Run loads.
func (a *adapterLoadCmd) Run(ctx context.Context) error {
	name, source, err := a.names()
	if err != nil {
		return err
	}
	c, ctx, done, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	stop := showLoading(ctx, c, name, func() (func(done, total int64), func(bool)) { return byteProgress(os.Stderr, name) })
	resp, err := c.Load(ctx, &choralev1.LoadAdapterRequest{
		Name: name, Source: source, Pinned: a.Pinned, Replace: a.Replace, Weight: a.Weight, Owner: a.Owner, Labels: a.Label,
		Etag: a.Etag, RequestId: a.RequestID, Digest: a.Digest,
	})
	stop(err == nil)
	if err != nil {
		return explain(ctx, err)
	}
	if done, err := a.print(os.Stdout, resp); done {
		return err
	}
	return writeLoaded(os.Stdout, resp)
}

func writeLoaded(out io.Writer, resp *choralev1.LoadAdapterResponse) error {
	ad := resp.GetAdapter()
	line := fmt.Sprintf("%s: %s, version %s, rank %d on %s, %s, %s", ad.GetName(), stateText(ad), versionText(ad), ad.GetMaxRank(),
		modulesText(ad.GetTargetModules()), bytesText(ad.GetSizeBytes()), shortDigest(ad.GetDigest()))
	if ev := resp.GetEvicted(); len(ev) > 0 {
		line += "; pushed out: " + join(ev)
	}
	_, err := fmt.Fprintln(out, printable(line))
	return err
}

// absolute makes a path that exists here absolute, for a server that runs
// elsewhere in the file system. Others, ORG/NAME among them, stay.
func absolute(path string) string {
	if _, err := os.Stat(path); err != nil {
		return path
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}

type adapterUnloadCmd struct {
	Name         string        `arg:"" name:"NAME" help:"The adapter's name, or NAME@VERSION for one version of it."`
	Force        bool          `help:"Abort its running requests instead of waiting for them."`
	DrainTimeout time.Duration `placeholder:"DURATION" help:"Abort those that have not ended in this time."`
	AllowMissing bool          `help:"It is no error if it is not there."`
	changeFlags
	clientFlags
	jsonFlag
}

// Run unloads.
func (a *adapterUnloadCmd) Run(ctx context.Context) error {
	c, ctx, done, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	req := &choralev1.UnloadAdapterRequest{
		Name: a.Name, Force: a.Force, AllowMissing: a.AllowMissing, Etag: a.Etag, RequestId: a.RequestID,
	}
	if a.DrainTimeout > 0 {
		req.DrainTimeout = durationpb.New(a.DrainTimeout)
	}
	resp, err := c.Unload(ctx, req)
	if err != nil {
		return explain(ctx, err)
	}
	if done, err := a.print(os.Stdout, resp); done {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "%s: unloaded\n", printable(a.Name))
	return err
}

type adapterValidateCmd struct {
	Path string `arg:"" name:"PATH" help:"A folder, ORG/NAME on a hub, s3://BUCKET/PREFIX, https://…, a folder or an archive."`
	clientFlags
	jsonFlag
}

// errInvalid ends the command with status 1 after the problems were printed.
var errInvalid = errors.New("the adapter cannot be loaded")

// Run validates.
func (a *adapterValidateCmd) Run(ctx context.Context) error {
	c, ctx, done, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	source := absolute(a.Path)
	resp, err := c.Validate(ctx, source)
	if err != nil {
		return explain(ctx, err)
	}
	if done, err := a.print(os.Stdout, resp); err != nil {
		return err
	} else if !done {
		if err := writeVerdict(os.Stdout, source, resp); err != nil {
			return err
		}
	}
	if !resp.GetValid() {
		return errInvalid
	}
	return nil
}

func writeVerdict(out io.Writer, source string, v *choralev1.ValidateAdapterResponse) error {
	var b strings.Builder
	if v.GetValid() {
		fmt.Fprintf(&b, "%s: valid\n", source)
	} else {
		fmt.Fprintf(&b, "%s: not valid\n", source)
	}
	for _, p := range v.GetProblems() {
		fmt.Fprintf(&b, "  - %s\n", p)
	}
	field := func(name, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(&b, "  %-10s  %s\n", name, value)
		}
	}
	field("rank", fmt.Sprint(v.GetMaxRank()))
	field("modules", strings.Join(v.GetTargetModules(), ", "))
	if n := len(v.GetModules()); n > 0 {
		ranks := int64(0)
		for _, m := range v.GetModules() {
			ranks += int64(m.GetRank())
		}
		field("pairs", fmt.Sprintf("%d, sum of ranks %d", n, ranks))
	}
	if c := v.GetCost(); v.GetValid() && c != nil {
		field("memory", fmt.Sprintf("%s in the worker, %s on the device", bytesText(c.GetHostBytes()), bytesText(c.GetDeviceBytes())))
		step := bytesText(c.GetStepBytes()) + " read in each step that has a row for it"
		if us := c.GetStepMicroseconds(); us > 0 {
			step += fmt.Sprintf(", %.1f µs at the memory's bandwidth", us)
		}
		field("step", step)
	}
	if v.GetSizeBytes() > 0 {
		field("weights", bytesText(v.GetSizeBytes()))
	}
	field("base model", v.GetBaseModel())
	field("digest", v.GetDigest())
	_, err := io.WriteString(out, printable(b.String()))
	return err
}
