package jsonbody

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseErrors(t *testing.T) {
	for body, want := range map[string]string{
		``:                          "body: must be a JSON object, got nothing",
		`  `:                        "body: must be a JSON object, got nothing",
		`[1]`:                       "body: must be a JSON object, got array",
		`"x"`:                       "body: must be a JSON object, got string",
		`{`:                         "body: is not JSON: it ends too early",
		`{"a":`:                     "a: is not JSON: it ends too early",
		`{"a":1} x`:                 "body: has more after its JSON value, at offset 7",
		`{"a":1}{}`:                 "body: has more after its JSON value, at offset 7",
		`{"a": NaN}`:                "a: must be a finite number, got NaN",
		`{"a":{"b":[1,-Infinity]}}`: "a.b[1]: must be a finite number, got -Infinity",
		`{"sampling_params":{"temperature": NaN}}`:          "sampling_params.temperature: must be a finite number, got NaN",
		`{"sampling_params":[{},{"temperature":Infinity}]}`: "sampling_params[1].temperature: must be a finite number, got Infinity",
		`{"a":tru}`:                  "a: is not JSON: invalid character '}' in literal true (expecting 'e'), near offset 5",
		strings.Repeat(`{"a":`, 200): "body: is nested too deeply, at offset 501",
		"{\"a\":\"\xff\"}":           "body: is not UTF-8, at offset 6",
		"{\"ä\xed\xa0\x80\":1}":      "body: is not UTF-8, at offset 4",
		`hello`:                      "body: is not JSON: invalid character 'h' looking for beginning of value, near offset 0",
	} {
		_, err := Parse([]byte(body))
		if err == nil || err.Error() != want {
			t.Errorf("Parse(%s) = %v, want %s", body, err, want)
		}
	}
}

func TestGetters(t *testing.T) {
	o, err := Parse([]byte(`{"s":"a\u00e4","b":true,"f":1.5,"i":128.0,"big":1e300,"inf":1e999,"n":null,
		"ids":[1,2,3.0],"bad":[1,"x"],"nul":[1,null],"list":["a","b"],"o":{"x":{"y":"z"}},"seed":18446744073709551615,"neg":-1}`))
	if err != nil {
		t.Fatal(err)
	}
	var s string
	var b bool
	f, n := 7.0, 7
	var ids []int32
	var list []string
	var seed, neg *uint64
	o.String("s", &s)
	o.Bool("b", &b)
	o.Float("f", &f)
	o.Int("i", &n)
	o.Int32s("ids", &ids)
	o.StringOrList("list", 2, &list)
	o.Seed("seed", &seed)
	o.Seed("neg", &neg)
	o.Int("n", &n)
	o.Int("absent", &n)
	if o.Err() != nil {
		t.Fatal(o.Err())
	}
	if s != "aä" || !b || f != 1.5 || n != 128 || *seed != 1<<64-1 || *neg != 1<<64-1 {
		t.Error(s, b, f, n, *seed, *neg)
	}
	if diff := cmp.Diff([]int32{1, 2, 3}, ids); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a", "b"}, list); diff != "" {
		t.Error(diff)
	}
	for _, tt := range []struct {
		get  func(o *Object)
		want string
	}{
		{func(o *Object) { o.String("f", &s) }, "f: must be a string, got number"},
		{func(o *Object) { o.Bool("s", &b) }, "s: must be true or false, got string"},
		{func(o *Object) { o.Float("s", &f) }, "s: must be a number, got string"},
		{func(o *Object) { o.Float("b", &f) }, "b: must be a number, got boolean"},
		{func(o *Object) { o.Float("inf", &f) }, "inf: must be a finite number, got 1e999"},
		{func(o *Object) { o.Int("f", &n) }, "f: must be an integer, got 1.5"},
		{func(o *Object) { o.Int("big", &n) }, "big: must be an integer, got 1e300"},
		{func(o *Object) { o.Int32s("bad", &ids) }, "bad[1]: must be an integer, got string"},
		{func(o *Object) { o.Int32s("nul", &ids) }, "nul[1]: must be an integer, got null"},
		{func(o *Object) { o.Int32s("s", &ids) }, "s: must be an array of integers, got string"},
		{func(o *Object) { o.StringOrList("list", 1, &list) }, "list: must have at most 1 items"},
		{func(o *Object) { o.StringOrList("ids", 9, &list) }, "ids[0]: must be a string, got number"},
		{func(o *Object) { o.StringOrList("f", 9, &list) }, "f: must be a string or an array of strings, got number"},
		{func(o *Object) { o.Struct("s") }, "s: must be an object, got string"},
		{func(o *Object) {
			sub := o.Struct("o").Struct("x")
			sub.Float("y", &f)
			o.Fail(sub.Err())
		}, "o.x.y: must be a number, got string"},
	} {
		o, err := Parse([]byte(`{"s":"a","b":true,"f":1.5,"big":1e300,"inf":1e999,"ids":[1],"bad":[1,"x"],"nul":[1,null],"list":["a","b"],"o":{"x":{"y":"z"}}}`))
		if err != nil {
			t.Fatal(err)
		}
		tt.get(o)
		if o.Err() == nil || o.Err().Error() != tt.want {
			t.Errorf("got %v, want %s", o.Err(), tt.want)
		}
	}
}

func TestEmpty(t *testing.T) {
	o, err := Parse([]byte(`{"a":null,"b":"","c":[ ],"d":{},"e":false,"f":0,"g":"x","h":[0],"i":true}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "absent"} {
		if !o.Empty(name) {
			t.Errorf("%s is empty", name)
		}
	}
	for _, name := range []string{"f", "g", "h", "i"} {
		if o.Empty(name) {
			t.Errorf("%s is not empty", name)
		}
	}
}

func TestTooManyFields(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"":0`)
	for i := range maxFields {
		b.WriteString(`,"` + strings.Repeat("k", i%7) + string(rune('a'+i%26)) + string(rune(0x4e00+i%20000)) + string(rune(0x4e00+i/20000)) + `":0`)
	}
	b.WriteString("}")
	if _, err := Parse([]byte(b.String())); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("Parse = %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,{"b":NaN}]}`, `{"a":"\ud800"}`, `[[[[`, `{"a":1,"a":2}`, `{"x":[1e5,-0,null,"",{}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := Parse(body)
		if err != nil {
			return
		}
		for _, name := range o.Names() {
			v := o.Get(name)
			v.Kind()
			o.Empty(name)
			_, _ = v.Text()
			_, _ = v.Bool()
			_, _ = v.Float()
			_, _ = v.Seed()
			_, _ = v.Int32s()
			_, _ = v.Strings(10)
			_, _ = v.Items(10)
			_, _ = v.Object()
			v.First()
		}
	})
}
