package chattemplate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth bounds the nesting of JSON given to templates.
const maxJSONDepth = 200

// maxIntDigits is CPython's limit for integers in text
// (sys.set_int_max_str_digits), which json.loads obeys too.
const maxIntDigits = 4300

// FromJSON decodes one JSON text as Python's json.loads does: maps keep their
// key order (of a repeated key the last value counts), numbers without
// fraction and exponent are integers of any size. Anything after the value,
// nesting beyond 200 and malformed input are errors that wrap [ErrInput].
func FromJSON(b []byte) (Value, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	v, err := decodeValue(dec, 0)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("%w: JSON at offset %d: %w", ErrInput, dec.InputOffset(), err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: JSON at offset %d: data after the value", ErrInput, dec.InputOffset())
	}
	return v, nil
}

func decodeValue(dec *json.Decoder, depth int) (Value, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	return decodeToken(dec, tok, depth)
}

func decodeToken(dec *json.Decoder, tok json.Token, depth int) (Value, error) {
	switch t := tok.(type) {
	case nil:
		return none, nil
	case bool:
		return boolVal(t), nil
	case string:
		return strVal(t), nil
	case json.Number:
		return parseNumber(string(t))
	case json.Delim:
		if depth >= maxJSONDepth {
			return nil, errorf("nested deeper than %d", maxJSONDepth)
		}
		if t == '[' {
			return decodeList(dec, depth)
		}
		return decodeDict(dec, depth)
	}
	return nil, errorf("unexpected token %v", tok)
}

func decodeList(dec *json.Decoder, depth int) (Value, error) {
	l := &listVal{}
	for dec.More() {
		v, err := decodeValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, v)
	}
	_, err := dec.Token()
	return l, err
}

func decodeDict(dec *json.Decoder, depth int) (Value, error) {
	d := newDict(4)
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, ok := k.(string)
		if !ok {
			return nil, errorf("object key %v is no string", k)
		}
		v, err := decodeValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		d.setStr(key, v)
	}
	_, err := dec.Token()
	return d, err
}

func parseNumber(s string) (Value, error) {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return nil, errorf("bad number %q", s)
		}
		return floatVal(f), nil // out of range reads as ±Inf, as in Python
	}
	if len(s) > maxIntDigits {
		return nil, errorf("integer of %d digits", len(s))
	}
	b, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return nil, errorf("bad number %q", s)
	}
	return intOf(b), nil
}

// intOf returns the smallest representation of b.
func intOf(b *big.Int) Value {
	if b.IsInt64() {
		return intVal(b.Int64())
	}
	return bigVal{b}
}

// FromGo converts plain Go data: nil, bools, numbers, strings, json.Number,
// json.RawMessage, Value itself, slices, arrays, pointers and maps with string
// keys (in sorted key order, Go's maps having none). Other types are errors
// that wrap [ErrInput].
func FromGo(v any) (Value, error) {
	out, err := fromGo(v, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	return out, nil
}

func fromGo(v any, depth int) (Value, error) {
	if depth > maxJSONDepth {
		return nil, errorf("nested deeper than %d", maxJSONDepth)
	}
	switch t := v.(type) {
	case nil:
		return none, nil
	case Value:
		return t, nil
	case string:
		return String(t), nil
	case bool:
		return boolVal(t), nil
	case json.Number:
		return parseNumber(string(t))
	case json.RawMessage:
		return FromJSON(t)
	}
	return fromReflect(reflect.ValueOf(v), depth)
}

func fromReflect(rv reflect.Value, depth int) (Value, error) {
	switch rv.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return intVal(rv.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return intOf(new(big.Int).SetUint64(rv.Uint())), nil
	case reflect.Float32, reflect.Float64:
		return floatVal(rv.Float()), nil
	case reflect.String:
		return String(rv.String()), nil
	case reflect.Bool:
		return boolVal(rv.Bool()), nil
	case reflect.Pointer, reflect.Interface:
		if rv.IsNil() {
			return none, nil
		}
		return fromGo(rv.Elem().Interface(), depth+1)
	case reflect.Slice, reflect.Array:
		l := &listVal{}
		for i := range rv.Len() {
			it, err := fromGo(rv.Index(i).Interface(), depth+1)
			if err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
			l.items = append(l.items, it)
		}
		return l, nil
	case reflect.Map:
		return fromGoMap(rv, depth)
	}
	return nil, errorf("Go type %s has no template value", rv.Type())
}

func fromGoMap(rv reflect.Value, depth int) (Value, error) {
	if rv.Type().Key().Kind() != reflect.String {
		return nil, errorf("Go type %s: keys must be strings", rv.Type())
	}
	keys := rv.MapKeys()
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	d := newDict(len(keys))
	for _, k := range keys {
		v, err := fromGo(rv.MapIndex(k).Interface(), depth+1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.String(), err)
		}
		d.setStr(validUTF8(k.String()), v)
	}
	return d, nil
}

func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
