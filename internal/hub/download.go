package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const copyBuffer = 256 << 10

// download brings the blob of m to its place in the cache, verified. progress
// gets the bytes on disk so far.
func (c *Client) download(ctx context.Context, d repoDir, fileURL string, m meta, progress func(int64)) error {
	blob := d.blob(m.etag)
	if present(blob, m.size) {
		return nil
	}
	unlock, err := lockFile(ctx, d.lock(m.etag))
	if err != nil {
		return err
	}
	defer unlock()
	if present(blob, m.size) { // another process was faster
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(blob), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(blob+".incomplete", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.fill(ctx, f, fileURL, m, progress); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), blob); err != nil {
		return err
	}
	return syncDir(filepath.Dir(blob))
}

// fill completes f and verifies it. What an earlier run left is kept and
// continued; if the whole then fails the check, the leftover may be to blame,
// and it is fetched once more from the start.
func (c *Client) fill(ctx context.Context, f *os.File, fileURL string, m meta, progress func(int64)) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	leftover := st.Size() > 0
	for {
		if err := c.transferAll(ctx, f, fileURL, m.size, progress); err != nil {
			return err
		}
		err := verify(f, m)
		if err == nil {
			return nil
		}
		if terr := f.Truncate(0); terr != nil || !leftover || !errors.Is(err, ErrChecksum) {
			return errors.Join(err, terr)
		}
		leftover = false
	}
}

// transferAll repeats transfer as long as the file grows.
func (c *Client) transferAll(ctx context.Context, f *os.File, fileURL string, size int64, progress func(int64)) error {
	furthest := int64(-1)
	return c.retry(ctx, func() (bool, error) {
		at, err := c.transfer(ctx, f, fileURL, size, progress)
		grew := at > furthest && furthest >= 0
		furthest = max(furthest, at)
		return grew, err
	})
}

// transfer requests what f lacks and appends it. It returns f's length after.
func (c *Client) transfer(ctx context.Context, f *os.File, fileURL string, size int64, progress func(int64)) (int64, error) {
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if at > size {
		if at, err = rewind(f); err != nil {
			return 0, err
		}
	}
	progress(at)
	if at == size {
		return at, nil
	}
	h := http.Header{}
	if at > 0 {
		h.Set("Range", "bytes="+strconv.FormatInt(at, 10)+"-")
	}
	resp, done, err := c.do(ctx, http.MethodGet, fileURL, h, followAll)
	if err != nil {
		return at, err
	}
	defer done()
	switch {
	case resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(
		resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", at)):
	case resp.StatusCode == http.StatusOK: // the server ignored Range, or there was none
		if at, err = rewind(f); err != nil {
			return 0, err
		}
	case resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		_, err := rewind(f)
		return 0, errors.Join(err, fmt.Errorf("%w: range refused: %s %q", ErrNetwork,
			resp.Status, resp.Header.Get("Content-Range")))
	default:
		return at, statusError(resp)
	}
	return c.receive(ctx, f, at, size, resp, progress)
}

// receive appends the answer's body to f, which is at bytes long, up to size.
func (c *Client) receive(ctx context.Context, f *os.File, at, size int64, resp *http.Response, progress func(int64)) (int64, error) {
	buf := make([]byte, min(copyBuffer, size-at+1))
	for {
		n, err := resp.Body.Read(buf)
		if at+int64(n) > size {
			_, rerr := rewind(f)
			return 0, errors.Join(fmt.Errorf("%w: more than the announced %d bytes", ErrProtocol, size), rerr)
		}
		if _, werr := f.Write(buf[:n]); werr != nil {
			return at, werr // names the path; a full disk ends here
		}
		if at += int64(n); n > 0 {
			progress(at)
		}
		switch {
		case err == io.EOF && at < size:
			return at, fmt.Errorf("%w: ended after %d of %d bytes", ErrNetwork, at, size)
		case err == io.EOF:
			return at, nil
		case err != nil:
			return at, readError(ctx, resp.Request.Context(), err)
		}
	}
}

func rewind(f *os.File) (int64, error) {
	if err := f.Truncate(0); err != nil {
		return 0, err
	}
	return f.Seek(0, io.SeekStart)
}

// verify reads f from disk and compares it with what its etag promises: 64 hex
// digits are a SHA-256, 40 a git blob's SHA-1. Other etags (of servers that
// only resemble the hub) promise nothing but the size.
func verify(f *os.File, m meta) error {
	var h hash.Hash
	switch {
	case isHex(m.etag, 64):
		h = sha256.New()
	case isHex(m.etag, 40):
		h = sha1.New()
		fmt.Fprintf(h, "blob %d\x00", m.size)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if h == nil {
		return nil
	}
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != m.etag {
		return fmt.Errorf("%w: announced %s, received %s", ErrChecksum, m.etag, got)
	}
	return nil
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
