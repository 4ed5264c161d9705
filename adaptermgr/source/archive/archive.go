// Package archive takes an adapter's files out of a tar, tar.gz or zip that a
// stranger made.
//
// Only files of known names come out, under exactly those names: nothing in an
// archive decides where bytes are written. All the same an archive that holds
// a path out of its root, a link or a device is refused as a whole: nobody
// packs an adapter so. What is unpacked is bounded by bytes and by entries,
// counting also those that are passed over.
package archive

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Errors of this package.
var (
	// ErrFormat marks what is not a whole tar, tar.gz or zip.
	ErrFormat = errors.New("not a tar, tar.gz or zip archive")
	// ErrUnsafe marks entries that lead out of the archive: links, devices, paths
	// with "..".
	ErrUnsafe = errors.New("unsafe archive")
	// ErrTooLarge marks contents beyond the limits.
	ErrTooLarge = errors.New("archive too large")
	// ErrAmbiguous marks more than one adapter, or one file twice.
	ErrAmbiguous = errors.New("ambiguous archive")
)

// Limits bound what comes out.
type Limits struct {
	// Bytes bounds all entries together, unpacked.
	Bytes int64
	// Entries bounds their number; 0: DefaultEntries.
	Entries int
}

const (
	// DefaultEntries is far above what an adapter's folder holds, checkpoints of
	// its training and all.
	DefaultEntries = 10_000
	// maxDirectory bounds the bytes that a zip's directory may take: it is held
	// in memory.
	maxDirectory = 8 << 20
	maxName      = 4096
)

// Extract reads the archive in f, size bytes, and hands the files called names
// to create. They must lie in one folder of the archive, the first in which
// one of them is found. create is called once per file; what it returns is
// closed, also after an error.
func Extract(ctx context.Context, f io.ReaderAt, size int64, names []string, l Limits, create func(name string) (io.WriteCloser, error)) error {
	if l.Entries <= 0 {
		l.Entries = DefaultEntries
	}
	x := &extraction{ctx: ctx, names: names, left: l.Bytes, limits: l, create: create, seen: map[string]bool{}}
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	head = head[:n]
	whole := io.NewSectionReader(f, 0, size)
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return x.zip(f, size)
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return x.gzip(whole)
	case len(head) == 512 && bytes.HasPrefix(head[257:], []byte("ustar")):
		return x.tar(whole)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return fmt.Errorf("%w: zstd is not read", ErrFormat)
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z'}), bytes.HasPrefix(head, []byte("BZh")):
		return fmt.Errorf("%w: xz and bzip2 are not read", ErrFormat)
	}
	return ErrFormat
}

type extraction struct {
	ctx     context.Context
	names   []string
	left    int64 // bytes
	entries int
	limits  Limits
	create  func(string) (io.WriteCloser, error)

	folder string // of the adapter, once a file is found
	seen   map[string]bool
}

// entry is one member of an archive.
type entry struct {
	name string
	mode fs.FileMode
	// link is set for hard links, which have no mode.
	link bool
}

// take decides about an entry: want is the name to unpack it under, empty to
// pass it over.
func (x *extraction) take(e entry) (want string, err error) {
	if err := context.Cause(x.ctx); err != nil {
		return "", err
	}
	if x.entries++; x.entries > x.limits.Entries {
		return "", fmt.Errorf("%w: more than %d entries", ErrTooLarge, x.limits.Entries)
	}
	name := strings.TrimSuffix(strings.TrimPrefix(e.name, "./"), "/")
	switch {
	case len(name) > maxName:
		return "", fmt.Errorf("%w: a name of %d bytes", ErrUnsafe, len(name))
	case e.link || e.mode&fs.ModeSymlink != 0:
		return "", fmt.Errorf("%w: %q is a link", ErrUnsafe, name)
	case !e.mode.IsRegular() && !e.mode.IsDir():
		return "", fmt.Errorf("%w: %q is not a file or a folder", ErrUnsafe, name)
	case name == "" || name == ".":
		return "", nil
	case !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00"):
		return "", fmt.Errorf("%w: path %q", ErrUnsafe, name)
	case e.mode.IsDir() || !slices.Contains(x.names, path.Base(name)):
		return "", nil
	}
	return path.Base(name), x.place(name)
}

// place checks that a wanted file lies beside the others.
func (x *extraction) place(name string) error {
	folder := path.Dir(name)
	if len(x.seen) == 0 {
		x.folder = folder
	}
	if folder != x.folder {
		return fmt.Errorf("%w: %q and %q each hold files of an adapter", ErrAmbiguous, x.folder, folder)
	}
	if x.seen[name] {
		return fmt.Errorf("%w: %q is there twice", ErrAmbiguous, name)
	}
	x.seen[name] = true
	return nil
}

// unpack copies an entry to its file, or nowhere.
func (x *extraction) unpack(want string, r io.Reader) (err error) {
	w := io.Discard
	if want != "" {
		f, err := x.create(want)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		w = f
	}
	buf := make([]byte, 256<<10)
	for {
		if err := context.Cause(x.ctx); err != nil {
			return err
		}
		n, err := r.Read(buf)
		if x.left -= int64(n); x.left < 0 {
			return fmt.Errorf("%w: more than %d bytes unpacked", ErrTooLarge, x.limits.Bytes)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return broken(err)
		}
	}
}

// broken marks an error of a decoder. Those of the file below, which the
// caller opened, are the same to who sent it.
func broken(err error) error { return fmt.Errorf("%w: %w", ErrFormat, err) }

func (x *extraction) gzip(r io.Reader) error {
	z, err := gzip.NewReader(bufio.NewReaderSize(r, 256<<10))
	if err != nil {
		return broken(err)
	}
	if err := x.tar(z); err != nil {
		return err
	}
	// The rest holds the checksum; a tar's end is padded with little.
	return x.unpack("", z)
}

func (x *extraction) tar(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, tar.ErrInsecurePath):
			return fmt.Errorf("%w: path %q", ErrUnsafe, h.Name)
		case err != nil:
			return broken(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		want, err := x.take(entry{h.Name, h.FileInfo().Mode(), h.Typeflag == tar.TypeLink})
		if err == nil {
			err = x.unpack(want, t)
		}
		if err != nil {
			return err
		}
	}
}

func (x *extraction) zip(f io.ReaderAt, size int64) error {
	d := &directory{f: f, left: maxDirectory}
	z, err := zip.NewReader(d, size)
	d.left = -1 // from here on files are read, whose bytes count when unpacked
	switch {
	case errors.Is(err, ErrTooLarge):
		return err
	case errors.Is(err, zip.ErrInsecurePath):
		return fmt.Errorf("%w: %w", ErrUnsafe, err)
	case err != nil:
		return broken(err)
	}
	for _, m := range z.File {
		want, err := x.take(entry{m.Name, m.Mode(), false})
		if err == nil && want != "" {
			err = x.unzip(want, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (x *extraction) unzip(want string, m *zip.File) error {
	if m.Flags&1 != 0 {
		return fmt.Errorf("%w: %q is encrypted", ErrFormat, m.Name)
	}
	r, err := m.Open()
	if err != nil {
		return broken(err)
	}
	defer r.Close()
	return x.unpack(want, r)
}

// directory bounds what is read while a zip's directory is, which is held in
// memory whole.
type directory struct {
	f    io.ReaderAt
	left int64 // negative: no bound
}

// ReadAt reads within the bound.
func (d *directory) ReadAt(p []byte, off int64) (int, error) {
	if d.left >= 0 {
		if d.left -= int64(len(p)); d.left < 0 {
			return 0, fmt.Errorf("%w: its directory has more than %d bytes", ErrTooLarge, maxDirectory)
		}
	}
	return d.f.ReadAt(p, off)
}
