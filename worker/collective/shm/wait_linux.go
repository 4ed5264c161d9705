package shm

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"chorale/worker/collective"
)

const (
	futexWait, futexWake = 0, 1
	// nap is the longest sleep: a bell that was not rung because its ringer
	// died in between costs this much.
	nap = 50 * time.Millisecond
	// alone is how long to spin before offering the core to others: the one
	// waited for may sit on the same.
	alone = 5 * time.Microsecond
)

// awaited says what a wait is for: *word >= want.
type awaited struct {
	word  *atomic.Uint64
	want  uint64
	bell  *atomic.Uint32 // the waiter's own
	mark  uint32         // what the bell says meanwhile
	spin  time.Duration
	limit time.Duration // 0: none
}

// verdict is how a wait ended.
type verdict uint8

const (
	arrived verdict = iota
	over
	late
)

// await waits until the word is there, the group is over, or it is too late.
// What has arrived counts even when the group is over.
func (s *segment) await(a awaited) verdict {
	if a.word.Load() >= a.want {
		return arrived
	}
	state := s.word(atState)
	start := time.Now()
	for i := 1; a.spin > 0; i++ {
		pause()
		if a.word.Load() >= a.want {
			return arrived
		}
		if i%16 != 0 {
			continue
		}
		spun := time.Since(start)
		if state.Load() != 0 || spun > a.spin {
			break
		}
		if spun > alone {
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
	for {
		a.bell.Store(a.mark)
		done, ended := a.word.Load() >= a.want, state.Load() != 0
		if !done && !ended {
			sleep(a.bell, a.mark, nap)
			done, ended = a.word.Load() >= a.want, state.Load() != 0
		}
		if done || ended || a.limit > 0 && time.Since(start) > a.limit {
			a.bell.Store(0)
		}
		switch {
		case done || ended && a.word.Load() >= a.want:
			return arrived
		case ended:
			return over
		case a.limit > 0 && time.Since(start) > a.limit:
			return late
		}
	}
}

// sleep sleeps while the bell says mark, but no longer than a while.
func sleep(bell *atomic.Uint32, mark uint32, while time.Duration) {
	t := unix.NsecToTimespec(int64(while))
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(bell)), futexWait, uintptr(mark), uintptr(unsafe.Pointer(&t)), 0, 0)
}

// ringBell wakes a bell's owner if it waits for mark.
func ringBell(bell *atomic.Uint32, mark uint32) {
	if bell.Load() == mark && bell.CompareAndSwap(mark, 0) {
		wake(bell)
	}
}

// wake does not block, so the runtime need not know of it.
func wake(bell *atomic.Uint32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(bell)), futexWake, 1<<30, 0, 0, 0)
}

// ringAll wakes everybody, whatever they wait for.
func (s *segment) ringAll() {
	for r := range s.ranks {
		for _, at := range []int{atBell, atPlanBell} {
			if bell := s.half(s.of(r, at)); bell.Swap(0) != 0 {
				wake(bell)
			}
		}
	}
}

// States of the group's end: the first to come writes who and why.
const (
	writing   = 1 << 32
	endedBase = 2 << 32 // plus the rank at fault
)

// end ends the group by the fault of a rank; only the first one counts.
func (s *segment) end(rank int, reason string) {
	state := s.word(atState)
	if !state.CompareAndSwap(0, writing) {
		return
	}
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	copy(s.mem[atReason+8:], reason)
	s.word(atReason).Store(uint64(len(reason)))
	state.Store(endedBase + uint64(rank))
	s.ringAll()
}

// ended tells who ended the group and why, or nil.
func (s *segment) ended() *collective.AbortError {
	state := s.word(atState)
	v := state.Load()
	if v == 0 {
		return nil
	}
	for i := 0; v == writing; i++ {
		if i > 100 { // its writer died
			return &collective.AbortError{Rank: -1, Reason: "a rank died while it ended the group"}
		}
		time.Sleep(100 * time.Microsecond)
		v = state.Load()
	}
	n := min(s.word(atReason).Load(), maxReason)
	return &collective.AbortError{Rank: int(v - endedBase), Reason: string(s.mem[atReason+8 : atReason+8+int(n)])}
}

// spinFor chooses how long to spin. With a core for each rank it is longer than
// a sleep and a wake take: else two ranks that once slept would take turns
// sleeping for ever. With fewer it is not at all, for a rank would keep the core
// from the one it waits for.
func spinFor(set, long time.Duration, ranks int) time.Duration {
	switch {
	case set < 0:
		return 0
	case set > 0:
		return set
	case runtime.NumCPU() >= ranks:
		return long
	}
	return 0
}

func blameLate(what string, after time.Duration) string {
	return fmt.Sprintf("did not arrive at %s within %v", what, after)
}
