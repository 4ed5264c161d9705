package rest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap"

	"chorale/services/rest/face"
	"chorale/services/status"
)

// outer is what happens to every request: an id, limits, recovery, a log line.
type outer struct {
	next    *dispatcher
	origins *origins
	o       *Options
}

// ServeHTTP serves one request.
func (h *outer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	id := requestID(r)
	w.Header().Set(face.RequestIDHeader, id)
	r.Header.Set(face.RequestIDHeader, id) // answers are called by it
	rec := &recorder{ResponseWriter: w, ctl: http.NewResponseController(w), timeout: h.o.WriteTimeout}
	defer h.logRequest(rec, r, id, start)
	defer h.recovered(rec, r, id)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = h.bounded(rec, w, r)
	}
	rt := h.next.find(r.URL.Path)
	done, err := h.origins.check(rec, r, rt)
	if err == nil && !done {
		err = plain(r)
	}
	switch {
	case err != nil:
		status.Write(rec, rt.shaped(), err)
	case !done:
		h.next.serve(rec, r, rt)
	}
}

// plain refuses compressed bodies by name, lest they be called broken JSON.
func plain(r *http.Request) error {
	enc := r.Header.Get("Content-Encoding")
	if enc == "" || strings.EqualFold(enc, "identity") {
		return nil
	}
	return status.Invalid("body", "must be sent plain, not with Content-Encoding %q", enc)
}

// bounded limits a body's bytes and the time that it may take. Uploads may take
// long as long as they move; the adapter manager bounds their bytes.
func (h *outer) bounded(rec *recorder, w http.ResponseWriter, r *http.Request) io.ReadCloser {
	b := &timedBody{ReadCloser: r.Body, ctl: rec.ctl, timeout: h.o.ReadTimeout}
	if r.URL.Path == uploadPath {
		b.each = true
		return b
	}
	b.ReadCloser = http.MaxBytesReader(w, r.Body, h.o.MaxBody)
	return b
}

func (h *outer) recovered(rec *recorder, r *http.Request, id string) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	h.o.Log.Error("panic", zap.String("id", id), zap.String("path", r.URL.Path),
		zap.Any("value", v), zap.ByteString("stack", debug.Stack()))
	if rec.code != 0 {
		// Half an answer is out: only cutting the connection tells the client.
		panic(http.ErrAbortHandler)
	}
	status.Write(rec, h.next.find(r.URL.Path).shaped(), fmt.Errorf("%w, id %s", status.ErrPanic, id))
}

// quiet are paths that are asked every few seconds by machines.
var quiet = map[string]bool{"/health": true, "/metrics": true, "/ping": true}

func (h *outer) logRequest(rec *recorder, r *http.Request, id string, start time.Time) {
	level, code := zap.InfoLevel, rec.code
	if quiet[r.URL.Path] {
		level = zap.DebugLevel
	}
	switch {
	case r.Context().Err() != nil && errors.Is(context.Cause(r.Context()), context.Canceled) && code < 400:
		code = 499 // the client went away
	case code == 0:
		code = http.StatusOK
	}
	if ce := h.o.Log.Check(level, "request"); ce != nil {
		ce.Write(zap.String("id", id), zap.String("method", r.Method), zap.String("path", r.URL.Path),
			zap.Int("status", code), zap.Int64("bytes", rec.bytes),
			zap.Duration("took", time.Since(start)), zap.String("remote", r.RemoteAddr))
	}
}

// requestID takes the client's id when it is fit for logs and headers.
func requestID(r *http.Request) string {
	const most = 128
	id := r.Header.Get(face.RequestIDHeader)
	bad := func(c rune) bool { return c <= ' ' || c > '~' }
	if id == "" || len(id) > most || strings.ContainsFunc(id, bad) {
		return strings.ToLower(rand.Text())
	}
	return id
}

// recorder counts what is written and gives each write its own deadline, so
// that a client that stopped reading is cut off while streams go on for as
// long as they like.
type recorder struct {
	http.ResponseWriter
	ctl     *http.ResponseController
	timeout time.Duration
	code    int
	bytes   int64
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader sends the status.
func (r *recorder) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

// Write writes a piece of the body.
func (r *recorder) Write(p []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	r.deadline()
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// Flush sends what is buffered.
func (r *recorder) Flush() { _ = r.FlushError() }

// FlushError sends what is buffered and tells whether that worked.
func (r *recorder) FlushError() error {
	r.deadline()
	return r.ctl.Flush()
}

// deadline is set anew for each write. Writers that know no deadlines (tests)
// have none.
func (r *recorder) deadline() { _ = r.ctl.SetWriteDeadline(time.Now().Add(r.timeout)) }

// timedBody bounds the time that a body may take. The bound is lifted at its
// end: a deadline that passed later would look like a client that went away.
type timedBody struct {
	io.ReadCloser
	ctl     *http.ResponseController
	timeout time.Duration
	// each gives every read the whole time.
	each  bool
	begun bool
}

// Read reads a piece of the body.
func (b *timedBody) Read(p []byte) (int, error) {
	if !b.begun || b.each {
		b.begun = true
		_ = b.ctl.SetReadDeadline(time.Now().Add(b.timeout))
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.ctl.SetReadDeadline(time.Time{})
	}
	return n, err
}
