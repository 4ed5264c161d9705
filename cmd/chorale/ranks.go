package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"chorale/internal/checkpoint"
	"chorale/worker/group/supervise"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
	"chorale/worker/tensor"
	"chorale/worker/tensor/cpu"
)

// groupFlags are of a worker group of several ranks.
type groupFlags struct {
	TpSize        int           `group:"ranks" default:"1" help:"Ranks of the worker group: processes that hold a slice of the model each, on a device each."`
	TpTimeout     time.Duration `group:"ranks" default:"2s" help:"How long a rank may keep the others waiting before the group is given up and started again."`
	TpDigestSteps int           `group:"ranks" default:"32" help:"Every so many steps ranks compare what they drew; 0: never."`
	LoraSharding  string        `group:"ranks" default:"default" enum:"default,s-lora" help:"How ranks share adapters out: as the layers are cut, without a further exchange (default), or each value on one rank only, for memory (s-lora: on the CPU)."`
}

// shardSLoRA is a value of --lora-sharding.
const shardSLoRA = "s-lora"

// rankFlags place one rank of a group that something else starts.
type rankFlags struct {
	TpRank   int    `group:"ranks" default:"-1" help:"Run this rank only, counted from 0; whoever starts it starts the others, on other machines perhaps. Rank 0 serves at --listen. -1: all ranks, on this machine."`
	TpLeader string `group:"ranks" placeholder:"HOST:PORT" help:"With --tp-rank: where rank 0 meets the others, on a network that nobody else can read."`
	TpToken  string `group:"ranks" placeholder:"SECRET" help:"With --tp-rank: a secret that all ranks know; better given as CHORALE_TP_TOKEN."`
}

func (f *groupFlags) check(r *rankFlags) error {
	switch {
	case f.TpSize < 1:
		return fmt.Errorf("--tp-size must be at least 1, got %d", f.TpSize)
	case f.TpTimeout < 100*time.Millisecond:
		return fmt.Errorf("--tp-timeout must be at least 100ms, got %v", f.TpTimeout)
	case f.TpDigestSteps < 0:
		return fmt.Errorf("--tp-digest-steps must be at least 0, got %d", f.TpDigestSteps)
	case r.TpRank < 0 && (r.TpLeader != "" || r.TpToken != ""):
		return errors.New("--tp-leader and --tp-token go with --tp-rank: without it all ranks run on this machine")
	case r.TpRank < 0:
		return nil
	case r.TpRank >= f.TpSize || f.TpSize == 1:
		return fmt.Errorf("--tp-rank %d: a group of --tp-size %d has no such rank, or no others", r.TpRank, f.TpSize)
	case r.TpLeader == "":
		return errors.New("--tp-rank needs --tp-leader")
	case r.TpToken == "":
		return errors.New("--tp-rank needs --tp-token: ranks take each other's adapters and plans")
	}
	return nil
}

// local lists the ranks of this machine.
func (f *groupFlags) local(r *rankFlags) []int {
	if r.TpRank >= 0 {
		return []int{r.TpRank}
	}
	all := make([]int, f.TpSize)
	for i := range all {
		all[i] = i
	}
	return all
}

// Names of supervise.Task's settings.
const (
	settingDevice  = "device"
	settingKernel  = "cpu-kernel"
	settingThreads = "threads"
	settingSharers = "sharers" // ranks on the same device
	settingLocal   = "local"   // ranks on the same machine
)

// rankGroup is a worker group whose ranks are processes below this one.
type rankGroup struct {
	options supervise.Options
	log     *zap.Logger
	stub    *stub
	// ready is closed when the group was ready for the first time.
	ready chan struct{}
	once  func()
}

// newRankGroup prepares to start ranks. l is where rank 0 serves.
func newRankGroup(ckpt *checkpoint.Checkpoint, g *groupFlags, r *rankFlags, wf *weightFlags, l net.Listener, stop time.Duration, log *zap.Logger) (*rankGroup, error) {
	if runtime.GOOS != "linux" && r.TpRank < 0 {
		return nil, fmt.Errorf("--tp-size %d: ranks of one machine share memory as Linux does; elsewhere start each with --tp-rank and --tp-leader", g.TpSize)
	}
	if err := shareable(ckpt, g.TpSize); err != nil {
		return nil, err
	}
	local := g.local(r)
	settings, err := rankSettings(wf, local, log)
	if err != nil {
		return nil, err
	}
	if err := g.checkSharding(settings); err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	rg := &rankGroup{log: log.Named("group"), ready: make(chan struct{})}
	rg.once = sync.OnceFunc(func() { close(rg.ready) })
	rg.options = supervise.Options{
		Ranks: local, Size: g.TpSize, Path: program, Args: os.Args[1:], Stop: stop + 10*time.Second, Log: rg.log,
		Settings: func(rank int) map[string]string { return settings[rank] }, Told: rg.told,
		Meet: func() (string, string) {
			if r.TpRank >= 0 {
				return r.TpLeader, r.TpToken
			}
			// Linux's abstract names are no files: nothing is left behind.
			return "unix:@chorale-" + secretText(), secretText()
		},
	}
	if local[0] != 0 {
		return rg, nil
	}
	file, err := listenerFile(l)
	if err != nil {
		return nil, err
	}
	rg.options.Files = []*os.File{file}
	rg.stub, err = newStub(l, rg.log)
	return rg, err
}

// checkSharding tells early what a rank would find out with the first adapter.
func (f *groupFlags) checkSharding(settings map[int]map[string]string) error {
	for rank, s := range settings {
		if d := s[settingDevice]; f.LoraSharding == shardSLoRA && d != "cpu" {
			return fmt.Errorf("--lora-sharding %s: rank %d computes on %s, which does not have it: %w", shardSLoRA, rank, d, tensor.ErrUnsupported)
		}
	}
	return nil
}

// shareable tells early what a rank would find out when it loads the model.
func shareable(c *checkpoint.Checkpoint, size int) error {
	cfg, err := hfconfig.Parse(c.Config)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Path, err)
	}
	spec, err := model.Spec(cfg)
	if err == nil {
		_, err = decoder.Shard(&spec, 0, size)
	}
	if err != nil {
		return fmt.Errorf("--tp-size %d: %s: %w", size, c.Path, err)
	}
	return nil
}

// run keeps the ranks running until ctx ends.
func (g *rankGroup) run(ctx context.Context) error {
	if g.stub != nil {
		defer g.stub.close()
	}
	return supervise.Run(ctx, g.options)
}

// told takes note of a change: while rank 0 cannot, a stub answers those who ask
// for the group.
func (g *rankGroup) told(s supervise.State) {
	if s.Ready {
		g.log.Info("worker group ready", zap.Int("restarts", s.Restarts), zap.Ints("pids", s.PIDs))
		g.once()
	}
	if g.stub != nil {
		g.stub.set(s)
	}
}

// rankSettings decides for each rank what ranks must not choose for themselves.
func rankSettings(wf *weightFlags, local []int, log *zap.Logger) (map[int]map[string]string, error) {
	devices, err := rankDevices(wf, local, log)
	if err != nil {
		return nil, err
	}
	kernel := wf.CPUKernel
	if devices[0] == "cpu" && kernel == "auto" {
		// Ranks that measure for themselves may not agree.
		b, err := cpu.New(cpu.Options{Precision: wf.precision(), Threads: 1, Kernel: kernel})
		if err != nil {
			return nil, err
		}
		kernel = strings.TrimPrefix(b.Name(), "cpu/")
		b.Close()
	}
	threads := wf.Threads
	if threads == 0 {
		threads = max(1, runtime.GOMAXPROCS(0)/len(local))
	}
	sharers := map[string]int{}
	for _, d := range devices {
		sharers[d]++
	}
	out := map[int]map[string]string{}
	for i, rank := range local {
		out[rank] = map[string]string{
			settingDevice: devices[i], settingKernel: kernel, settingThreads: strconv.Itoa(threads),
			settingSharers: strconv.Itoa(sharers[devices[i]]), settingLocal: strconv.Itoa(len(local)),
		}
	}
	return out, nil
}

// rankDevices gives the ranks of this machine their devices: those of a list, or
// GPUs one after another.
func rankDevices(wf *weightFlags, local []int, log *zap.Logger) ([]string, error) {
	list := strings.Split(wf.Device, ",")
	for _, d := range list {
		if _, _, err := parseDevice(d); err != nil {
			return nil, err
		}
	}
	if len(list) > 1 {
		if len(list) != len(local) {
			return nil, fmt.Errorf("--device %s names %d devices for %d ranks of this machine", wf.Device, len(list), len(local))
		}
		return list, nil
	}
	first := wf.Device
	if first == "auto" {
		first = autoDevice(len(local), wf, log)
	}
	gpu, number, err := parseDevice(first)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(local))
	for i := range out {
		if out[i] = first; gpu {
			out[i] = fmt.Sprintf("cuda:%d", number+i)
		}
	}
	return out, nil
}

// autoDevice takes GPUs where there is one for each rank.
func autoDevice(ranks int, wf *weightFlags, log *zap.Logger) string {
	gpus, notes := 0, []string{"--dtype float32"}
	if wf.precision() == tensor.BF16 {
		l := findDevices()
		notes = l.Notes
		for _, d := range l.Devices {
			if strings.HasPrefix(d.Device, "cuda:") {
				gpus++
			}
		}
	}
	if gpus >= ranks && len(notes) == 0 {
		return "cuda"
	}
	log.Info("ranks compute on the CPU", zap.Int("ranks", ranks), zap.Int("gpus", gpus), zap.Strings("notes", notes))
	return "cpu"
}

// secretText is what nobody can guess.
func secretText() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
