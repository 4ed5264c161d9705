package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"go.uber.org/zap"

	"chorale/internal/checkpoint"
	"chorale/worker/collective"
	"chorale/worker/engine"
	"chorale/worker/group"
	"chorale/worker/group/supervise"
	"chorale/worker/kv"
	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
)

// errTold ends a process whose failure was told to its supervisor.
var errTold = errors.New("told to the supervisor")

// meeting is how long a rank waits for the others: a large model loads for
// minutes, and not equally long everywhere.
const meeting = 15 * time.Minute

// supervisor is the process that started this one as a rank; nil: none has.
func supervisor() (*supervise.Parent, error) {
	return supervise.Inherit(func() { os.Exit(1) })
}

// membership is this process's place in a group; nil is a group of its own.
type membership struct {
	parent *supervise.Parent
	flags  *groupFlags
	late   *group.Late
	leader *group.Leader // rank 0's, when all have met
}

func newMembership(p *supervise.Parent, g *groupFlags) *membership {
	return &membership{parent: p, flags: g, late: group.NewLate(p.Rank, p.Size)}
}

func (m *membership) setting(name string) int {
	n, err := strconv.Atoi(m.parent.Settings[name])
	if err != nil {
		return 1
	}
	return n
}

// adjust takes over what the supervisor decided.
func (m *membership) adjust(wf *weightFlags) {
	if d := m.parent.Settings[settingDevice]; d != "" {
		wf.Device = d
	}
	if k := m.parent.Settings[settingKernel]; k != "" {
		wf.CPUKernel = k
	}
	wf.Threads = m.setting(settingThreads)
}

// options are the group's for this rank.
func (m *membership) options(ckpt string, b tensor.Backend, wf *weightFlags) group.Options {
	t := m.flags.TpTimeout
	return group.Options{
		Rank: m.parent.Rank, Size: m.parent.Size, Address: m.parent.Address, Token: m.parent.Token, DigestSteps: m.flags.TpDigestSteps,
		// Standing still is noticed before waiting in vain: it names the rank.
		Collective: collective.Options{Timeout: t, Stall: t * 3 / 4},
		Facts: []group.Fact{
			{Name: "version", Value: version},
			{Name: "model", Value: ckpt},
			{Name: "dtype", Value: b.Precision().String()},
			{Name: "device", Value: b.Name()},
			{Name: "page size", Value: strconv.Itoa(kv.PageSize)},
			{Name: "chunked-prefill-size", Value: strconv.Itoa(wf.ChunkedPrefillSize)},
			{Name: "deterministic", Value: strconv.FormatBool(wf.Deterministic)},
			{Name: "lora-sharding", Value: m.flags.LoraSharding},
			{Name: "overlap", Value: strconv.FormatBool(!wf.DisableOverlapSchedule)},
		},
	}
}

// lead meets the others.
func (m *membership) lead(ctx context.Context, o group.Options) error {
	ctx, cancel := context.WithTimeout(ctx, meeting)
	defer cancel()
	var err error
	m.leader, err = group.Lead(ctx, o, m.late)
	return err
}

// leader is the way to the other ranks, nil where there are none.
func (w *workerRole) leader() *group.Leader {
	if w.member == nil {
		return nil
	}
	return w.member.leader
}

// close leaves the group, after the engine has ended.
func (m *membership) close() error {
	if m == nil || m.leader == nil {
		return nil
	}
	return m.leader.Close()
}

// rankParts are what a rank is made of.
type rankParts struct {
	model modelFlags
	weigh weightFlags
	lora  loraFlags
	group groupFlags
	// cluster is how a leader that other roles come to talks to them.
	cluster *cluster
	drain   time.Duration
	log     *zap.Logger
}

// runRank is the life of a process that is one rank.
func runRank(ctx context.Context, p *supervise.Parent, r rankParts) error {
	r.log = r.log.With(zap.Int("rank", p.Rank))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.Stopped():
			cancel()
		case <-ctx.Done():
		}
	}()
	m := newMembership(p, &r.group)
	m.adjust(&r.weigh)
	ckpt, err := openModel(ctx, &r.model, r.log)
	if err == nil {
		defer ckpt.Close()
		if p.Rank == 0 {
			err = leadRank(ctx, ckpt, m, &r)
		} else {
			err = followRank(ctx, ckpt, m, &r)
		}
	}
	if err == nil || ctx.Err() != nil {
		return nil
	}
	p.Failed(err)
	var f *group.Fault
	if errors.As(err, &f) && f.InOrder() {
		r.log.Info("the leader has left")
		return errTold
	}
	r.log.Error("the rank ends", zap.Error(err))
	return errTold
}

// leadRank is rank 0: a worker like any other, with followers.
func leadRank(ctx context.Context, ckpt *checkpoint.Checkpoint, m *membership, r *rankParts) error {
	l, err := net.FileListener(m.parent.File(0))
	if err != nil {
		return fmt.Errorf("the inherited listener: %w", err)
	}
	defer l.Close()
	return serveWorker(ctx, ckpt, l, m, r)
}

// followRank does what rank 0 does.
func followRank(ctx context.Context, ckpt *checkpoint.Checkpoint, m *membership, r *rankParts) (err error) {
	w := &workerRole{ckpt: ckpt, log: r.log.Named("worker"), member: m}
	defer func() { w.free() }()
	dm, _, _, err := w.load(&r.weigh)
	if err != nil {
		return err
	}
	rows := stepRows(&r.weigh, contextOf(&r.model, &dm.Spec))
	o := m.options(w.fingerprint, w.backend, &r.weigh)
	meet, cancel := context.WithTimeout(ctx, meeting)
	defer cancel()
	f, err := group.Follow(meet, o, m.late, dm, rows, func(l tensor.MemoryLayout) (int64, error) {
		return engine.Measure(w.backend, l, r.weigh.MemFractionStatic, m.setting(settingSharers))
	})
	if err != nil {
		return err
	}
	m.parent.Ready()
	err = f.Run(ctx)
	return errors.Join(err, f.Close())
}

// contextOf bounds prompt and answer together.
func contextOf(f *modelFlags, s *decoder.Spec) int {
	if f.ContextLength > 0 {
		return min(f.ContextLength, s.Context)
	}
	return s.Context
}
