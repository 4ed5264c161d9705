// Package sse writes server-sent events as OpenAI and SGLang do: one JSON
// object per event, flushed at once, and "data: [DONE]" at the end.
package sse

import (
	"bytes"
	"encoding/json"
	"net/http"
)

// Writer writes events to one response. The status and the headers go out with
// the first event, so that a failure before it can still be a plain answer.
type Writer struct {
	w       http.ResponseWriter
	flush   *http.ResponseController
	buf     bytes.Buffer
	enc     *json.Encoder
	started bool
}

// New makes a writer; nothing is sent yet.
func New(w http.ResponseWriter) *Writer {
	s := &Writer{w: w, flush: http.NewResponseController(w)}
	s.enc = json.NewEncoder(&s.buf)
	s.enc.SetEscapeHTML(false)
	return s
}

// Started tells that something was sent: errors must go into the stream now.
func (s *Writer) Started() bool { return s.started }

// JSON sends one event.
func (s *Writer) JSON(v any) error {
	s.buf.Reset()
	s.buf.WriteString("data: ")
	if err := s.enc.Encode(v); err != nil { // ends with one newline
		return err
	}
	s.buf.WriteByte('\n')
	return s.send()
}

// Done sends the end marker.
func (s *Writer) Done() error {
	s.buf.Reset()
	s.buf.WriteString("data: [DONE]\n\n")
	return s.send()
}

func (s *Writer) send() error {
	if !s.started {
		s.started = true
		h := s.w.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		// nginx would gather events otherwise.
		h.Set("X-Accel-Buffering", "no")
		s.w.WriteHeader(http.StatusOK)
	}
	if _, err := s.w.Write(s.buf.Bytes()); err != nil {
		return err
	}
	return s.flush.Flush()
}
