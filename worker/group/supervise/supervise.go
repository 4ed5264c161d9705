package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"go.uber.org/zap"
)

// Options say what to run.
type Options struct {
	// Ranks are those of this machine, of Size.
	Ranks []int
	Size  int
	// Path and Args are the program's, the same for all ranks.
	Path string
	Args []string
	// Meet gives the rendezvous' address and token, for each start anew.
	Meet func() (address, token string)
	// Settings are a rank's.
	Settings func(rank int) map[string]string
	// Files are inherited by the first of Ranks.
	Files []*os.File
	// Grace is how long the others may go on when one has ended.
	Grace time.Duration
	// Stop is how long they may take to end in good order.
	Stop time.Duration
	// PauseMin and PauseMax bound the pause before a new start, which doubles
	// with each and begins anew after a start that lasted for Steady.
	PauseMin, PauseMax, Steady time.Duration
	// Told is told of each change; nil: nobody is. It must not block.
	Told func(State)
	Log  *zap.Logger
}

// State is a group's, on this machine.
type State struct {
	// Ready tells that the ranks work.
	Ready    bool
	Restarts int
	// Why is what ended the group, while it is not ready again; Next is when it
	// is started again.
	Why  string
	Next time.Time
	// PIDs are the ranks' processes, in the order of Options.Ranks.
	PIDs []int
}

// ErrStart reports a group that ended before it was ready for the first time.
var ErrStart = errors.New("the worker group did not start")

// Fill puts defaults where there are zeros.
func (o Options) Fill() Options {
	for _, d := range []struct {
		at      *time.Duration
		without time.Duration
	}{{&o.Grace, 250 * time.Millisecond}, {&o.PauseMin, 100 * time.Millisecond}, {&o.PauseMax, 10 * time.Second}, {&o.Steady, 30 * time.Second}, {&o.Stop, time.Minute}} {
		if *d.at == 0 {
			*d.at = d.without
		}
	}
	if o.Told == nil {
		o.Told = func(State) {}
	}
	if o.Settings == nil {
		o.Settings = func(int) map[string]string { return nil }
	}
	return o
}

// Run keeps the ranks running until ctx ends; then they are asked to end in good
// order, and Run returns when they have. It fails with ErrStart when they never
// became ready.
func Run(ctx context.Context, o Options) error {
	o = o.Fill()
	pause, st := o.PauseMin, State{}
	for ever := false; ; st.Restarts++ {
		began := time.Now()
		err := (&generation{o: &o, state: st}).run(ctx, &ever)
		if ctx.Err() != nil {
			return err
		}
		if !ever {
			return fmt.Errorf("%w: %w", ErrStart, err)
		}
		if time.Since(began) > o.Steady {
			pause = o.PauseMin
		}
		st.Why, st.Next = err.Error(), time.Now().Add(pause)
		o.Log.Error("the worker group is lost; its ranks are started again", zap.String("reason", st.Why), zap.Duration("pause", pause), zap.Int("restarts", st.Restarts+1))
		o.Told(st)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, o.PauseMax)
	}
}

// generation is one start of all ranks.
type generation struct {
	o     *Options
	state State
	ranks []*process
	// events come from the ranks' goroutines.
	events chan event
	open   int // ranks that have not ended
}

// event is what a rank said, or that it has ended.
type event struct {
	p *process
	report
	ended bool
	err   error // how
}

// process is a rank.
type process struct {
	rank   int
	cmd    *exec.Cmd
	socket *os.File
	failed string // what it said
	ready  bool
}

// run starts all ranks and waits until all have ended. It returns why.
func (g *generation) run(ctx context.Context, ever *bool) error {
	g.events = make(chan event, 4*len(g.o.Ranks))
	address, token := g.o.Meet()
	for i, rank := range g.o.Ranks {
		var files []*os.File
		if i == 0 {
			files = g.o.Files
		}
		if err := g.start(rank, address, token, files); err != nil {
			g.kill()
			g.reap()
			return err
		}
	}
	g.state.PIDs = nil
	for _, p := range g.ranks {
		g.state.PIDs = append(g.state.PIDs, p.cmd.Process.Pid)
	}
	why := g.watch(ctx, ever)
	g.end(ctx, why)
	if ctx.Err() != nil {
		return nil
	}
	return why
}

// start starts a rank.
func (g *generation) start(rank int, address, token string, files []*os.File) error {
	ours, theirs, err := pair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cmd := exec.Command(g.o.Path, g.o.Args...)
	cmd.Env = append(os.Environ(), descriptorVariable+"="+strconv.Itoa(firstFile))
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = os.Stdout, os.Stderr, attributes()
	cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	if err := cmd.Start(); err != nil {
		ours.Close()
		return fmt.Errorf("rank %d: %w", rank, err)
	}
	p := &process{rank: rank, cmd: cmd, socket: ours}
	g.ranks = append(g.ranks, p)
	g.open++
	t := Task{
		Rank: rank, Size: g.o.Size, Address: address, Token: token, Restarts: g.state.Restarts, Why: g.state.Why,
		Settings: g.o.Settings(rank), Files: len(files),
	}
	_ = json.NewEncoder(ours).Encode(t) // it fails when the rank has ended, which is noticed
	go p.listen(g.events)
	return nil
}

// listen passes on what a rank says and then that it has ended.
func (p *process) listen(events chan<- event) {
	d := json.NewDecoder(p.socket)
	for {
		var r report
		if d.Decode(&r) != nil {
			break // it has ended or was told to
		}
		events <- event{p: p, report: r}
	}
	err := p.cmd.Wait()
	if err == nil {
		err = errors.New("it has ended")
	}
	events <- event{p: p, ended: true, err: err}
}

// watch waits for the first rank that ends, or for ctx, and says why the group
// is over.
func (g *generation) watch(ctx context.Context, ever *bool) error {
	ready := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-g.events:
			switch {
			case e.ended:
				return g.ended(&e)
			case e.Failed != "":
				e.p.failed = e.Failed
			case e.Ready && !e.p.ready:
				e.p.ready = true
				if ready++; ready == len(g.ranks) {
					*ever = true
					g.state.Ready, g.state.Why = true, ""
					g.o.Told(g.state)
				}
			}
		}
	}
}

// ended notes that a rank has, and tells why.
func (g *generation) ended(e *event) error {
	g.open--
	e.p.socket.Close()
	if e.p.failed != "" {
		return fmt.Errorf("rank %d: %s", e.p.rank, e.p.failed)
	}
	return fmt.Errorf("rank %d: %w", e.p.rank, e.err)
}

// end sees to it that all ranks end: in good order when the supervisor is to
// end, else after a moment.
func (g *generation) end(ctx context.Context, why error) {
	var deadline <-chan time.Time
	if ctx.Err() != nil {
		_ = json.NewEncoder(g.ranks[0].socket).Encode(order{Stop: true}) // it may have ended
		deadline = time.After(g.o.Stop)
	} else {
		deadline = time.After(g.o.Grace)
	}
	g.o.Log.Debug("the ranks end", zap.Error(why))
	for g.open > 0 {
		select {
		case e := <-g.events:
			if !e.ended {
				continue
			}
			_ = g.ended(&e) // the first one's reason counts
			deadline = time.After(g.o.Grace)
		case <-deadline:
			g.kill()
			deadline = nil
			g.reap()
		}
	}
}

func (g *generation) kill() {
	for _, p := range g.ranks {
		_ = p.cmd.Process.Kill() // it may have ended
	}
}

// reap waits for ranks that were killed.
func (g *generation) reap() {
	for g.open > 0 {
		if e := <-g.events; e.ended {
			_ = g.ended(&e) // killed
		}
	}
}
