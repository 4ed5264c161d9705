package jsonbody

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// frame is an open array or object while a broken body is searched.
type frame struct {
	array   bool
	index   int
	key     string
	wantKey bool
}

// maxDepth bounds the search; no request of any face nests so deeply.
const maxDepth = 100

// invalidAt finds the first byte that is not UTF-8.
func invalidAt(body []byte) int {
	at := 0
	for at < len(body) {
		r, n := utf8.DecodeRune(body[at:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		at += n
	}
	return at
}

// diagnose says where a body stops being JSON: with the path of the value that
// was being read, because that is what a person looks for.
func diagnose(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return Value{Path: "body"}.Errorf("must be a JSON object, got nothing")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var stack []frame
	for {
		tok, err := dec.Token()
		if err != nil {
			return fault(body, dec.InputOffset(), stack, err)
		}
		if d, ok := tok.(json.Delim); ok && (d == '[' || d == '{') {
			if len(stack) >= maxDepth {
				return Value{Path: "body"}.Errorf("is nested too deeply, at offset %d", dec.InputOffset())
			}
			stack = append(stack, frame{array: d == '[', wantKey: d == '{'})
			continue
		} else if ok {
			stack = stack[:len(stack)-1]
		}
		if len(stack) == 0 {
			// One whole value was read, yet the body is not valid.
			return Value{Path: "body"}.Errorf("has more after its JSON value, at offset %d", dec.InputOffset())
		}
		top := &stack[len(stack)-1]
		switch {
		case top.array:
			top.index++
		case top.wantKey:
			top.key, _ = tok.(string)
			top.wantKey = false
		default:
			top.wantKey = true
		}
	}
}

func fault(body []byte, offset int64, stack []frame, err error) error {
	v := Value{Path: stackPath(stack)}
	rest := bytes.TrimLeft(body[min(offset, int64(len(body))):], " \t\r\n:,")
	for _, word := range []string{"NaN", "Infinity", "-Infinity", "-NaN"} {
		if bytes.HasPrefix(rest, []byte(word)) {
			return v.Errorf("must be a finite number, got %s", word)
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return v.Errorf("is not JSON: it ends too early")
	}
	return v.Errorf("is not JSON: %v, near offset %d", err, offset)
}

func stackPath(stack []frame) string {
	var b strings.Builder
	for _, f := range stack {
		switch {
		case f.array:
			fmt.Fprintf(&b, "[%d]", f.index)
		case !f.wantKey && b.Len() > 0:
			b.WriteString("." + f.key)
		case !f.wantKey:
			b.WriteString(f.key)
		}
	}
	if b.Len() == 0 {
		return "body"
	}
	return b.String()
}
