package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
)

// The head of a bbolt file: two meta pages, at 0 and behind one page; the valid
// one of the later transaction counts. Numbers are in the machine's order.
const (
	metaAt       = 16 // behind the page's header
	metaBytes    = 64
	metaMagic    = 0xED0CDAED
	metaPageSize = 8  // uint32
	metaPages    = 40 // uint64, one more than the last page in use
	metaTx       = 48 // uint64
	metaSum      = 56 // uint64, FNV-1a of what stands before
)

// checkSize refuses a registry that lost its end: bbolt maps the file, and a
// read behind its end would kill the process. What is no registry at all bbolt
// says itself.
func checkSize(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return classify("open", path, err)
	}
	defer f.Close()
	need, ok := usedBytes(f)
	st, err := f.Stat() // after the head: another process may be at work
	if err != nil {
		return classify("open", path, err)
	}
	if size := st.Size(); size > 0 && (!ok || uint64(size) < need) {
		return fmt.Errorf("store: open %s: %w: %d bytes are not all of it", path, ErrCorrupt, size)
	}
	return nil
}

// usedBytes reads how long the file must be; false when no meta page is valid.
func usedBytes(f io.ReaderAt) (need uint64, ok bool) {
	var latest uint64
	// Where the second is depends on the page size; as the first, which tells it,
	// may be broken, all sizes are tried, as bbolt does.
	for _, at := range metaOffsets() {
		var b [metaBytes]byte
		if _, err := f.ReadAt(b[:], at+metaAt); err != nil || !validMeta(b[:]) {
			continue
		}
		n := binary.NativeEndian
		if tx := n.Uint64(b[metaTx:]); !ok || tx >= latest {
			latest, ok = tx, true
			need = n.Uint64(b[metaPages:]) * uint64(n.Uint32(b[metaPageSize:]))
		}
	}
	return need, ok
}

func metaOffsets() []int64 {
	out := []int64{0}
	for size := int64(1 << 10); size <= 1<<16; size <<= 1 {
		out = append(out, size)
	}
	return out
}

func validMeta(b []byte) bool {
	if binary.NativeEndian.Uint32(b) != metaMagic {
		return false
	}
	h := fnv.New64a()
	h.Write(b[:metaSum])
	return h.Sum64() == binary.NativeEndian.Uint64(b[metaSum:])
}
