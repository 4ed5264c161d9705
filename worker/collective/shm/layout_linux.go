package shm

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"chorale/worker/collective"
)

const (
	magic     = 0x43485352_00000001 // "CHSR", version of the layout
	headBytes = 4096
	rankBytes = 512
	ring      = 4       // slots per rank
	slotBytes = 1 << 18 // a piece
	maxRanks  = 1024
	maxReason = 512
)

// Offsets in the head. Words that different ranks write are cache lines apart.
const (
	atMagic, atRanks, atPlanBytes = 0, 8, 16
	atState                       = 64  // 0, or who ended the group
	atReason                      = 128 // length, then text
	atPlanHead                    = 1024
)

// Offsets in a rank's block.
const (
	atPut, atSummed, atTaken = 0, 8, 16
	atSign                   = 32 // what was called, for each slot of the ring
	atBell, atPlanBell       = 128, 132
	atBeat                   = 256
	atPlanTail               = 384
)

// segment is the mapped memory.
type segment struct {
	mem       []byte
	ranks     int
	planBytes int
}

func sizeOf(ranks, planBytes int) int {
	return headBytes + ranks*(rankBytes+ring*slotBytes) + planBytes
}

// Create makes the memory of a group of the given number of ranks. The file has
// no name: it lives as long as descriptors and mappings of it do.
func Create(ranks int, o collective.Options) (*os.File, error) {
	o = o.Fill()
	if ranks < 1 || ranks > maxRanks {
		return nil, fmt.Errorf("shm: %d ranks: %w", ranks, collective.ErrShape)
	}
	plan := (o.PlanBytes + 4095) &^ 4095
	fd, err := unix.MemfdCreate("chorale", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("shm: shared memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "chorale")
	if err := prepare(f, ranks, plan); err != nil {
		f.Close()
		return nil, fmt.Errorf("shm: shared memory: %w", err)
	}
	return f, nil
}

// prepare sets the size for good, so that nobody's mapping can be cut off, and
// takes the memory now rather than with SIGBUS in a step.
func prepare(f *os.File, ranks, plan int) error {
	size := int64(sizeOf(ranks, plan))
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return err
	}
	var head [24]byte
	binary.NativeEndian.PutUint64(head[atMagic:], magic)
	binary.NativeEndian.PutUint64(head[atRanks:], uint64(ranks))
	binary.NativeEndian.PutUint64(head[atPlanBytes:], uint64(plan))
	_, err := f.WriteAt(head[:], 0)
	return err
}

// attach maps the memory.
func attach(f *os.File) (*segment, error) {
	var head [24]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("shm: shared memory: %w", err)
	}
	s := &segment{
		ranks:     int(binary.NativeEndian.Uint64(head[atRanks:])),
		planBytes: int(binary.NativeEndian.Uint64(head[atPlanBytes:])),
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("shm: shared memory: %w", err)
	}
	if m := binary.NativeEndian.Uint64(head[atMagic:]); m != magic || s.ranks < 1 || s.ranks > maxRanks || s.planBytes < 0 || info.Size() != int64(sizeOf(s.ranks, s.planBytes)) {
		return nil, fmt.Errorf("shm: this is no group's memory, or another version's: %w", collective.ErrUnsupported)
	}
	s.mem, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("shm: mapping %d MiB: %w", info.Size()>>20, err)
	}
	return s, nil
}

func (s *segment) word(at int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&s.mem[at]))
}

func (s *segment) half(at int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&s.mem[at]))
}

// of gives the place of a rank's word.
func (s *segment) of(rank, at int) int { return headBytes + rank*rankBytes + at }

func (s *segment) plan() []byte {
	at := headBytes + s.ranks*rankBytes
	return s.mem[at : at+s.planBytes]
}

// slot is where a rank puts a piece.
func (s *segment) slot(rank int, piece uint64) []byte {
	at := headBytes + s.ranks*rankBytes + s.planBytes + (rank*ring+int(piece%ring))*slotBytes
	return s.mem[at : at+slotBytes : at+slotBytes]
}

func floats(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(b)/4)
}
