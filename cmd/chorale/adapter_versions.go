package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	choralev1 "chorale/proto/gen/chorale/v1"
)

type adapterGetCmd struct {
	Name string `arg:"" name:"NAME" help:"The adapter's name."`
	clientFlags
	jsonFlag
}

// Run prints all of one adapter.
func (a *adapterGetCmd) Run(ctx context.Context) error {
	c, ctx, done, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	ad, err := c.Adapter(ctx, a.Name)
	if err != nil {
		return explain(ctx, err)
	}
	if done, err := a.print(os.Stdout, ad); done {
		return err
	}
	return writeAdapter(os.Stdout, ad)
}

func writeAdapter(out io.Writer, a *choralev1.Adapter) error {
	var b strings.Builder
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-8s  %s\n", name, value)
		}
	}
	field("name", a.GetName())
	field("state", stateText(a))
	field("why", a.GetMessage())
	if a.GetPinned() {
		field("pinned", "yes")
	}
	field("owner", a.GetOwner())
	field("labels", labelsText(a.GetLabels()))
	field("base", a.GetBaseModel())
	field("created", timeText(a.GetCreated()))
	field("changed", timeText(a.GetUpdated()))
	field("used", timeText(a.GetLastUsed()))
	field("etag", a.GetEtag())
	if l := a.GetLoading(); l != nil {
		field("loading", fmt.Sprintf("%s %s, %s", l.GetSource(), stateName(l.GetState()), progressText(l)))
	}
	if len(a.GetVersions()) > 0 {
		b.WriteByte('\n')
		writeVersions(&b, a)
	}
	if len(a.GetHistory()) > 0 {
		rows := [][]string{{"TIME", "VERSION", "STATE", "REASON"}}
		for _, t := range a.GetHistory() {
			rows = append(rows, []string{timeText(t.GetTime()), numberText(t.GetVersion()), stateName(t.GetState()), t.GetReason()})
		}
		b.WriteByte('\n')
		writeTable(&b, rows, map[int]bool{1: true})
	}
	_, err := io.WriteString(out, printable(b.String()))
	return err
}

func writeVersions(b *strings.Builder, a *choralev1.Adapter) {
	rows := [][]string{{"VERSION", "SHARE", "STATE", "WORKERS", "RANKS", "SIZE", "CREATED", "SOURCE", "DIGEST"}}
	var notes []string
	for _, v := range a.GetVersions() {
		var ranks, at []string
		for _, r := range v.GetRanks() {
			ranks = append(ranks, fmt.Sprint(r))
		}
		for _, p := range v.GetPlacements() {
			switch {
			case p.GetLoaded():
				at = append(at, p.GetWorker())
			case p.GetError() != "":
				notes = append(notes, fmt.Sprintf("version %d on %s: %s", v.GetNumber(), p.GetWorker(), p.GetError()))
			}
		}
		rows = append(rows, []string{
			fmt.Sprint(v.GetNumber()), fmt.Sprintf("%d%%", v.GetWeight()), stateName(v.GetState()), cmp.Or(strings.Join(at, ","), "-"),
			cmp.Or(strings.Join(ranks, ","), fmt.Sprint(v.GetMaxRank())), bytesText(v.GetSizeBytes()), timeText(v.GetCreated()),
			v.GetSource(), shortDigest(v.GetDigest()),
		})
	}
	writeTable(b, rows, map[int]bool{0: true, 1: true, 5: true})
	for _, n := range notes {
		b.WriteString(n + "\n")
	}
}

func labelsText(labels map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, " ")
}

func timeText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format(time.DateTime)
}

func numberText(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func progressText(p *choralev1.AdapterProgress) string {
	if p.GetBytesTotal() < 0 {
		return bytesText(p.GetBytesDone())
	}
	return fmt.Sprintf("%s of %s", bytesText(p.GetBytesDone()), bytesText(p.GetBytesTotal()))
}

type adapterUpdateCmd struct {
	Name   string            `arg:"" name:"NAME" help:"The adapter's name."`
	Pinned *bool             `negatable:"" help:"Never evict it from device memory; --no-pinned takes that back."`
	Owner  *string           `placeholder:"TENANT" help:"Whose it is."`
	Label  map[string]string `placeholder:"NAME=VALUE" help:"Set a label; an empty value removes it. May be repeated."`
	changeFlags
	clientFlags
	jsonFlag
}

// Run updates.
func (a *adapterUpdateCmd) Run(ctx context.Context) error {
	c, ctx, done, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	resp, err := c.Update(ctx, &choralev1.UpdateAdapterRequest{
		Name: a.Name, Pinned: a.Pinned, Owner: a.Owner, Labels: a.Label, Etag: a.Etag, RequestId: a.RequestID,
	})
	if err != nil {
		return explain(ctx, err)
	}
	return a.tell(resp, resp.GetAdapter(), nil)
}

// tell prints an answer to a change.
func (f *jsonFlag) tell(resp proto.Message, a *choralev1.Adapter, evicted []string) error {
	if done, err := f.print(os.Stdout, resp); done {
		return err
	}
	return writeLoaded(os.Stdout, &choralev1.LoadAdapterResponse{Adapter: a, Evicted: evicted})
}

type adapterCanaryCmd struct {
	Name    string `arg:"" name:"NAME" help:"The adapter's name."`
	Version uint64 `required:"" placeholder:"N" help:"The version that gets the share."`
	Weight  int32  `required:"" placeholder:"PERCENT" help:"Its share of new requests; 0 ends the canary, 100 makes it the version that answers."`
	changeFlags
	clientFlags
	jsonFlag
}

// Run sets the share.
func (a *adapterCanaryCmd) Run(ctx context.Context) error {
	c, ctx, done, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	resp, err := c.Canary(ctx, &choralev1.CanaryAdapterRequest{
		Name: a.Name, Version: a.Version, Weight: a.Weight, Etag: a.Etag, RequestId: a.RequestID,
	})
	if err != nil {
		return explain(ctx, err)
	}
	return a.tell(resp, resp.GetAdapter(), resp.GetEvicted())
}

type adapterRollbackCmd struct {
	Name    string `arg:"" name:"NAME" help:"The adapter's name."`
	Version uint64 `placeholder:"N" help:"The version to go back to; unless given, a canary ends or the version before answers again."`
	changeFlags
	clientFlags
	jsonFlag
}

// Run rolls back.
func (a *adapterRollbackCmd) Run(ctx context.Context) error {
	c, ctx, done, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	resp, err := c.Rollback(ctx, &choralev1.RollbackAdapterRequest{Name: a.Name, Version: a.Version, Etag: a.Etag, RequestId: a.RequestID})
	if err != nil {
		return explain(ctx, err)
	}
	return a.tell(resp, resp.GetAdapter(), resp.GetEvicted())
}

type adapterWatchCmd struct {
	From uint64 `placeholder:"REVISION" help:"Print what has changed since this revision, not what there is."`
	clientFlags
	jsonFlag
}

// Run prints changes, one a line, until it is interrupted or the server ends.
func (a *adapterWatchCmd) Run(ctx context.Context) error {
	c, ctx, done, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	err = c.Watch(ctx, a.From, func(m *choralev1.WatchAdaptersResponse) error {
		if a.JSON {
			b, err := protojson.Marshal(m)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(os.Stdout, string(b))
			return err
		}
		return writeChange(os.Stdout, m)
	})
	return explain(ctx, err)
}

func writeChange(out io.Writer, m *choralev1.WatchAdaptersResponse) error {
	var b strings.Builder
	for _, a := range m.GetAdapters() {
		fmt.Fprintf(&b, "%d  %s  version %s  %s", m.GetRevision(), a.GetName(), versionText(a), stateText(a))
		if l := a.GetLoading(); l != nil {
			fmt.Fprintf(&b, "  (%s: %s, %s)", l.GetSource(), stateName(l.GetState()), progressText(l))
		}
		if why := a.GetMessage(); why != "" {
			b.WriteString("  " + why)
		}
		b.WriteByte('\n')
	}
	for _, n := range m.GetRemoved() {
		fmt.Fprintf(&b, "%d  %s  removed\n", m.GetRevision(), n)
	}
	_, err := io.WriteString(out, printable(b.String()))
	return err
}
