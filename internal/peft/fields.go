package peft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
)

// fields is a JSON object whose members are read by name and type. It keeps
// the first error, with the member's path. null counts as absent.
type fields struct {
	names []string // in file order
	raw   map[string]json.RawMessage
	err   error
}

// parseFields splits an object into its members; a name given twice, nesting
// errors and text behind are ErrConfig.
func parseFields(b []byte) (*fields, error) {
	f := &fields{raw: map[string]json.RawMessage{}}
	dec := json.NewDecoder(bytes.NewReader(b))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, fmt.Errorf("%w: not a JSON object", ErrConfig)
	}
	for dec.More() {
		tok, err := dec.Token()
		name, ok := tok.(string)
		if err != nil || !ok {
			return nil, fmt.Errorf("%w: byte %d: not a member's name", ErrConfig, dec.InputOffset())
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrConfig, path(name), err)
		}
		if _, dup := f.raw[name]; dup {
			return nil, fmt.Errorf("%w: %s: appears twice", ErrConfig, path(name))
		}
		f.names = append(f.names, name)
		f.raw[name] = v
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("%w: byte %d: %v", ErrConfig, dec.InputOffset(), err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: text after the object", ErrConfig)
	}
	return f, nil
}

// path makes a foreign member name fit for an error.
func path(name string) string {
	if len(name) > maxName {
		return name[:maxName] + "…"
	}
	return name
}

func (f *fields) fail(where, what string) {
	if f.err == nil {
		f.err = fmt.Errorf("%w: %s: %s", ErrConfig, path(where), what)
	}
}

// wrong reports a value of the wrong type.
func (f *fields) wrong(where string, raw json.RawMessage, want string) {
	shown := string(raw[:min(len(raw), 40)])
	f.fail(where, fmt.Sprintf("is %s, want %s", shown, want))
}

// present reports whether the member is there and not null.
func (f *fields) present(name string) bool {
	raw, ok := f.raw[name]
	return ok && string(raw) != "null"
}

func (f *fields) str(name, fallback string) string {
	if !f.present(name) {
		return fallback
	}
	return f.stringAt(name, f.raw[name])
}

func (f *fields) stringAt(where string, raw json.RawMessage) string {
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		f.wrong(where, raw, "a string")
	}
	return s
}

func (f *fields) boolean(name string) bool {
	if !f.present(name) {
		return false
	}
	switch raw := f.raw[name]; string(raw) {
	case "true":
		return true
	case "false":
	default:
		f.wrong(name, raw, "true or false")
	}
	return false
}

// integer reads a number that must be present unless the member is absent.
func (f *fields) integer(name string, fallback int) int {
	raw, ok := f.raw[name]
	if !ok {
		return fallback
	}
	return f.integerAt(name, raw)
}

func (f *fields) integerAt(where string, raw json.RawMessage) int {
	n, err := strconv.Atoi(string(raw))
	if err != nil {
		f.wrong(where, raw, "an integer")
	}
	return n
}

func (f *fields) number(name string, fallback float64) float64 {
	raw, ok := f.raw[name]
	if !ok {
		return fallback
	}
	return f.numberAt(name, raw)
}

func (f *fields) numberAt(where string, raw json.RawMessage) float64 {
	// The decoder has checked the grammar, so only numbers start like this.
	if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		f.wrong(where, raw, "a number")
		return 0
	}
	v, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.IsInf(v, 0) {
		f.wrong(where, raw, "a finite number")
	}
	return v
}

// integers reads an integer or a list of them.
func (f *fields) integers(name string) []int {
	if !f.present(name) {
		return nil
	}
	if raw := f.raw[name]; raw[0] != '[' {
		return []int{f.integerAt(name, raw)}
	}
	var out []int
	for i, raw := range f.elements(name) {
		out = append(out, f.integerAt(fmt.Sprintf("%s[%d]", name, i), raw))
	}
	return out
}

// strs reads a string or a list of them; the empty string is no element.
func (f *fields) strs(name string) []string {
	if !f.present(name) {
		return nil
	}
	if raw := f.raw[name]; raw[0] != '[' {
		if s := f.stringAt(name, raw); s != "" {
			return []string{s}
		}
		return nil
	}
	var out []string
	for i, raw := range f.elements(name) {
		out = append(out, f.stringAt(fmt.Sprintf("%s[%d]", name, i), raw))
	}
	return out
}

func (f *fields) elements(name string) []json.RawMessage {
	var list []json.RawMessage
	if err := json.Unmarshal(f.raw[name], &list); err != nil {
		f.wrong(name, f.raw[name], "a list")
	}
	return list
}

// selector reads a list of names or a regular expression.
func (f *fields) selector(name string) Selector {
	if !f.present(name) {
		return Selector{}
	}
	if f.raw[name][0] == '"' {
		return Selector{Regexp: f.str(name, "")}
	}
	if f.raw[name][0] != '[' {
		f.wrong(name, f.raw[name], "a string or a list of strings")
		return Selector{}
	}
	return Selector{List: f.strs(name)}
}

// rules reads an object of patterns and numbers, in file order.
func (f *fields) rules(name string, ranks bool) []Rule {
	if !f.present(name) {
		return nil
	}
	obj, err := parseFields(f.raw[name])
	if err != nil {
		f.wrong(name, f.raw[name], "an object with each name once")
		return nil
	}
	var out []Rule
	for _, key := range obj.names {
		where := fmt.Sprintf("%s[%s]", name, quote(key))
		r := Rule{Key: key}
		if ranks {
			n := f.integerAt(where, obj.raw[key])
			if n <= 0 {
				f.wrong(where, obj.raw[key], "a positive integer")
			}
			r.Value = float64(n)
		} else {
			r.Value = f.numberAt(where, obj.raw[key])
		}
		out = append(out, r)
	}
	return out
}

// truthy reports whether a value is set: not absent, null, false, 0, "" or [].
func truthy(raw json.RawMessage) bool {
	switch s := string(raw); {
	case s == "", s == "null", s == "false", s == `""`:
		return false
	case s[0] == '[':
		return len(bytes.Trim(raw, "[] \t\r\n")) > 0
	case s[0] == '-' || s[0] >= '0' && s[0] <= '9':
		v, err := strconv.ParseFloat(s, 64)
		return err != nil || v != 0
	}
	return true
}
