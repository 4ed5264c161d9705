package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"chorale/internal/hub"
)

// pullCmd fetches a repository into the cache that huggingface_hub shares.
type pullCmd struct {
	Repo     string `arg:"" name:"ORG/NAME[@REVISION]" help:"Model or adapter on the hub."`
	Revision string `placeholder:"REV" help:"Branch, tag or commit (default: main)."`
	Endpoint string `placeholder:"URL" help:"The hub (default: $HF_ENDPOINT, else https://huggingface.co)."`
}

// Run fetches and prints the folder.
func (p *pullCmd) Run(ctx context.Context) error {
	repo, revision, err := hub.ParseName(p.Repo)
	if err != nil {
		return err
	}
	if p.Revision != "" {
		if revision != hub.DefaultRevision && revision != p.Revision {
			return fmt.Errorf("%s and --revision %s name different revisions", p.Repo, p.Revision)
		}
		revision = p.Revision
	}
	o, err := hub.OptionsFromEnv(os.LookupEnv)
	if err != nil {
		return err
	}
	if p.Endpoint != "" {
		o.Endpoint = p.Endpoint
	}
	c, err := hub.New(o)
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	dir, err := snapshot(ctx, c, repo, revision, os.Stderr)
	if err != nil {
		return err
	}
	fmt.Println(dir)
	return nil
}

// snapshot fetches a repository and returns its folder. Progress goes to out:
// a bar on a terminal, else a line now and then; nil shows none, but a bar when
// stderr is a terminal.
func snapshot(ctx context.Context, c *hub.Client, repo, revision string, out io.Writer) (dir string, err error) {
	f, isFile := out.(*os.File)
	if out == nil && isTerminal(os.Stderr) {
		f, isFile = os.Stderr, true
	}
	var report func(hub.Progress)
	done := func(bool) {}
	switch {
	case isFile && isTerminal(f):
		report, done = barProgress(f, repo)
	case out != nil:
		report = lineProgress(out, repo, time.Now)
	}
	dir, err = c.Snapshot(ctx, repo, revision, hub.SnapshotOptions{Progress: report})
	done(err == nil)
	return dir, err
}

// barProgress draws one bar for the whole snapshot.
func barProgress(f *os.File, repo string) (report func(hub.Progress), done func(ok bool)) {
	p := mpb.New(mpb.WithOutput(f), mpb.WithWidth(64), mpb.WithRefreshRate(120*time.Millisecond))
	bar := p.AddBar(0,
		mpb.PrependDecorators(decor.Name(repo+" ")),
		mpb.AppendDecorators(
			decor.CountersKibiByte("% .1f / % .1f "),
			decor.Percentage(decor.WCSyncSpace), decor.Name(" "),
			decor.OnComplete(decor.AverageSpeed(decor.SizeB1024(0), "% .1f"), ""),
		),
	)
	report = func(s hub.Progress) {
		bar.SetTotal(s.TotalSize, false)
		bar.SetCurrent(s.TotalDone)
	}
	return report, func(ok bool) {
		if ok {
			bar.SetTotal(-1, true) // the total is what has come
		} else {
			bar.Abort(false)
		}
		p.Wait()
	}
}

// lineEvery is how often progress takes a line of its own.
const lineEvery = 5 * time.Second

// lineProgress writes a line every few seconds, and one at the end.
func lineProgress(out io.Writer, repo string, now func() time.Time) func(hub.Progress) {
	last, ended := now(), false
	return func(s hub.Progress) {
		whole := s.TotalSize > 0 && s.TotalDone == s.TotalSize
		if t := now(); whole && !ended || t.Sub(last) >= lineEvery {
			last, ended = t, whole
			// Progress is a courtesy: a log that cannot be written ends no download.
			_, _ = fmt.Fprintf(out, "%s: %s of %s\n", repo, bytesText(s.TotalDone), bytesText(s.TotalSize))
		}
	}
}

// bytesText shows a size in binary units.
func bytesText(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), 0
	for v >= 1<<10 && unit < 4 {
		v /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGT"[unit-1])
}
