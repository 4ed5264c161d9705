package jsonbody

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode"
	"unicode/utf16"

	"chorale/services/status"
)

// Kind is a JSON type.
type Kind string

// The kinds, by the names that error messages use.
const (
	Absent Kind = "nothing"
	Null   Kind = "null"
	Bool   Kind = "boolean"
	Number Kind = "number"
	String Kind = "string"
	Array  Kind = "array"
	Struct Kind = "object"
)

// Value is a JSON value and where it stands. The zero Value is absent.
type Value struct {
	Path string
	// Raw is valid JSON, or nil when the value is absent.
	Raw json.RawMessage
}

// Kind tells the value's type by its first byte.
func (v Value) Kind() Kind {
	raw := bytes.TrimLeft(v.Raw, " \t\r\n")
	if len(raw) == 0 {
		return Absent
	}
	switch raw[0] {
	case 'n':
		return Null
	case 't', 'f':
		return Bool
	case '"':
		return String
	case '[':
		return Array
	case '{':
		return Struct
	default:
		return Number
	}
}

// Given tells that the value is there and not null.
func (v Value) Given() bool {
	k := v.Kind()
	return k != Absent && k != Null
}

// Errorf says what is wrong with the value.
func (v Value) Errorf(format string, args ...any) error {
	return status.Invalid(v.Path, format, args...)
}

// want is the error of a value of another type than wanted.
func (v Value) want(what string) error { return v.Errorf("must be %s, got %s", what, v.Kind()) }

// Text gives a string.
func (v Value) Text() (string, error) {
	if v.Kind() != String {
		return "", v.want("a string")
	}
	if half := halfPair(v.Raw); half != "" {
		return "", v.Errorf("holds %s, half of a surrogate pair: that is no character", half)
	}
	var s string
	if err := json.Unmarshal(v.Raw, &s); err != nil {
		return "", v.Errorf("is not a valid string: %v", err)
	}
	return s, nil
}

// halfPair finds an escape like \ud83d that has no other half: encoding/json
// would put U+FFFD in its place, and so answer another prompt.
func halfPair(raw []byte) string {
	for i := 0; i+1 < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		r, ok := unitAt(raw, i)
		i++ // whatever is escaped begins no escape of its own
		if !ok || !utf16.IsSurrogate(r) {
			continue
		}
		low, _ := unitAt(raw, i+5)
		if utf16.DecodeRune(r, low) == unicode.ReplacementChar {
			return string(raw[i-1 : i+5])
		}
		i += 5 // the second escape's backslash
	}
	return ""
}

// unitAt reads the escape \uXXXX that begins at i, if one does.
func unitAt(raw []byte, i int) (rune, bool) {
	if i+6 > len(raw) || raw[i] != '\\' || raw[i+1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(raw[i+2:i+6]), 16, 16)
	return rune(n), err == nil
}

// Bool gives true or false.
func (v Value) Bool() (bool, error) {
	if v.Kind() != Bool {
		return false, v.want("true or false")
	}
	return bytes.TrimLeft(v.Raw, " \t\r\n")[0] == 't', nil
}

// Float gives a finite number.
func (v Value) Float() (float64, error) {
	if v.Kind() != Number {
		return 0, v.want("a number")
	}
	f, err := strconv.ParseFloat(v.number(), 64)
	if err != nil || math.IsInf(f, 0) {
		return 0, v.Errorf("must be a finite number, got %s", clip(v.number()))
	}
	return f, nil
}

// Int gives an integer; 128.0 and 1e3 are integers too.
func (v Value) Int() (int, error) {
	if v.Kind() != Number {
		return 0, v.want("an integer")
	}
	n, err := parseInt(v.number())
	if err != nil {
		return 0, v.Errorf("must be an integer, got %s", clip(v.number()))
	}
	return n, nil
}

// Int32 gives an integer that fits 32 bits.
func (v Value) Int32() (int32, error) {
	n, err := v.Int()
	if err != nil {
		return 0, err
	}
	if n < math.MinInt32 || n > math.MaxInt32 {
		return 0, v.Errorf("must fit into 32 bits, got %d", n)
	}
	return int32(n), nil
}

// Seed gives a 64-bit seed; negative ones are taken by their bits.
func (v Value) Seed() (uint64, error) {
	if v.Kind() == Number {
		if u, err := strconv.ParseUint(v.number(), 10, 64); err == nil {
			return u, nil
		}
	}
	n, err := v.Int()
	return uint64(n), err
}

func (v Value) number() string { return string(bytes.TrimSpace(v.Raw)) }

var errNotInt = errors.New("not an integer")

func parseInt(s string) (int, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return int(n), nil
	}
	// Beyond 2^53 a float no longer says which integer was meant.
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, errNotInt
	}
	return int(f), nil
}

// clip keeps a foreign text short in messages.
func clip(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// Each calls fn with every item of an array, at most limit of them.
func (v Value) Each(limit int, fn func(item Value) error) error {
	if v.Kind() != Array {
		return v.want("an array")
	}
	dec := json.NewDecoder(bytes.NewReader(v.Raw))
	if _, err := dec.Token(); err != nil {
		return v.Errorf("%v", err)
	}
	for i := 0; dec.More(); i++ {
		if i >= limit {
			return v.Errorf("must have at most %d items", limit)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return v.Errorf("%v", err)
		}
		if err := fn(Value{fmt.Sprintf("%s[%d]", v.Path, i), raw}); err != nil {
			return err
		}
	}
	return nil
}

// Items gives the items of an array, at most limit of them.
func (v Value) Items(limit int) ([]Value, error) {
	var out []Value
	err := v.Each(limit, func(item Value) error {
		out = append(out, item)
		return nil
	})
	return out, err
}

// First gives the first item of an array: to tell lists of ids from lists of
// lists. It is absent for an empty array.
func (v Value) First() Value {
	var out Value
	stop := errors.New("stop")
	_ = v.Each(1, func(item Value) error {
		out = item
		return stop
	})
	return out
}

// Strings gives an array of strings.
func (v Value) Strings(limit int) ([]string, error) {
	var out []string
	err := v.Each(limit, func(item Value) error {
		s, err := item.Text()
		out = append(out, s)
		return err
	})
	return out, err
}

// StringOrList gives an array of strings; a single string is one of them.
func (v Value) StringOrList(limit int) ([]string, error) {
	switch v.Kind() {
	case String:
		s, err := v.Text()
		return []string{s}, err
	case Array:
		return v.Strings(limit)
	default:
		return nil, v.want("a string or an array of strings")
	}
}

// Int32s gives an array of integers.
func (v Value) Int32s() ([]int32, error) {
	if v.Kind() != Array {
		return nil, v.want("an array of integers")
	}
	var out []int32
	if err := json.Unmarshal(v.Raw, &out); err == nil && !bytes.Contains(v.Raw, []byte("null")) {
		return out, nil
	}
	// Find which item is wrong (or only written unusually, as 3.0).
	out = out[:0]
	err := v.Each(math.MaxInt, func(item Value) error {
		n, err := item.Int32()
		out = append(out, n)
		return err
	})
	return out, err
}
