package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// run converses until the input ends, /exit or the context's end. On a
// terminal lines are edited and ctrl-C ends an answer only.
func (t *talk) run(ctx context.Context, in, out *os.File) error {
	if !isTerminal(in) || !isTerminal(out) {
		return t.lines(ctx, in, out)
	}
	old, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer func() { _ = term.Restore(int(in.Fd()), old) }() // nobody is left to tell
	k := newKeys(ctx, in)
	screen := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{k, out}, "")
	if w, h, err := term.GetSize(int(out.Fd())); err == nil && w > 0 && h > 0 {
		_ = screen.SetSize(w, h) // fails for sizes below 1 only
	}
	fmt.Fprintf(screen, "Talking to %s. /help lists commands, ctrl-D leaves.\n", t.voice)
	for {
		screen.SetPrompt(t.voice + "> ")
		line, err := screen.ReadLine()
		if err != nil && !errors.Is(err, term.ErrPasteIndicator) {
			if errors.Is(err, io.EOF) {
				fmt.Fprint(out, "\r\n")
				return nil
			}
			return err
		}
		answering, end := k.answering()
		leave := t.turn(answering, line, cleaner{screen})
		end()
		if leave || ctx.Err() != nil {
			return nil
		}
	}
}

// lines converses with a pipe.
func (t *talk) lines(ctx context.Context, in io.Reader, out io.Writer) error {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, maxPrompt)
	for sc.Scan() {
		if t.turn(ctx, sc.Text(), out) || ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return sc.Err()
}

// keys is the keyboard. A raw terminal sends ctrl-C as a byte: while an answer
// runs it ends that, else it clears the line.
type keys struct {
	ctx   context.Context
	bytes chan byte
	err   error // set before bytes is closed

	mu     sync.Mutex
	cancel context.CancelFunc // of the running answer
}

const (
	ctrlC = 0x03
	ctrlU = 0x15
)

// newKeys reads in until it ends. Its goroutine outlives ctx by one key: a
// read from a terminal cannot be called off.
func newKeys(ctx context.Context, in io.Reader) *keys {
	k := &keys{ctx: ctx, bytes: make(chan byte, 4096)}
	go k.pump(in)
	return k
}

func (k *keys) pump(in io.Reader) {
	defer close(k.bytes)
	buf := make([]byte, 256)
	for {
		n, err := in.Read(buf)
		for _, b := range buf[:n] {
			if b == ctrlC {
				if k.interrupt() {
					continue
				}
				b = ctrlU
			}
			select {
			case k.bytes <- b:
			case <-k.ctx.Done():
				return
			}
		}
		if err != nil {
			k.err = err
			return
		}
	}
}

// interrupt ends the running answer, if there is one.
func (k *keys) interrupt() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cancel == nil {
		return false
	}
	k.cancel()
	return true
}

// answering makes ctrl-C end the returned context, until end is called.
func (k *keys) answering() (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancel(k.ctx)
	k.mu.Lock()
	k.cancel = cancel
	k.mu.Unlock()
	return ctx, func() {
		k.mu.Lock()
		k.cancel = nil
		k.mu.Unlock()
		cancel()
	}
}

// Read waits for at least one key.
func (k *keys) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case b, ok := <-k.bytes:
		if !ok {
			return 0, k.err
		}
		p[0] = b
	case <-k.ctx.Done():
		return 0, io.EOF
	}
	n := 1
	for ; n < len(p); n++ {
		select {
		case b, ok := <-k.bytes:
			if !ok {
				return n, nil
			}
			p[n] = b
		default:
			return n, nil
		}
	}
	return n, nil
}
