package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rivo/uniseg"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	choralev1 "chorale/proto/gen/chorale/v1"
)

// adapterCmd is the administrator's surface.
type adapterCmd struct {
	List     adapterListCmd     `cmd:"" help:"List the adapters."`
	Get      adapterGetCmd      `cmd:"" help:"Tell all of one adapter: its versions, where they are, what happened to it."`
	Load     adapterLoadCmd     `cmd:"" help:"Load an adapter and wait until it can be used."`
	Upload   adapterUploadCmd   `cmd:"" help:"Send an adapter's files, or an archive of them, and load it."`
	Update   adapterUpdateCmd   `cmd:"" help:"Change an adapter's pin, owner and labels."`
	Canary   adapterCanaryCmd   `cmd:"" help:"Give a version a share of an adapter's new requests."`
	Rollback adapterRollbackCmd `cmd:"" help:"Let an earlier version answer again, or end a canary."`
	Watch    adapterWatchCmd    `cmd:"" help:"Print the adapters' changes as they come."`
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
	Owner string            `placeholder:"TENANT" help:"Only those of this owner."`
	Label map[string]string `placeholder:"NAME=VALUE" help:"Only those with this label; may be repeated."`
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
	list, err := c.AdaptersOf(ctx, a.Owner, a.Label)
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
	rows := [][]string{{"NAME", "VERSION", "STATE", "RANK", "MODULES", "SIZE", "PINNED", "SOURCE", "DIGEST"}}
	var notes []string
	for _, a := range adapters {
		pinned := "no"
		if a.GetPinned() {
			pinned = "yes"
		}
		rows = append(rows, []string{
			a.GetName(), versionText(a), stateText(a), fmt.Sprint(a.GetMaxRank()), modulesText(a.GetTargetModules()),
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
	writeTable(&b, rows, map[int]bool{3: true, 5: true})
	if len(notes) > 0 {
		b.WriteString("\n" + printable(strings.Join(notes, "\n")) + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// versionText is the version that answers, with the share of others.
func versionText(a *choralev1.Adapter) string {
	s := numberText(a.GetVersion())
	for _, v := range a.GetVersions() {
		if v.GetNumber() != a.GetVersion() && v.GetWeight() > 0 {
			s += fmt.Sprintf(", %d: %d%%", v.GetNumber(), v.GetWeight())
		}
	}
	return s
}

// stateText is the state, with the groups that hold the adapter when not all
// do.
func stateText(a interface {
	GetState() choralev1.AdapterState
	GetPlacements() []*choralev1.GroupPlacement
},
) string {
	s := stateName(a.GetState())
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

func stateName(s choralev1.AdapterState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "ADAPTER_STATE_"))
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
