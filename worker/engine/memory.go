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
func openMemory(b tensor.Backend, s *decoder.Spec, o *Options) (tensor.Memory, error) {
	l := tensor.MemoryLayout{Bytes: o.MemoryBytes, KV: tensor.KVLayout{
		Layers: s.Layers, KVHeads: s.KVHeads, HeadDim: s.HeadDim, PageSize: kv.PageSize, Pages: o.Pages,
	}}
	if d, ok := b.(ownMemory); ok && l.Bytes == 0 {
		var err error
		if l.Bytes, err = fractionOf(d, o.MemFraction); err != nil {
			return nil, err
		}
	}
	mem, err := b.NewMemory(l)
	if err != nil {
		return nil, fmt.Errorf("memory for cache and adapters: %w", err)
	}
	o.Pages = mem.KV().Layout().Pages
	return mem, nil
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
	if err := e.mem.Grow(first); err != nil {
		return fmt.Errorf("memory for the cache: %w", err)
	}
	e.room.Grown(first)
	return nil
}

// mover carries out what the books say.
type mover struct{ e *Engine }

// Shrink gives groups back that no step uses: a page has a reference until the
// last step that reads it is over.
func (m mover) Shrink(groups []int32) { m.e.mem.Shrink(groups) }

// Grow brings groups beside the steps.
func (m mover) Grow(groups []int32) {
	go func() {
		err := m.e.mem.Grow(groups)
		m.e.do(func() { m.e.grown(groups, err) })
	}()
}

// grown takes in groups of the cache.
func (e *Engine) grown(groups []int32, err error) {
	if err == nil {
		e.room.Grown(groups)
		return
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
