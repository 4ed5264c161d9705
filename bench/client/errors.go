package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

var (
	// ErrUnreachable marks a server that nobody listens for.
	ErrUnreachable = errors.New("no server answers")
	// ErrServer is the option of a server that is not an http or https URL.
	ErrServer = errors.New("not a server's URL")
	// ErrAnswer marks an answer that does not follow the API.
	ErrAnswer = errors.New("unexpected answer")
)

// UnreachableError tells which server did not answer, and why.
type UnreachableError struct {
	Server string
	Err    error
}

// Error returns "no server answers at URL: why".
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%v at %s: %v", ErrUnreachable, e.Server, e.Err)
}

// Unwrap returns ErrUnreachable and the cause.
func (e *UnreachableError) Unwrap() []error { return []error{ErrUnreachable, e.Err} }

// StatusError is a server's refusal.
type StatusError struct {
	// Method and Path of the request.
	Method, Path string
	// Status is the HTTP status, or the in-band code of a Streamed error (0 when
	// the stream gave none).
	Status int
	// Message is the server's own text.
	Message string
	// Streamed is true when the answer had begun before it failed.
	Streamed bool
}

// Error returns the server's message with status and route.
func (e *StatusError) Error() string {
	where := fmt.Sprintf("%s %s", e.Method, e.Path)
	switch {
	case e.Streamed:
		return fmt.Sprintf("%s: the answer broke off: %s", where, e.Message)
	case e.Message == "":
		return fmt.Sprintf("%s: HTTP %d %s", where, e.Status, http.StatusText(e.Status))
	default:
		return fmt.Sprintf("%s (HTTP %d on %s)", e.Message, e.Status, where)
	}
}

// maxShown bounds how much of a body that is not JSON an error repeats.
const maxShown = 500

// message finds the text in an error body: Chorale's and Google's
// {"message"}, OpenAI's, SGLang's and llama.cpp's {"error":{"message"}},
// {"error":"…"} and FastAPI's {"detail"}; else the body itself.
func message(body []byte) string {
	var m struct {
		Message string          `json:"message"`
		Error   json.RawMessage `json:"error"`
		Detail  json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(body, &m) == nil {
		for _, raw := range []json.RawMessage{m.Error, m.Detail} {
			if s := text(raw); s != "" {
				return s
			}
		}
		if m.Message != "" {
			return m.Message
		}
	}
	s := strings.TrimSpace(strings.ToValidUTF8(string(body), "�"))
	if r := []rune(s); len(r) > maxShown {
		s = string(r[:maxShown]) + "…"
	}
	return s
}

// text is a JSON string, or the message of a JSON object.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var o struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(raw, &o) == nil && o.Message != "" {
		return o.Message
	}
	if s := strings.TrimSpace(string(raw)); s != "" && s != "null" {
		return s
	}
	return ""
}

// streamError finds an in-band error: {"error":{"message","code"}}.
func streamError(method, path string, data []byte) *StatusError {
	if !strings.Contains(string(data), `"error"`) {
		return nil
	}
	var m struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(data, &m) != nil || len(m.Error) == 0 || string(m.Error) == "null" {
		return nil
	}
	var code struct {
		Code int `json:"code"`
	}
	_ = json.Unmarshal(m.Error, &code) // a code that is no number stays 0
	return &StatusError{Method: method, Path: path, Status: code.Code, Message: text(m.Error), Streamed: true}
}

// reach turns a failed dial into an UnreachableError.
func (c *Client) reach(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return &UnreachableError{Server: c.base.String(), Err: op.Err}
	}
	return err
}
