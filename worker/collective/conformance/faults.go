package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"chorale/worker/collective"
)

// soon is when the freed must be back, on a machine busy with other tests; the
// promise is 100 ms, which logs show.
const soon = 5 * time.Second

func abort(t *testing.T, open Open) {
	ms := open(t, 4, Patient)
	defer CloseAll(t, ms)
	var at atomic.Pointer[time.Time]
	for _, m := range ms {
		if err := m.Ended(); err != nil {
			t.Errorf("rank %d has ended: %v", m.Rank(), err)
		}
	}
	time.AfterFunc(50*time.Millisecond, func() {
		now := time.Now()
		at.Store(&now)
		ms[3].Abort("the disk is on fire")
	})
	errs := Each(ms[:3], func(m collective.Member) error { return m.AllReduce(make([]float32, 1<<18)) })
	if d := time.Since(*at.Load()); d > soon {
		t.Errorf("freed after %v", d)
	} else {
		t.Logf("freed after %v", d)
	}
	for _, m := range ms {
		if err := m.Ended(); !errors.Is(err, collective.ErrAborted) {
			t.Errorf("rank %d has ended: %v", m.Rank(), err)
		}
	}
	for rank, err := range errs {
		var a *collective.AbortError
		if !errors.As(err, &a) || a.Rank != 3 || a.Reason != "the disk is on fire" || !errors.Is(err, collective.ErrAborted) {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
	for _, m := range ms {
		if err := m.Barrier(); !errors.Is(err, collective.ErrAborted) {
			t.Errorf("rank %d afterwards: %v", m.Rank(), err)
		}
	}
}

func timeout(t *testing.T, open Open) {
	o := Patient
	o.Timeout = 300 * time.Millisecond
	ms := open(t, 3, o)
	defer CloseAll(t, ms)
	late := 0
	for rank, err := range Each([]collective.Member{ms[0], ms[2]}, func(m collective.Member) error { return m.AllReduce(make([]float32, 100)) }) {
		var e *collective.TimeoutError
		var a *collective.AbortError
		switch {
		case errors.As(err, &e) && e.Rank == 1 && errors.Is(err, collective.ErrTimeout):
			late++
		case errors.As(err, &a) && a.Rank == 1:
		default:
			t.Errorf("end %d: %v", rank, err)
		}
	}
	if late == 0 {
		t.Error("nobody timed out")
	}
	// The others' parts are there, so once it may even succeed.
	var err error
	for err == nil {
		err = ms[1].AllReduce(make([]float32, 100))
	}
	if !errors.Is(err, collective.ErrAborted) {
		t.Errorf("the late one: %v", err)
	}
}

func closing(t *testing.T, open Open) {
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for range rounds {
		ms := open(t, 3, Patient)
		// Whoever is first out must not spoil it for the others.
		good(t, Each(ms, func(m collective.Member) error {
			if err := Step(m, collective.KindBroadcast, 4, 70000); err != nil {
				return err
			}
			if err := Step(m, collective.KindAllReduce, 5, 70000); err != nil {
				return err
			}
			return m.Close()
		}))
		for _, m := range ms {
			if err := m.Barrier(); !errors.Is(err, collective.ErrAborted) {
				t.Errorf("rank %d, closed: %v", m.Rank(), err)
			}
		}
		CloseAll(t, ms) // twice is fine
	}
}

// closingBeside: an end is closed while it waits in an operation and for a plan.
func closingBeside(t *testing.T, open Open) {
	ms := open(t, 2, Patient)
	defer CloseAll(t, ms)
	errs := make(chan error, 2)
	go func() { errs <- ms[1].Barrier() }()
	go func() {
		_, err := ms[1].Next(nil)
		errs <- err
	}()
	time.Sleep(20 * time.Millisecond)
	start := time.Now()
	if err := ms[1].Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-errs; !errors.Is(err, collective.ErrAborted) {
			t.Error(err)
		}
	}
	if d := time.Since(start); d > soon {
		t.Errorf("closed after %v", d)
	}
}

func agree(t *testing.T, open Open) {
	ms := open(t, 3, Patient)
	defer CloseAll(t, ms)
	good(t, Each(ms, func(m collective.Member) error { return collective.Agree(m, "tokens", 77) }))
	told := 0
	for rank, err := range Each(ms, func(m collective.Member) error { return collective.Agree(m, "tokens", uint64(m.Rank()/2)) }) {
		var e *collective.DisagreeError
		switch {
		case errors.As(err, &e) && errors.Is(err, collective.ErrDisagree) && len(e.Digests) == 3 && e.Digests[2] == 1:
			told++
		case !errors.Is(err, collective.ErrAborted): // by one that was faster
			t.Errorf("rank %d: %v", rank, err)
		}
	}
	if told == 0 {
		t.Error("nobody noticed")
	}
}

// record is the i-th of a test.
func record(i int) []byte {
	r := rand.New(rand.NewPCG(uint64(i), 3))
	b := make([]byte, r.IntN(1<<r.IntN(12)))
	for j := range b {
		b[j] = byte(r.Uint32())
	}
	return b
}

func plans(t *testing.T, open Open) {
	const records = 2000
	o := Patient
	o.PlanBytes = 8 << 10
	ms := open(t, 4, o)
	defer CloseAll(t, ms)
	good(t, Each(ms, func(m collective.Member) error {
		var buf []byte
		for i := range records {
			if m.Rank() == 0 {
				if err := m.Publish(record(i)); err != nil {
					return err
				}
				continue
			}
			var err error
			if buf, err = m.Next(buf); err != nil {
				return err
			}
			if !bytes.Equal(buf, record(i)) {
				return fmt.Errorf("record %d is another", i)
			}
		}
		return nil
	}))
	if err := ms[1].Publish(nil); !errors.Is(err, collective.ErrRole) {
		t.Errorf("a follower publishes: %v", err)
	}
	if _, err := ms[0].Next(nil); !errors.Is(err, collective.ErrRole) {
		t.Errorf("the leader reads: %v", err)
	}
	if err := ms[0].Publish(make([]byte, 9<<10)); !errors.Is(err, collective.ErrTooLong) {
		t.Errorf("too long: %v", err)
	}
}

func lag(t *testing.T, open Open) {
	o := Patient
	o.PlanBytes, o.Timeout = 4096, 200*time.Millisecond
	ms := open(t, 3, o)
	defer CloseAll(t, ms)
	read := make(chan int)
	go func() { // rank 1 reads, rank 2 does not
		n := 0
		for {
			if _, err := ms[1].Next(nil); err != nil {
				read <- n
				return
			}
			n++
		}
	}()
	var err error
	sent := 0
	for ; err == nil && sent < 100000; sent++ {
		err = ms[0].Publish(make([]byte, 1000))
	}
	if !errors.Is(err, collective.ErrLag) {
		t.Errorf("after %d records: %v", sent, err)
	}
	t.Logf("%d records sent, %d read by the fast one", sent-1, <-read)
	if err := ms[0].Publish(nil); !errors.Is(err, collective.ErrAborted) {
		t.Errorf("afterwards: %v", err)
	}
}

func plansEnd(t *testing.T, open Open) {
	ms := open(t, 3, Patient)
	defer CloseAll(t, ms)
	time.AfterFunc(20*time.Millisecond, func() { ms[0].Abort("enough") })
	for i, err := range Each(ms[1:], func(m collective.Member) error { _, err := m.Next(nil); return err }) {
		var a *collective.AbortError
		if !errors.As(err, &a) || a.Rank != 0 || a.Reason != "enough" {
			t.Errorf("rank %d: %v", i+1, err)
		}
	}
}
