package memory

import (
	"errors"
	"fmt"
	"slices"
)

// ErrTooLarge reports an adapter that the pool could never hold.
var ErrTooLarge = errors.New("adapter is larger than the memory that adapters can have")

// Config describes a pool. All numbers are at least 1, except where said.
type Config struct {
	// Chunks of the pool, of ChunkBytes each.
	Chunks     int
	ChunkBytes int64
	// ImageChunks is how many chunks an adapter of so many bytes takes.
	ImageChunks func(bytes int64) int
	// GroupChunks hold the GroupPages pages of one group of the cache.
	GroupChunks, GroupPages int
	// Floor is how many groups the cache keeps whatever adapters want.
	Floor int
	// Lot is the least number of groups by which the cache grows.
	Lot int
	// Spare chunks are left to the next adapter, 0 for none, when the cache grows
	// without need.
	Spare int
	// Keep is for how many steps a side keeps what it got from the other.
	Keep uint64
}

// Cache is the page pool (kv.Pool).
type Cache interface {
	// Groups counts the groups that are there, and those that could be.
	Groups() (present, most int)
	// Free counts pages that hold nothing.
	Free() int
	// Givable counts groups that Give would give, NextUsed tells in which step
	// the next of them was last used.
	Givable() int
	NextUsed() (step uint64, ok bool)
	Give() (group int32, ok bool)
	// Absent names groups that are not there; Gain brings one, which Give spares
	// until a step, unless Unkeep lifts that.
	Absent(n int, skip func(group int32) bool) []int32
	Gain(group int32, keep uint64)
	Unkeep()
}

// Idle is an adapter on the device that nobody uses and that is not pinned. One
// that was brought for somebody who has not had his turn is not idle: else two
// that do not fit together could push each other out for ever.
type Idle struct {
	Digest string
	Chunks int
	// Used is the step of its last use, Arrived that of its arrival.
	Used, Arrived uint64
	// Awaited adapters have sequences that wait. Hinted ones have some that are still
	// to come: they make room for what runs, but not for what is fetched ahead.
	Awaited, Hinted bool
}

// Adapters is the adapter store (lora.Store).
type Adapters interface {
	// IdleChunks adds up the idle adapters' chunks, all or those that are not
	// awaited. It is asked often.
	IdleChunks(awaited bool) int
	// Idle lists the idle adapters in the order in which they leave: those not
	// awaited first, and of them as the store's policy says.
	Idle() []Idle
	// Evict takes one off the device; it calls Pool.Return.
	Evict(digest string)
}

// Mover carries out what was decided about groups of the cache.
type Mover interface {
	// Shrink gives groups back to the device at once.
	Shrink(groups []int32)
	// Grow brings groups and leads to Pool.Grown later.
	Grow(groups []int32)
}

// Pool is the policy and its books. One goroutine owns it.
type Pool struct {
	cfg      Config
	cache    Cache
	adapters Adapters
	mover    Mover

	free, held int // chunks: nobody's, adapters'
	// coming are the groups on their way to the cache, with the step until which
	// it keeps them.
	coming  map[int32]uint64
	step    uint64
	running int

	moved Moved
	// broken tells that the device failed to bring groups: none will come.
	broken bool
}

// Moved counts what changed sides, in chunks.
type Moved struct{ ToAdapters, ToCache uint64 }

// New makes a pool whose chunks are all free. Bind must follow.
func New(cfg Config, mover Mover) *Pool {
	return &Pool{cfg: cfg, mover: mover, free: cfg.Chunks, coming: map[int32]uint64{}}
}

// Bind tells the pool its two sides.
func (p *Pool) Bind(c Cache, a Adapters) { p.cache, p.adapters = c, a }

// Start gives groups to the cache before anything runs and returns their
// numbers; the caller brings them.
func (p *Pool) Start(groups int) []int32 {
	started := p.cache.Absent(min(groups, p.free/p.cfg.GroupChunks), p.isComing)
	for _, g := range started {
		p.coming[g] = 0
	}
	p.free -= len(started) * p.cfg.GroupChunks
	return started
}

func (p *Pool) isComing(g int32) bool {
	_, ok := p.coming[g]
	return ok
}

// At tells the step and how many sequences run.
func (p *Pool) At(step uint64, running int) {
	p.step, p.running = step, running
	if running == 0 {
		p.cache.Unkeep()
	}
}

// Step is the step that At told.
func (p *Pool) Step() uint64 { return p.step }

// Chunks is how many chunks an adapter of bytes takes.
func (p *Pool) Chunks(bytes int64) int { return p.cfg.ImageChunks(bytes) }

// Limit is the most chunks that adapters can have together.
func (p *Pool) Limit() int { return p.cfg.Chunks - p.cfg.Floor*p.cfg.GroupChunks }

// Fits tells whether an adapter of bytes could be loaded beside pinned chunks
// that never leave: ErrTooLarge with the numbers.
func (p *Pool) Fits(bytes int64, pinned int) error {
	if n := p.Chunks(bytes); n > p.Limit()-pinned {
		mib := func(chunks int) float64 { return float64(int64(chunks)*p.cfg.ChunkBytes) / (1 << 20) }
		return fmt.Errorf("%w: it takes %.1f MiB of device memory; adapters can have %.1f of the pool's %.1f MiB, pinned ones hold %.1f",
			ErrTooLarge, mib(n), mib(p.Limit()), mib(p.cfg.Chunks), mib(pinned))
	}
	return nil
}

// Could tells whether Adapter would succeed.
func (p *Pool) Could(chunks int, ahead bool) bool {
	return p.free+p.givable()*p.cfg.GroupChunks+p.adapters.IdleChunks(!ahead) >= chunks
}

// idle lists the adapters that may be put out for another one. One that is only
// fetched ahead takes no place from those that somebody waits for.
func (p *Pool) idle(ahead bool) []Idle {
	all := p.adapters.Idle()
	if i := slices.IndexFunc(all, func(a Idle) bool { return a.Awaited || a.Hinted }); ahead && i >= 0 {
		return all[:i]
	}
	return all
}

// Adapter takes chunks for an adapter that is wanted, or fetched ahead of need,
// making room. False: there is not enough that may be taken now; nothing was
// touched.
func (p *Pool) Adapter(chunks int, ahead bool) bool {
	if !p.Could(chunks, ahead) {
		return false
	}
	groups, idle := p.givable(), p.idle(ahead)
	var gone []int32
	for p.free < chunks {
		used, ok := p.cache.NextUsed()
		if ok = ok && groups > 0; ok && (len(idle) == 0 || idle[0].Awaited || used <= idle[0].Used) {
			g, _ := p.cache.Give()
			gone = append(gone, g)
			groups--
			p.free += p.cfg.GroupChunks
			p.moved.ToAdapters += uint64(p.cfg.GroupChunks)
			continue
		}
		p.adapters.Evict(idle[0].Digest)
		idle = idle[1:]
	}
	p.free -= chunks
	p.held += chunks
	if len(gone) > 0 {
		p.mover.Shrink(gone)
	}
	return true
}

// givable counts the groups that the cache can lose.
func (p *Pool) givable() int {
	present, _ := p.cache.Groups()
	return max(0, min(p.cache.Givable(), present-p.cfg.Floor))
}

// Return takes an adapter's chunks back.
func (p *Pool) Return(chunks int) {
	p.free += chunks
	p.held -= chunks
}

// More makes the cache larger by at least pages pages, if it can. True: pages
// are on their way.
func (p *Pool) More(pages int) bool {
	need := (pages+p.cfg.GroupPages-1)/p.cfg.GroupPages - len(p.coming)
	if need <= 0 {
		return true
	}
	need = min(need, p.absent())
	keep := uint64(0)
	if need*p.cfg.GroupChunks > p.free && p.takeIdle(need*p.cfg.GroupChunks) {
		keep = p.step + p.cfg.Keep
	}
	p.bring(min(max(need, p.cfg.Lot), p.free/p.cfg.GroupChunks), keep)
	return len(p.coming) > 0
}

// absent counts the groups that could still come.
func (p *Pool) absent() int {
	present, most := p.cache.Groups()
	return most - present - len(p.coming)
}

// takeIdle puts out adapters until chunks are free. True: at least one left.
func (p *Pool) takeIdle(chunks int) bool {
	before := p.free
	for _, a := range p.adapters.Idle() {
		if p.free >= chunks {
			break
		}
		if a.Awaited || p.running > 0 && a.Arrived+p.cfg.Keep > p.step {
			continue
		}
		p.adapters.Evict(a.Digest)
	}
	p.moved.ToCache += uint64(p.free - before)
	return p.free > before
}

// Tend lets the cache grow into free chunks when it has few pages that hold
// nothing.
func (p *Pool) Tend() {
	if p.cache.Free() < p.cfg.Lot*p.cfg.GroupPages && len(p.coming) == 0 {
		p.bring(min(p.cfg.Lot, (p.free-p.cfg.Spare)/p.cfg.GroupChunks), 0)
	}
}

// bring starts to bring at most groups groups, for which there are chunks. The
// cache keeps them until the step keep.
func (p *Pool) bring(groups int, keep uint64) {
	if groups = min(groups, p.absent()); groups <= 0 || p.broken {
		return
	}
	coming := p.cache.Absent(groups, p.isComing)
	for _, g := range coming {
		p.coming[g] = keep
	}
	p.free -= len(coming) * p.cfg.GroupChunks
	p.mover.Grow(coming)
}

// Grown takes in groups that Grow brought.
func (p *Pool) Grown(groups []int32) {
	for _, g := range groups {
		p.cache.Gain(g, p.coming[g])
		delete(p.coming, g)
	}
}

// Broke takes back groups that Grow could not bring. The cache stays as it is
// from now on.
func (p *Pool) Broke(groups []int32) {
	for _, g := range groups {
		delete(p.coming, g)
	}
	p.free += len(groups) * p.cfg.GroupChunks
	p.broken = true
}

// Coming counts the groups on their way to the cache.
func (p *Pool) Coming() int { return len(p.coming) }

// Counts is the pool in chunks; Cache includes what is on its way.
type Counts struct{ Total, Cache, Adapters, Free int }

// Counts tells who has how much.
func (p *Pool) Counts() Counts {
	present, _ := p.cache.Groups()
	return Counts{
		Total: p.cfg.Chunks, Cache: (present + len(p.coming)) * p.cfg.GroupChunks, Adapters: p.held, Free: p.free,
	}
}

// Moved counts what the sides took from each other so far.
func (p *Pool) Moved() Moved { return p.moved }

// Check verifies the books, for tests.
func (p *Pool) Check() error {
	c := p.Counts()
	if c.Free < 0 || c.Adapters < 0 || c.Cache+c.Adapters+c.Free != c.Total {
		return fmt.Errorf("memory: %+v does not add up", c)
	}
	if c.Adapters > p.Limit() {
		return fmt.Errorf("memory: adapters have %d chunks, at most %d", c.Adapters, p.Limit())
	}
	return nil
}
