package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"chorale/internal/certs"
)

// workersFlags say which worker groups there are.
type workersFlags struct {
	Worker      []string `sep:"none" placeholder:"HOST:PORT" help:"Worker groups."`
	WorkersFile string   `placeholder:"FILE" help:"A file with worker groups, one HOST:PORT a line, # for comments. It is read again when it changes: groups come and go while others serve."`
}

// workerList is the worker groups as they are now, and connections to them.
type workerList struct {
	f       workersFlags
	cluster *cluster
	log     *zap.Logger
	text    []byte // the file's, as last read
	addrs   []string
	conns   map[string]connection
}

type connection struct {
	peer
	hangUp func()
}

// open reads the file and prepares connections.
func (f *workersFlags) open(cl *cluster, log *zap.Logger) (*workerList, error) {
	w := &workerList{f: *f, cluster: cl, log: log.Named("workers"), conns: map[string]connection{}}
	if len(f.Worker) == 0 && f.WorkersFile == "" {
		return nil, errors.New("--worker or --workers-file is needed")
	}
	if _, err := w.read(); err != nil {
		return nil, err
	}
	if len(w.addrs) == 0 {
		w.log.Warn("there is no worker group yet", zap.String("file", f.WorkersFile))
	}
	return w, nil
}

// read looks at the file. True: something has changed. What is wrong with it
// leaves everything as it was.
func (w *workerList) read() (bool, error) {
	addrs, text := slices.Clone(w.f.Worker), []byte(nil)
	if w.f.WorkersFile != "" {
		var err error
		if text, err = os.ReadFile(w.f.WorkersFile); err != nil {
			return false, fmt.Errorf("--workers-file: %w", err)
		}
		if w.text != nil && bytes.Equal(text, w.text) {
			return false, nil
		}
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line != "" && !slices.Contains(addrs, line) {
				addrs = append(addrs, line)
			}
		}
	}
	for _, a := range addrs {
		if _, ok := w.conns[a]; ok {
			continue
		}
		peers, hangUp, err := dialAll([]string{a}, "", w.cluster.to(certs.Worker))
		if err != nil {
			return false, err
		}
		w.conns[a] = connection{peers[0], hangUp}
	}
	w.addrs, w.text = addrs, append([]byte{}, text...)
	return true, nil
}

// peers are the groups of now.
func (w *workerList) peers() []peer {
	out := make([]peer, len(w.addrs))
	for i, a := range w.addrs {
		out[i] = w.conns[a].peer
	}
	return out
}

// rereadEvery is how often the file is looked at.
const rereadEvery = time.Second

// watch tells of changes until ctx ends.
func (w *workerList) watch(ctx context.Context, set func([]peer)) error {
	if w.f.WorkersFile == "" {
		return nil
	}
	tick := time.NewTicker(rereadEvery)
	defer tick.Stop()
	for failed := ""; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changed, err := w.read()
		if err != nil {
			if failed != err.Error() { // once, not every second
				w.log.Error("worker groups stay as they are", zap.Error(err))
			}
			failed = err.Error()
			continue
		}
		failed = ""
		if changed {
			w.log.Info("worker groups have changed", zap.Strings("workers", w.addrs))
			set(w.peers())
			w.prune()
		}
	}
}

// prune hangs up on groups that are no longer there. Router or manager has let
// go of them, or sees their connection end.
func (w *workerList) prune() {
	for a, c := range w.conns {
		if !slices.Contains(w.addrs, a) {
			c.hangUp()
			delete(w.conns, a)
		}
	}
}

// close hangs up on all.
func (w *workerList) close() {
	w.addrs = nil
	w.prune()
}
