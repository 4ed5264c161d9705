package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/rivo/uniseg"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	choralev1 "chorale/proto/gen/chorale/v1"
)

// adapterCmd is the administrator's surface.
type adapterCmd struct {
	List     adapterListCmd     `cmd:"" help:"List the adapters."`
	Load     adapterLoadCmd     `cmd:"" help:"Load an adapter and wait until it can be used."`
	Unload   adapterUnloadCmd   `cmd:"" help:"Refuse new requests for an adapter, let running ones end, remove it."`
	Validate adapterValidateCmd `cmd:"" help:"Tell whether an adapter could be loaded, and its cost; exit status 1 if not."`

	MakeDummy adapterDummyCmd `cmd:"" help:"Write adapters of noise for any model, for benchmarks; needs no server."`
}

// jsonFlag prints the server's own answer.
type jsonFlag struct {
	JSON bool `name:"json" help:"Print the server's answer as JSON."`
}

// print writes m as JSON if that was asked for.
func (f *jsonFlag) print(out io.Writer, m proto.Message) (done bool, err error) {
	if !f.JSON {
		return false, nil
	}
	b, err := protojson.MarshalOptions{Multiline: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return true, err
	}
	_, err = fmt.Fprintln(out, string(b))
	return true, err
}

type adapterListCmd struct {
	clientFlags
	jsonFlag
}

// Run prints a table.
func (a *adapterListCmd) Run(ctx context.Context) error {
	c, ctx, done, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	list, err := c.Adapters(ctx)
	if err != nil {
		return explain(ctx, err)
	}
	if done, err := a.print(os.Stdout, list); done {
		return err
	}
	return writeAdapters(os.Stdout, list.GetAdapters())
}

// writeAdapters prints the adapters aligned, and below the table why some
// failed.
func writeAdapters(out io.Writer, adapters []*choralev1.Adapter) error {
	if len(adapters) == 0 {
		_, err := fmt.Fprintln(out, "no adapters; load one with: chorale adapter load NAME=PATH")
		return err
	}
	rows := [][]string{{"NAME", "STATE", "RANK", "MODULES", "SIZE", "PINNED", "SOURCE", "DIGEST"}}
	var notes []string
	for _, a := range adapters {
		pinned := "no"
		if a.GetPinned() {
			pinned = "yes"
		}
		rows = append(rows, []string{
			a.GetName(), stateText(a), fmt.Sprint(a.GetMaxRank()), modulesText(a.GetTargetModules()),
			bytesText(a.GetSizeBytes()), pinned, a.GetSource(), shortDigest(a.GetDigest()),
		})
		if m := a.GetMessage(); m != "" {
			notes = append(notes, fmt.Sprintf("%s: %s", a.GetName(), m))
		}
		for _, p := range a.GetPlacements() {
			if p.GetError() != "" {
				notes = append(notes, fmt.Sprintf("%s on %s: %s", a.GetName(), p.GetWorker(), p.GetError()))
			}
		}
	}
	var b strings.Builder
	writeTable(&b, rows, map[int]bool{2: true, 4: true})
	if len(notes) > 0 {
		b.WriteString("\n" + printable(strings.Join(notes, "\n")) + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// stateText is the state, with the groups that hold the adapter when not all
// do.
func stateText(a *choralev1.Adapter) string {
	s := strings.ToLower(strings.TrimPrefix(a.GetState().String(), "ADAPTER_STATE_"))
	loaded := 0
	for _, p := range a.GetPlacements() {
		if p.GetLoaded() {
			loaded++
		}
	}
	if n := len(a.GetPlacements()); n > 1 && loaded < n {
		s += fmt.Sprintf(" %d/%d", loaded, n)
	}
	return s
}

// usual are the seven linear modules of a decoder block.
const usual = 7

// modulesText lists modules without their common ending.
func modulesText(mods []string) string {
	if len(mods) == 0 {
		return "-"
	}
	short := make([]string, len(mods))
	for i, m := range mods {
		short[i] = strings.TrimSuffix(m, "_proj")
	}
	if s := strings.Join(short, ","); len(mods) < usual {
		return s
	}
	return fmt.Sprintf("%d kinds", len(mods))
}

// shortDigest is enough of a digest to tell adapters apart.
func shortDigest(d string) string {
	d = strings.TrimPrefix(d, "sha256:")
	if len(d) > 12 {
		d = d[:12]
	}
	if d == "" {
		d = "-"
	}
	return d
}

// writeTable aligns columns by display width; right are numbers.
func writeTable(b *strings.Builder, rows [][]string, right map[int]bool) {
	width := make([]int, len(rows[0]))
	for _, r := range rows {
		for i := range r {
			r[i] = printable(r[i])
			width[i] = max(width[i], uniseg.StringWidth(r[i]))
		}
	}
	for _, r := range rows {
		for i, cell := range r {
			pad := strings.Repeat(" ", width[i]-uniseg.StringWidth(cell))
			if right[i] {
				cell = pad + cell
			} else if i < len(r)-1 {
				cell += pad
			}
			if i > 0 {
				b.WriteString("  ")
			}
			b.WriteString(cell)
		}
		b.WriteByte('\n')
	}
}

type adapterLoadCmd struct {
	Adapter string `arg:"" name:"NAME[=PATH]" help:"The adapter's name, and where it is: a folder, or ORG/NAME on a hub."`
	Path    string `arg:"" optional:"" name:"PATH" help:"Where it is, for names that hold an equals sign."`
	Pinned  bool   `help:"Never evict it from device memory."`
	Replace bool   `help:"Put it in the place of another of that name; running requests keep the old one."`
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
	resp, err := c.Load(ctx, &choralev1.LoadAdapterRequest{Name: name, Source: source, Pinned: a.Pinned, Replace: a.Replace})
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
	line := fmt.Sprintf("%s: %s, rank %d on %s, %s, %s", ad.GetName(), stateText(ad), ad.GetMaxRank(),
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
	Name  string `arg:"" name:"NAME" help:"The adapter's name."`
	Force bool   `help:"Abort its running requests instead of waiting for them."`
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
	resp, err := c.Unload(ctx, a.Name, a.Force)
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
	Path string `arg:"" name:"PATH" help:"A folder, or ORG/NAME on a hub."`
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
	if v.GetSizeBytes() > 0 {
		field("weights", bytesText(v.GetSizeBytes()))
	}
	field("base model", v.GetBaseModel())
	field("digest", v.GetDigest())
	_, err := io.WriteString(out, printable(b.String()))
	return err
}
