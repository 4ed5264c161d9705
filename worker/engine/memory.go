package engine

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"chorale/worker/kv"
	"chorale/worker/memory"
	"chorale/worker/model/decoder"
	"chorale/worker/tensor"
)

// defaultMemFraction is the share of a device's memory that weights, buffers and
// the pool take when nothing is said.
const defaultMemFraction = 0.9

// leastLeft is what stays free of a device's memory however large the fraction:
// recorded steps and tables come later.
const leastLeft = 1 << 30

// keepSteps is for how many steps cache and adapters keep what they got from
// each other.
const keepSteps = 32

// ownMemory is a device with memory of its own.
type ownMemory interface {
	Memory() (free, total int64, err error)
}

// openMemory makes the pool that cache and adapters share. Weights and buffers
// are on the device already.
func openMemory(b tensor.Backend, m *decoder.Model, o *Options) (tensor.Memory, error) {
	l := tensor.MemoryLayout{Bytes: o.MemoryBytes, KV: m.KVLayout(kv.PageSize, o.Pages)}
	var err error
	if l.Bytes, err = Measure(b, l, o.MemFraction, o.Sharers); err != nil {
		return nil, err
	}
	if err := o.Ranks.Fit(&l); err != nil {
		return nil, fmt.Errorf("memory for cache and adapters: %w", err)
	}
	mem, err := b.NewMemory(l)
	if err != nil {
		return nil, fmt.Errorf("memory for cache and adapters: %w", err)
	}
	if err := o.Ranks.Same(mem); err != nil {
		return nil, errors.Join(err, mem.Close())
	}
	o.Pages = mem.KV().Layout().Pages
	return mem, nil
}

// Measure is how many bytes a pool of a layout takes where the layout does not
// say: a share of what the fraction of a device's memory leaves beside all that is
// in use, 0 where the device is the host and the layout's pages decide.
func Measure(b tensor.Backend, l tensor.MemoryLayout, fraction float64, sharers int) (int64, error) {
	d, ok := b.(ownMemory)
	if !ok || l.Bytes != 0 {
		return l.Bytes, nil
	}
	bytes, err := fractionOf(d, fraction)
	return bytes / int64(max(1, sharers)), err
}

// fractionOf is what a fraction of a device's memory leaves beside all that is
// in use.
func fractionOf(d ownMemory, fraction float64) (int64, error) {
	if fraction == 0 {
		fraction = defaultMemFraction
	}
	free, total, err := d.Memory()
	if err != nil {
		return 0, err
	}
	used := total - free
	bytes := min(int64(fraction*float64(total))-used, free-leastLeft)
	if bytes <= 0 {
		return 0, fmt.Errorf("%w: a fraction of %g of %d MiB of device memory leaves nothing for cache and adapters: %d MiB are in use",
			ErrOptions, fraction, total>>20, used>>20)
	}
	return bytes, nil
}

// ImageUnit is the unit, in bytes, of what an adapter takes of the device's
// memory; 0: it takes none of its own.
func (e *Engine) ImageUnit() int64 {
	if e.mem.ImageChunks(1) == 0 {
		return 0
	}
	return e.mem.ChunkBytes()
}

// share sets up the books of the pool and brings the cache's first groups.
func (e *Engine) share() error {
	pages, chunks := e.mem.Group()
	total, _ := e.mem.Chunks()
	groups := e.opts.Pages / pages
	c := memory.Config{
		Chunks: total, ChunkBytes: e.mem.ChunkBytes(), ImageChunks: e.mem.ImageChunks, GroupChunks: chunks, GroupPages: pages,
		Floor: min(groups, (e.opts.Context+pages*kv.PageSize-1)/(pages*kv.PageSize)),
		Lot:   max(1, min(64, groups/32)), Keep: keepSteps,
	}
	start := groups
	if e.mem.ImageChunks(1) > 0 {
		// The rest is what adapters can have at most, and a part of it theirs to
		// begin with.
		c.Floor = min(c.Floor, max(1, groups*3/4))
		c.Spare = total / 32
		start = max(c.Floor, min(groups, (total-total/8)/chunks))
	}
	e.capacity = min(e.opts.Context, c.Floor*pages*kv.PageSize)
	e.pool = kv.NewGrouped(groups, pages)
	e.room = memory.New(c, mover{e})
	e.room.Bind(e.pool, e.store)
	e.store.Share(e.room)
	first := e.room.Start(start)
	if err := e.grow(first); err != nil {
		return fmt.Errorf("memory for the cache: %w", err)
	}
	e.room.Grown(first)
	return nil
}

// mover carries out what the books say.
type mover struct{ e *Engine }

// Shrink gives groups back that no step uses: a page has a reference until the
// last step that reads it is over.
func (m mover) Shrink(groups []int32) {
	m.e.ranks.Shrink(groups)
	m.e.mem.Shrink(groups)
}

// Grow brings groups beside the steps.
func (m mover) Grow(groups []int32) {
	go func() {
		err := m.e.grow(groups)
		m.e.do(func() { m.e.grown(groups, err) })
	}()
}

// grow brings groups on all ranks.
func (e *Engine) grow(groups []int32) error {
	others := make(chan error, 1)
	go func() { others <- e.ranks.Grow(groups) }()
	err := e.mem.Grow(groups)
	return errors.Join(err, <-others)
}

// grown takes in groups of the cache.
func (e *Engine) grown(groups []int32, err error) {
	if err == nil {
		e.room.Grown(groups)
		return
	}
	if e.grouped() { // some have the groups, some have not
		e.broken(err)
	}
	e.room.Broke(groups)
	e.log.Error("the cache cannot grow", zap.Int("groups", len(groups)), zap.Error(err))
	if errors.Is(err, tensor.ErrLost) && e.lost == nil {
		e.lost = err
	}
}

// MemoryStatus is the pool that cache and adapters share, in bytes.
type MemoryStatus struct {
	Total, Cache, Adapters, Free int64
	// ToAdapters and ToCache are what one side took from the other so far.
	ToAdapters, ToCache int64
}

func (e *Engine) memoryStatus() MemoryStatus {
	c, m, chunk := e.room.Counts(), e.room.Moved(), e.mem.ChunkBytes()
	return MemoryStatus{
		Total: int64(c.Total) * chunk, Cache: int64(c.Cache) * chunk, Adapters: int64(c.Adapters) * chunk, Free: int64(c.Free) * chunk,
		ToAdapters: int64(m.ToAdapters) * chunk, ToCache: int64(m.ToCache) * chunk,
	}
}
