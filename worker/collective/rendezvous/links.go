package rendezvous

import "io"

// Watch calls gone, once per link, when the process at its other end has gone.
// It is called by goroutines that end with Close.
func (l *Links) Watch(gone func(rank int)) {
	for rank, c := range l.Conns {
		if c == nil {
			continue
		}
		l.all.Add(1)
		go func() {
			defer l.all.Done()
			_, _ = io.Copy(io.Discard, c) // until it is closed, here or there
			l.mu.Lock()
			mine := l.closed
			l.mu.Unlock()
			if !mine {
				gone(rank)
			}
		}()
	}
}

// Close closes all links.
func (l *Links) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	for _, c := range l.Conns {
		if c != nil {
			c.Close()
		}
	}
	l.all.Wait()
}
