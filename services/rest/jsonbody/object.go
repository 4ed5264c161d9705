package jsonbody

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// maxFields bounds the fields of one object.
const maxFields = 1 << 16

// Object is a JSON object whose getters keep the first error: read all fields,
// then ask Err once.
type Object struct {
	path   string
	fields map[string]json.RawMessage
	err    *error
}

// Parse reads a body that must be one JSON object, in UTF-8: encoding/json
// alone would put U+FFFD for bytes that are not, and so answer another prompt.
func Parse(body []byte) (*Object, error) {
	if !utf8.Valid(body) {
		return nil, Value{Path: "body"}.Errorf("is not UTF-8, at offset %d", invalidAt(body))
	}
	if !json.Valid(body) {
		return nil, diagnose(body)
	}
	v := Value{Raw: body}
	if v.Kind() != Struct {
		return nil, Value{Path: "body"}.Errorf("must be a JSON object, got %s", v.Kind())
	}
	return v.Object()
}

// Object gives the value as an object.
func (v Value) Object() (*Object, error) {
	if v.Kind() != Struct {
		return nil, v.want("an object")
	}
	o := &Object{path: v.Path, fields: map[string]json.RawMessage{}, err: new(error)}
	dec := json.NewDecoder(bytes.NewReader(v.Raw))
	if _, err := dec.Token(); err != nil {
		return nil, v.Errorf("%v", err)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, v.Errorf("%v", err)
		}
		name, _ := key.(string)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, v.Errorf("%v", err)
		}
		if len(o.fields) >= maxFields {
			return nil, v.Errorf("must have at most %d fields", maxFields)
		}
		o.fields[name] = raw
	}
	return o, nil
}

// Err is the first error of the object's getters.
func (o *Object) Err() error { return *o.err }

// Fail keeps an error, unless there is one already; nil is none.
func (o *Object) Fail(err error) {
	if *o.err == nil && err != nil {
		*o.err = err
	}
}

// Names gives the names of all fields that are there, in no order.
func (o *Object) Names() []string {
	out := make([]string, 0, len(o.fields))
	for name := range o.fields {
		out = append(out, name)
	}
	return out
}

// Get gives a field, absent or not.
func (o *Object) Get(name string) Value {
	path := name
	if o.path != "" {
		path = o.path + "." + name
	}
	return Value{path, o.fields[name]}
}

// Has tells that a field is there and not null.
func (o *Object) Has(name string) bool { return o.Get(name).Given() }

// read stores a field through a Value's getter; absent and null leave dst as
// it is, which is how defaults work.
func read[T any](o *Object, name string, dst *T, get func(Value) (T, error)) {
	v := o.Get(name)
	if !v.Given() {
		return
	}
	t, err := get(v)
	if err != nil {
		o.Fail(err)
		return
	}
	*dst = t
}

// String reads a string field into dst.
func (o *Object) String(name string, dst *string) { read(o, name, dst, Value.Text) }

// Bool reads a boolean field into dst.
func (o *Object) Bool(name string, dst *bool) { read(o, name, dst, Value.Bool) }

// Float reads a number field into dst.
func (o *Object) Float(name string, dst *float64) { read(o, name, dst, Value.Float) }

// Int reads an integer field into dst.
func (o *Object) Int(name string, dst *int) { read(o, name, dst, Value.Int) }

// Int32s reads an array of integers into dst.
func (o *Object) Int32s(name string, dst *[]int32) { read(o, name, dst, Value.Int32s) }

// StringOrList reads a string or an array of at most limit strings into dst.
func (o *Object) StringOrList(name string, limit int, dst *[]string) {
	read(o, name, dst, func(v Value) ([]string, error) { return v.StringOrList(limit) })
}

// Seed reads a 64-bit seed into dst.
func (o *Object) Seed(name string, dst **uint64) {
	read(o, name, dst, func(v Value) (*uint64, error) {
		u, err := v.Seed()
		return &u, err
	})
}

// Struct gives an object field, nil when it is absent or null.
func (o *Object) Struct(name string) *Object {
	var sub *Object
	read(o, name, &sub, Value.Object)
	return sub
}

// empty tells that a value asks for nothing: null, false, "", [] or {}.
func (v Value) empty() bool {
	switch v.Kind() {
	case Absent, Null:
		return true
	case Bool:
		b, _ := v.Bool()
		return !b
	case Number:
		return false
	default:
		s := strings.Join(strings.Fields(string(v.Raw)), "")
		return s == `""` || s == "[]" || s == "{}"
	}
}

// Empty tells that a field asks for nothing: absent, null, false, "", [] or {}.
func (o *Object) Empty(name string) bool { return o.Get(name).empty() }
