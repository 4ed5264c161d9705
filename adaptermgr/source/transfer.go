package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"chorale/adaptermgr/source/spool"
)

// origin is a server that has an adapter's files. Its errors are this
// package's, temporary where the same request may succeed; a file that is not
// there is ErrNotFound.
type origin interface {
	open(ctx context.Context, q request) (*reply, error)
}

// request asks for a file from a byte on.
type request struct {
	file string
	// from is where to begin, and have what the bytes before it belong to: if the
	// file is no longer that, the answer begins at 0.
	from int64
	have spool.Stamp
	// check asks only whether the file is still what have says.
	check bool
}

// reply is a server's answer.
type reply struct {
	// current answers check: the file is what it was. There is no body then.
	current bool
	body    io.ReadCloser
	from    int64
	stamp   spool.Stamp
}

// transfer brings the files of one source into its slot.
type transfer struct {
	r        *Resolver
	slot     *spool.Slot
	origin   origin
	source   string
	progress *progress
}

// errRange is an origin's word for a file that has no byte from which to go on.
var errRange = fmt.Errorf("%w: it is shorter than what is here", ErrUnavailable)

const maxRetryWait = 10 * time.Second

// get completes a file of the slot, at most limit bytes, which must have the
// SHA-256 want unless that is empty. It goes on where an earlier attempt
// ended, if the server still has the same contents.
func (t *transfer) get(ctx context.Context, file string, limit int64, want string) (err error) {
	defer func() { err = fail(t.source, file, err) }()
	p, err := t.slot.Part(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	for {
		if err := t.complete(ctx, p, file, limit); err != nil {
			return err
		}
		leftover := p.Leftover
		err := verify(p, want)
		if err == nil {
			return nil
		}
		// What an earlier run left may be to blame.
		if rerr := p.Restart(); rerr != nil || !leftover {
			return errors.Join(err, rerr)
		}
	}
}

// complete repeats attempt as long as the file grows.
func (t *transfer) complete(ctx context.Context, p *spool.Part, file string, limit int64) error {
	furthest, failed, wait := p.Size(), 0, t.r.o.RetryWait
	for {
		err := t.attempt(ctx, p, file, limit)
		if err == nil || !isTemporary(err) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if failed++; p.Size() > furthest {
			failed, wait, furthest = 0, t.r.o.RetryWait, p.Size()
		}
		if failed > t.r.o.Retries {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRetryWait)
	}
}

// attempt sends one request and keeps what comes.
func (t *transfer) attempt(ctx context.Context, p *spool.Part, file string, limit int64) error {
	done, err := t.r.transferSlot(ctx)
	if err != nil {
		return err
	}
	defer done()
	w := t.r.watch(ctx)
	defer w.stop()
	rep, err := t.origin.open(w.ctx, request{file, p.Size(), p.Stamp, p.Stamp.Complete})
	if errors.Is(err, errRange) {
		leftover := p.Leftover
		if rerr := p.Restart(); rerr != nil || !leftover {
			return errors.Join(ErrChanged, rerr)
		}
		return temporary{err}
	}
	if err != nil {
		return w.explain(err)
	}
	if rep.current {
		t.progress.set(file, counts{p.Size(), p.Size()})
		return nil
	}
	defer rep.body.Close()
	if err := align(p, rep); err != nil {
		return err
	}
	if p.Stamp.Size > limit {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, p.Stamp.Size, limit)
	}
	return t.receive(w, p, file, rep.body, limit)
}

// align makes the part end where the answer begins.
func align(p *spool.Part, rep *reply) error {
	switch {
	case rep.from == 0:
		if p.Size() > 0 && !p.Leftover && p.Stamp.Validates() && !rep.stamp.Same(p.Stamp) {
			return errors.Join(ErrChanged, p.Restart())
		}
		if err := p.Restart(); err != nil {
			return err
		}
		return p.SetStamp(rep.stamp)
	case rep.from != p.Size():
		return temporary{errors.Join(fmt.Errorf("%w: asked for byte %d on, it sends %d on", ErrUnavailable, p.Size(), rep.from), p.Restart())}
	case rep.stamp.Validates() && !rep.stamp.Same(p.Stamp):
		return errors.Join(ErrChanged, p.Restart())
	case rep.stamp.Size >= 0 && p.Stamp.Size >= 0 && rep.stamp.Size != p.Stamp.Size:
		return errors.Join(fmt.Errorf("%w: %d bytes, then %d", ErrLength, p.Stamp.Size, rep.stamp.Size), p.Restart())
	}
	return nil
}

// receive appends a body to the part.
func (t *transfer) receive(w *watch, p *spool.Part, file string, body io.Reader, limit int64) error {
	size := p.Stamp.Size
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		w.moved(n)
		switch have := p.Size() + int64(n); {
		case size >= 0 && have > size:
			return errors.Join(fmt.Errorf("%w: more than %d bytes", ErrLength, size), p.Restart())
		case have > limit:
			return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
		}
		if _, werr := p.Write(buf[:n]); werr != nil {
			return werr
		}
		t.progress.set(file, counts{p.Size(), size})
		switch {
		case err == nil:
		case (err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF)) && size >= 0 && p.Size() < size:
			return temporary{fmt.Errorf("%w: it ends after %d of %d bytes", ErrLength, p.Size(), size)}
		case err == io.EOF:
			if cerr := p.Complete(); cerr != nil {
				return cerr
			}
			t.progress.set(file, counts{p.Size(), p.Size()})
			return nil
		default:
			return w.explain(temporary{fmt.Errorf("%w: %w", ErrUnavailable, err)})
		}
	}
}

// verify compares the file with what its server promises and with want.
func verify(p *spool.Part, want string) error {
	promised := p.Stamp.SHA256
	if promised == "" && want == "" {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(p.Reader(), 0, p.Size())); err != nil {
		return err
	}
	got := hex.EncodeToString(h.Sum(nil))
	for _, w := range []string{want, promised} {
		if w != "" && w != got {
			return fmt.Errorf("%w: want sha256 %s, got %s", ErrChecksum, w, got)
		}
	}
	return nil
}

// unchanged asks once more for what has been fetched: files of one adapter
// must be of one moment.
func (t *transfer) unchanged(ctx context.Context, file string) (err error) {
	defer func() { err = fail(t.source, file, err) }()
	p, err := t.slot.Part(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if !p.Stamp.Validates() || !p.Stamp.Complete {
		return nil
	}
	w := t.r.watch(ctx)
	defer w.stop()
	rep, err := t.origin.open(w.ctx, request{file, p.Size(), p.Stamp, true})
	switch {
	case errors.Is(err, ErrNotFound):
		return ErrChanged
	case err != nil:
		return w.explain(err)
	case !rep.current:
		rep.body.Close()
		return ErrChanged
	}
	return nil
}

// watch ends a request on which nothing moves.
type watch struct {
	ctx    context.Context
	parent context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

var errIdle = errors.New("no data arrived in time")

func (r *Resolver) watch(ctx context.Context) *watch {
	w := &watch{parent: ctx, limit: r.o.StallTimeout}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(w.limit, func() { w.cancel(errIdle) })
	return w
}

// moved gives it a fresh limit when bytes came.
func (w *watch) moved(n int) {
	if n > 0 {
		w.timer.Reset(w.limit)
	}
}

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// explain says why a request ended: its caller went, it stalled, or err.
func (w *watch) explain(err error) error {
	switch {
	case w.parent.Err() != nil:
		return context.Cause(w.parent)
	case errors.Is(context.Cause(w.ctx), errIdle):
		return temporary{fmt.Errorf("%w: nothing came for %v", ErrStalled, w.limit)}
	}
	return err
}
