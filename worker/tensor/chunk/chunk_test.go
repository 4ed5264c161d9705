package chunk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"chorale/worker/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testChunk = 16

// device is memory whose every chunk holds one value, and which objects to
// what real devices punish.
type device struct {
	mu       sync.Mutex
	made     map[Handle]int     // value that a chunk holds
	mapped   map[uintptr]Handle // by address
	where    map[Handle]uintptr // the same, the other way
	reserved map[uintptr]int    // first address: chunks
	next     uintptr
	slow     bool
	fail     string // the call that fails
}

func newDevice() *device {
	return &device{made: map[Handle]int{}, mapped: map[uintptr]Handle{}, where: map[Handle]uintptr{}, reserved: map[uintptr]int{}, next: 1 << 20}
}

var errDevice = errors.New("device failed")

func (d *device) enter(call string) error {
	if d.slow && rand.IntN(4) == 0 {
		time.Sleep(time.Duration(rand.IntN(50)) * time.Microsecond)
	}
	d.mu.Lock()
	if d.fail == call {
		d.mu.Unlock()
		return errDevice
	}
	return nil
}

func (d *device) ChunkBytes() int64 { return testChunk }

func (d *device) Create(n int) ([]Handle, error) {
	if err := d.enter("create"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	var hs []Handle
	for i := range n {
		hs = append(hs, Handle(100+i))
		d.made[hs[i]] = -1
	}
	return hs, nil
}

func (d *device) Release(hs []Handle) error {
	if err := d.enter("release"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	for _, h := range hs {
		if _, ok := d.where[h]; ok {
			return fmt.Errorf("chunk %d is destroyed while mapped", h)
		}
		delete(d.made, h)
	}
	return nil
}

func (d *device) Reserve(n int) (uintptr, error) {
	if err := d.enter("reserve"); err != nil {
		return 0, err
	}
	defer d.mu.Unlock()
	at := d.next
	d.next += uintptr(n+1) * testChunk
	d.reserved[at] = n
	return at, nil
}

func (d *device) Unreserve(at uintptr, n int) error {
	if err := d.enter("unreserve"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	if d.reserved[at] != n {
		return fmt.Errorf("%d chunks at %d are not reserved", n, at)
	}
	for i := range n {
		if _, ok := d.mapped[at+uintptr(i)*testChunk]; ok {
			return fmt.Errorf("addresses are given back while mapped")
		}
	}
	delete(d.reserved, at)
	return nil
}

func (d *device) Map(at uintptr, hs []Handle) error {
	if err := d.enter("map"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	for i, h := range hs {
		a := at + uintptr(i)*testChunk
		if _, ok := d.mapped[a]; ok {
			return fmt.Errorf("address %d is mapped twice", a)
		}
		if _, ok := d.where[h]; ok {
			return fmt.Errorf("chunk %d is mapped twice", h)
		}
		d.mapped[a], d.where[h] = h, a
	}
	return nil
}

func (d *device) Unmap(at uintptr, n int) error {
	if err := d.enter("unmap"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	for i := range n {
		a := at + uintptr(i)*testChunk
		h, ok := d.mapped[a]
		if !ok {
			return fmt.Errorf("address %d is not mapped", a)
		}
		delete(d.mapped, a)
		delete(d.where, h)
	}
	return nil
}

func (d *device) Clear(at uintptr, n int) error {
	if err := d.enter("clear"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	for i := range n {
		h, ok := d.mapped[at+uintptr(i)*testChunk]
		if !ok {
			return fmt.Errorf("cleared where nothing is mapped")
		}
		d.made[h] = 0
	}
	return nil
}

// write and read reach a chunk by its address, as kernels do.
func (d *device) write(at uintptr, v int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	h, ok := d.mapped[at]
	if !ok {
		return fmt.Errorf("nothing is mapped at %d", at)
	}
	d.made[h] = v
	return nil
}

func (d *device) read(at uintptr) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	h, ok := d.mapped[at]
	if !ok {
		return -2
	}
	return d.made[h]
}

// owner is a taker of the test: a range, or a group of the space.
type owner struct {
	r     *Range
	g     int32
	first uintptr
	n     int
	value int
}

// world is a pool with a space and ranges, and what each holds.
type world struct {
	d      *device
	p      *Pool
	s      *Space
	per    int
	owners []*owner
	values int
}

func newWorld(total, groups, per int, slow bool) (*world, error) {
	d := newDevice()
	d.slow = slow
	p, err := New(d, total)
	if err != nil {
		return nil, err
	}
	s, err := p.NewSpace(groups, per)
	return &world{d: d, p: p, s: s, per: per}, err
}

func (w *world) taken() int {
	n := 0
	for _, o := range w.owners {
		n += o.n
	}
	return n
}

// own fills what was taken with a value of its own.
func (w *world) own(o *owner) error {
	w.values++
	o.value = w.values
	for i := range o.n {
		if err := w.d.write(o.first+uintptr(i)*testChunk, o.value); err != nil {
			return err
		}
	}
	w.owners = append(w.owners, o)
	return nil
}

// check verifies that everybody still holds what they wrote.
func (w *world) check() error {
	for _, o := range w.owners {
		for i := range o.n {
			if v := w.d.read(o.first + uintptr(i)*testChunk); v != o.value {
				return fmt.Errorf("chunk %d of %d holds %d, want %d", i, o.n, v, o.value)
			}
		}
	}
	return nil
}

func (w *world) alloc(bytes int64) error {
	n := int((bytes + testChunk - 1) / testChunk)
	fits := w.taken()+n <= w.p.total
	r, err := w.p.Alloc(bytes)
	if !fits {
		if !errors.Is(err, tensor.ErrOutOfMemory) {
			return fmt.Errorf("more than there is was given: %w", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return w.own(&owner{r: r, g: -1, first: r.Address(), n: n})
}

func (w *world) grow(groups []int32) error {
	fits := w.taken()+len(groups)*w.per <= w.p.total
	err := w.s.Grow(groups)
	if !fits {
		if !errors.Is(err, tensor.ErrOutOfMemory) {
			return fmt.Errorf("more than there is was given: %w", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, g := range groups {
		at := w.s.Address() + uintptr(int(g)*w.per*testChunk)
		for i := range w.per {
			if v := w.d.read(at + uintptr(i)*testChunk); v != 0 {
				return fmt.Errorf("a new group holds %d", v)
			}
		}
		if err := w.own(&owner{g: g, first: at, n: w.per}); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) drop(i int) {
	o := w.owners[i]
	w.owners = append(w.owners[:i], w.owners[i+1:]...)
	if o.r != nil {
		o.r.Free()
		o.r.Free()
		return
	}
	w.s.Shrink([]int32{o.g})
}

func (w *world) absent(groups int) []int32 {
	there := map[int32]bool{}
	for _, o := range w.owners {
		there[o.g] = true
	}
	var out []int32
	for g := range int32(groups) {
		if !there[g] {
			out = append(out, g)
		}
	}
	return out
}

func (w *world) close() error {
	for _, o := range w.owners {
		if o.r != nil {
			o.r.Free()
		}
	}
	if err := w.s.Free(); err != nil {
		return err
	}
	if err := w.p.Close(); err != nil {
		return err
	}
	if len(w.d.made)+len(w.d.mapped)+len(w.d.reserved) > 0 {
		return fmt.Errorf("left behind: %d chunks, %d mappings, %d reservations", len(w.d.made), len(w.d.mapped), len(w.d.reserved))
	}
	return nil
}

// TestModel takes and gives at random; whoever holds memory holds it alone.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups, per := rapid.IntRange(1, 12).Draw(t, "groups"), rapid.IntRange(1, 3).Draw(t, "per")
		w, err := newWorld(rapid.IntRange(1, 30).Draw(t, "chunks"), groups, per, false)
		ok := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		ok(err)
		t.Repeat(map[string]func(*rapid.T){
			"":      func(*rapid.T) { ok(w.check()) },
			"alloc": func(t *rapid.T) { ok(w.alloc(rapid.Int64Range(1, 8*testChunk).Draw(t, "bytes"))) },
			"grow": func(t *rapid.T) {
				from := w.absent(groups)
				if len(from) == 0 {
					t.Skip("all are there")
				}
				n := rapid.IntRange(1, len(from)).Draw(t, "n")
				ok(w.grow(from[:n]))
			},
			"drop": func(t *rapid.T) {
				if len(w.owners) == 0 {
					t.Skip("nobody holds anything")
				}
				w.drop(rapid.IntRange(0, len(w.owners)-1).Draw(t, "which"))
			},
		})
		ok(w.close())
	})
}

// TestMany lets several take and give at once, on a device that takes its time.
func TestMany(t *testing.T) {
	w, err := newWorld(64, 16, 2, true)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for who := range 4 { // 4 ranges of at most 8 chunks, and 16 groups of 2: never too much
		wg.Go(func() {
			for i := range 200 {
				r, err := w.p.Alloc(int64(1 + rand.IntN(8*testChunk)))
				if err != nil {
					t.Error(err)
					return
				}
				if err := w.d.write(r.Address(), who*1000+i); err != nil || w.d.read(r.Address()) != who*1000+i {
					t.Errorf("range of %d bytes: %v", r.Bytes(), err)
				}
				r.Free()
			}
		})
	}
	wg.Go(func() {
		for range 200 {
			g := int32(rand.IntN(12))
			some := []int32{g, g + 1, g + 3}
			if err := w.s.Grow(some); err != nil {
				t.Error(err)
				return
			}
			w.s.Shrink(some)
		}
	})
	wg.Wait()
	if err := w.close(); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	w, err := newWorld(6, 4, 2, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"no bytes": second(w.p.Alloc(0)), "no groups": second(w.p.NewSpace(0, 1)), "group below": w.s.Grow([]int32{-1}),
		"group above": w.s.Grow([]int32{4}), "no chunks": second(New(w.d, 0)),
	} {
		if !errors.Is(err, tensor.ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.grow([]int32{0, 2}); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Grow([]int32{2}); !errors.Is(err, tensor.ErrShape) {
		t.Errorf("a group that is there: %v", err)
	}
	alloc := func() error { return second(w.p.Alloc(1)) }
	grow := func() error { return w.s.Grow([]int32{1}) }
	for _, c := range []struct {
		call string
		do   func() error
	}{{"map", alloc}, {"reserve", alloc}, {"map", grow}, {"clear", grow}} {
		w.d.fail = c.call
		err := c.do()
		w.d.fail = ""
		if _, free := w.p.Chunks(); !errors.Is(err, errDevice) || free != 2 {
			t.Errorf("%s fails: %v, %d chunks free, want 2", c.call, err, free)
		}
	}
	if err := w.p.Close(); !errors.Is(err, ErrBusy) {
		t.Errorf("closing a pool in use: %v", err)
	}
	w.d.fail = "unmap"
	w.s.Shrink([]int32{0})
	if _, err := w.p.Alloc(3 * testChunk); !errors.Is(err, errDevice) {
		t.Errorf("after a failed unmap: %v", err)
	}
	if err := w.s.Free(); !errors.Is(err, errDevice) {
		t.Errorf("after a failed unmap: %v", err)
	}
	w.d.fail = "create"
	if _, err := New(w.d, 3); !errors.Is(err, errDevice) {
		t.Errorf("no chunks: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestGroup(t *testing.T) {
	const mib = 1 << 20
	const chunk = 2 * mib
	for _, c := range []struct{ page, chunk int64 }{
		{2 * mib, chunk},
		{360 << 10, chunk},
		{4 * mib, chunk},
		{5 * mib, chunk},
		{4096, chunk},
		{1, 4096},
		{7777, 4096},
		{1<<20 + 256, chunk},
		{40 << 10, chunk},
		{896 << 10, chunk},
		{2304 << 10, chunk},
	} {
		pages, chunks, stride := Group(c.page, c.chunk, 256)
		waste := 1 - float64(c.page)*float64(pages)/float64(int64(chunks)*c.chunk)
		t.Logf("pages of %d in chunks of %d: %d in %d, every %d bytes, %.1f%% wasted", c.page, c.chunk, pages, chunks, stride, 100*waste)
		if stride < c.page || stride%256 != 0 || stride*int64(pages) != int64(chunks)*c.chunk {
			t.Errorf("pages of %d in chunks of %d: %d in %d every %d bytes", c.page, c.chunk, pages, chunks, stride)
		}
		if c.page >= 4096 && waste > 1.0/12 {
			t.Errorf("%.3f is wasted", waste)
		}
	}
}
