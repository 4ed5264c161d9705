package group

import (
	"errors"
	"sync"

	"chorale/worker/lora"
	"chorale/worker/model"
)

// Host is what a lora.Store wants to know of an adapter whose image is this
// rank's: of a group's leader by Put, of a rank alone (nil) without.
func Host(l *Leader, digest string, config, weights []byte, image *model.Image) (lora.Host, error) {
	if l == nil {
		return lora.Host{Digest: digest, Bytes: image.Bytes(), Device: image.DeviceBytes(), Pack: image.Load, Release: image.Free}, nil
	}
	return l.Put(digest, config, weights, image)
}

// Put brings an adapter to all ranks, of which each keeps its own slice, and
// gives what a lora.Store wants to know of it. image is this rank's; it stays the
// caller's when there is an error. It returns when all have acknowledged.
func (l *Leader) Put(digest string, config, weights []byte, image *model.Image) (lora.Host, error) {
	l.mu.Lock()
	l.images++
	number := l.images
	l.mu.Unlock()
	m := message{verb: verbPut, head: pack(putMsg{Image: number, Config: config}), body: weights}
	rooms := make([]room, len(l.peers))
	errs := make([]error, len(l.peers))
	var all sync.WaitGroup
	for i, p := range l.peers {
		all.Go(func() {
			// Written here and not by the queue's writer: the weights are the
			// caller's, who takes them away when this returns. A lane that ends
			// ends the group.
			rooms[i], errs[i] = p.ask(m, func(m message) { _ = p.lanes[laneBulk].write(&m) })()
		})
	}
	all.Wait()
	drop := func() { l.tell(verbDrop, loadMsg{Image: number}) }
	if err := errors.Join(errs...); err != nil {
		drop()
		return lora.Host{}, err
	}
	h := lora.Host{Digest: digest, Bytes: image.Bytes(), Device: image.DeviceBytes()}
	for _, r := range rooms {
		h.Bytes, h.Device = max(h.Bytes, r.Bytes), max(h.Device, r.Device)
	}
	h.Pack = func() (lora.Packed, error) { return l.load(number, image) }
	h.Release = func() {
		drop()
		image.Free()
	}
	return h, nil
}

// load brings an adapter onto all ranks' devices.
func (l *Leader) load(image uint64, own *model.Image) (lora.Packed, error) {
	l.mu.Lock()
	l.last++
	number := l.last
	l.mu.Unlock()
	m := message{verb: verbLoad, head: pack(loadMsg{Image: image, Number: number})}
	waits := make([]func() (room, error), len(l.peers))
	for i, p := range l.peers {
		waits[i] = p.ask(m, p.lanes[laneControl].post)
	}
	p, err := own.Load()
	_, others := l.gather(waits)
	if err != nil || others != nil {
		l.tell(verbUnload, loadMsg{Number: number}) // where it was loaded no step has seen it
		if err == nil && p.Free != nil {
			p.Free()
		}
		return lora.Packed{}, errors.Join(err, others)
	}
	l.mu.Lock()
	l.numbers[p.Adapter] = number
	l.mu.Unlock()
	free := p.Free
	p.Free = func() { // the engine's goroutine, when no step uses it that has not landed
		l.mu.Lock()
		delete(l.numbers, p.Adapter)
		l.mu.Unlock()
		l.tell(verbUnload, loadMsg{Number: number, Landed: l.landed})
		if free != nil {
			free()
		}
	}
	return p, nil
}
