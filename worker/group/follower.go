package group

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"chorale/internal/peft"
	"chorale/internal/safetensors"
	"chorale/worker/collective"
	"chorale/worker/lora"
	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/nn"
	"chorale/worker/tensor"
)

// Follower is a rank that does what the leader's engine does.
type Follower struct {
	member  collective.Member
	o       Options
	model   *decoder.Model
	lanes   [lanes]*lane
	runner  *decoder.Runner
	measure func(tensor.MemoryLayout) (int64, error)

	// mu guards the runner and its steps: who gives back what a step used waits
	// for it.
	mu               sync.Mutex
	moved            *sync.Cond // of mu: a step was launched, or this ends
	launched, landed uint64
	flights          []*frame
	frames           []*frame // not under way
	digests          []uint64
	over             bool

	// things are the lanes'.
	things sync.Mutex
	mem    tensor.Memory
	images map[uint64]*model.Image
	packed map[uint32]lora.Packed

	loads sync.WaitGroup
	once  sync.Once
	fault error
}

// Run computes until the group is over, and gives everything back. It returns a
// *Fault; there is no other end.
func (f *Follower) Run(ctx context.Context) error {
	defer f.free()
	var loops sync.WaitGroup
	for _, ln := range f.lanes {
		loops.Go(ln.pump)
		loops.Go(func() { f.fail(f.serve(ln)) })
	}
	stop := context.AfterFunc(ctx, func() { f.fail(context.Cause(ctx)) })
	defer stop()
	f.fail(f.steps())
	loops.Wait()
	f.loads.Wait()
	return f.fault
}

// fail ends the group by this rank's fault, or takes notice that it is over.
func (f *Follower) fail(err error) {
	f.once.Do(func() {
		if ended := f.member.Ended(); ended != nil {
			err = ended
		}
		f.fault = faultOf(err, f.member.Rank())
		f.member.Abort(err.Error())
		for _, ln := range f.lanes {
			ln.close()
		}
		f.mu.Lock()
		f.over = true
		f.moved.Broadcast()
		f.mu.Unlock()
	})
}

// free gives back what the leader had this rank take.
func (f *Follower) free() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.flights) > 0 {
		_ = f.land() // the group is over: its error is told
	}
	for _, p := range f.packed {
		if p.Free != nil {
			p.Free()
		}
	}
	for _, im := range f.images {
		im.Free()
	}
	f.runner.Free()
	if f.mem != nil {
		_ = f.mem.Close() // what it says is of a device that is lost
	}
}

// steps computes what the leader plans.
func (f *Follower) steps() error {
	buf := make([]byte, 0, 64<<10)
	var parts []byte
	for {
		var err error
		if buf, err = f.member.Next(buf); err != nil {
			return err
		}
		record := buf
		w, err := wordsOf(record[:min(4, len(record))])
		if err != nil {
			return err
		}
		if w[0] == recPart || w[0] == recLast {
			if parts = append(parts, record[4:]...); w[0] == recPart {
				continue
			}
			record, parts = parts, nil
		}
		kept, err := f.step(record)
		if err != nil {
			return err
		}
		buf = kept
	}
}

// step computes one. The record's memory is the step's until it has ended; the
// caller gets other memory for the next one.
func (f *Follower) step(record []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.frames) - 1
	fr := f.frames[last]
	f.frames = f.frames[:last]
	next := fr.record
	fr.record = record
	if err := fr.decode(record, f.adapter); err != nil {
		return nil, err
	}
	if fr.step != uint32(f.launched+1) {
		return nil, fmt.Errorf("step %d after %d: %w", fr.step, f.launched, ErrRecord)
	}
	// The leader had landed so many before it launched this one: so do we, and
	// both streams see the same.
	for uint32(f.landed) != fr.landed {
		if len(f.flights) == 0 {
			return nil, fmt.Errorf("%d steps have landed, here %d: %w", fr.landed, f.landed, ErrRecord)
		}
		if err := f.land(); err != nil {
			return nil, err
		}
	}
	f.runner.Forward(&fr.Step)
	f.runner.Sample(&fr.Step, fr.sampled, fr.asks)
	f.runner.Launch()
	f.flights = append(f.flights, fr)
	f.launched++
	f.moved.Broadcast()
	if f.runner.Depth() == 1 { // there is nothing to do beside it
		if err := f.land(); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// land waits for the oldest step under way. mu is held.
func (f *Follower) land() error {
	fr := f.flights[0]
	f.flights = append(f.flights[:0], f.flights[1:]...)
	err := f.runner.Wait()
	f.landed++
	f.frames = append(f.frames, fr)
	if err != nil {
		return fmt.Errorf("step %d: %w", f.landed, err)
	}
	if f.o.DigestSteps > 0 {
		if f.digests = append(f.digests, digest(fr.sampled)); len(f.digests) >= f.o.DigestSteps {
			first := f.landed - uint64(len(f.digests)) + 1
			f.lanes[laneControl].post(message{verb: verbDigests, body: digests(first, f.digests)})
			f.digests = f.digests[:0]
		}
	}
	return nil
}

// after waits until a step has ended.
func (f *Follower) after(step uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.landed < step {
		switch {
		case f.over:
			return ErrOver
		case len(f.flights) > 0:
			if err := f.land(); err != nil {
				return err
			}
		default: // it is to be launched yet
			f.moved.Wait()
		}
	}
	return nil
}

// adapter finds an adapter on the device.
func (f *Follower) adapter(number uint32) (*nn.Adapter, error) {
	f.things.Lock()
	defer f.things.Unlock()
	if p, ok := f.packed[number]; ok {
		return p.Adapter, nil
	}
	return nil, fmt.Errorf("adapter %d is not on this rank's device: %w", number, ErrRecord)
}

// serve does what comes on a lane, until it ends.
func (f *Follower) serve(ln *lane) error {
	for {
		m, err := ln.read()
		if err != nil {
			return &Fault{Rank: 0, Reason: fmt.Sprintf("its connection is lost: %v", err), err: err}
		}
		if err := f.do(ln, &m); err != nil {
			return err
		}
	}
}

// do does one thing. An error is of the connection, or what must not fail.
func (f *Follower) do(ln *lane, m *message) error {
	switch m.verb {
	case verbFit, verbPool:
		return f.pool(ln, m)
	case verbGrow, verbShrink:
		g, err := unpack[groupsMsg](m)
		if err != nil || f.mem == nil {
			return errors.Join(err, errNoPool(f.mem))
		}
		if m.verb == verbGrow {
			f.beside(ln, m.id, func() (room, error) { return room{}, f.mem.Grow(g.Groups) })
			return nil
		}
		if err := f.after(g.Landed); err != nil {
			return err
		}
		f.mem.Shrink(g.Groups)
		return nil
	case verbPut:
		p, err := unpack[putMsg](m)
		if err != nil {
			return err
		}
		r, err := f.put(p, m.body)
		f.answer(ln, m.id, r, err)
		return nil
	case verbLoad, verbUnload, verbDrop:
		a, err := unpack[loadMsg](m)
		if err != nil {
			return err
		}
		return f.move(ln, m, a)
	}
	return fmt.Errorf("verb %d from the leader: %w", m.verb, errFrame)
}

func errNoPool(m tensor.Memory) error {
	if m == nil {
		return fmt.Errorf("there is no pool yet: %w", errFrame)
	}
	return nil
}

// answer answers a call.
func (f *Follower) answer(ln *lane, id uint64, r room, err error) {
	a := failed(err)
	a.Room = r
	ln.post(message{id: id, verb: verbReply, head: pack(a)})
}

// beside does what takes a while beside the lane, and answers.
func (f *Follower) beside(ln *lane, id uint64, do func() (room, error)) {
	f.loads.Go(func() {
		r, err := do()
		f.answer(ln, id, r, err)
	})
}

// pool tells how much memory there is, or makes the pool.
func (f *Follower) pool(ln *lane, m *message) error {
	layout, err := unpack[tensor.MemoryLayout](m)
	if err != nil {
		return err
	}
	if m.verb == verbFit {
		bytes, err := f.measure(layout)
		f.answer(ln, m.id, room{Bytes: bytes}, err)
		return nil
	}
	mem, err := f.model.Backend().NewMemory(layout)
	if err != nil {
		f.answer(ln, m.id, room{}, err)
		return nil
	}
	f.mu.Lock()
	f.mem = mem
	f.runner.SetKV(mem.KV())
	f.mu.Unlock()
	f.answer(ln, m.id, roomOf(mem), nil)
	return nil
}

// put lays this rank's slice of an adapter out in host memory. The leader has
// checked the adapter.
func (f *Follower) put(p putMsg, weights []byte) (room, error) {
	cfg, err := peft.ParseConfig(p.Config)
	if err != nil {
		return room{}, err
	}
	file, err := safetensors.Parse(weights)
	if err != nil {
		return room{}, err
	}
	a, err := peft.Bind(cfg, file, model.Modules(&f.model.Spec), peft.Limits{})
	if err != nil {
		return room{}, err
	}
	im, err := model.NewImage(f.model, a)
	if err != nil {
		return room{}, err
	}
	f.things.Lock()
	f.images[p.Image] = im
	f.things.Unlock()
	return room{Bytes: im.Bytes(), Device: im.DeviceBytes()}, nil
}

// move brings an adapter onto the device, takes it off, or forgets it.
func (f *Follower) move(ln *lane, m *message, a loadMsg) error {
	f.things.Lock()
	im, packed := f.images[a.Image], f.packed[a.Number]
	f.things.Unlock()
	switch m.verb {
	case verbLoad:
		if im == nil {
			return fmt.Errorf("adapter image %d is not here: %w", a.Image, errFrame)
		}
		f.beside(ln, m.id, func() (room, error) { return room{}, f.load(im, a.Number) })
	case verbUnload:
		if err := f.after(a.Landed); err != nil {
			return err
		}
		f.things.Lock()
		delete(f.packed, a.Number)
		f.things.Unlock()
		if packed.Free != nil {
			packed.Free()
		}
	case verbDrop:
		f.things.Lock()
		delete(f.images, a.Image)
		f.things.Unlock()
		if im != nil {
			im.Free()
		}
	}
	return nil
}

func (f *Follower) load(im *model.Image, number uint32) error {
	p, err := im.Load()
	if err != nil {
		return err
	}
	f.things.Lock()
	f.packed[number] = p
	f.things.Unlock()
	return nil
}
