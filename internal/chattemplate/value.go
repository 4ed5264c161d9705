package chattemplate

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
)

// Value is a value a template can see. Its implementations are private; make
// values with [FromJSON], [FromGo] and the constructors below. A Value given
// to Render is never changed by it and may be shared by concurrent renders.
type Value interface {
	// typeName is Python's name of the type, for error messages.
	typeName() string
}

type (
	noneVal   struct{}
	boolVal   bool
	intVal    int64
	bigVal    struct{ *big.Int } // only for what int64 cannot hold
	floatVal  float64
	strVal    string
	markupVal string // a string marked safe: `+` escapes its other operand
	listVal   struct{ items []Value }
	// tupleVal is a tuple; group marks the named pair that groupby yields.
	tupleVal struct {
		items []Value
		group bool
	}
	// undefVal is jinja's Undefined: empty when printed, false, without items;
	// every other use fails with msg().
	undefVal struct {
		name string
		hint string
		obj  Value
	}
	rangeVal struct{ start, stop, step, n int64 }
	// viewVal is what a dict's keys, values and items return.
	viewVal struct {
		dict *dictVal
		kind viewKind
	}
	nsVal struct{ attrs *dictVal }
	// funcVal is a builtin or a bound method.
	funcVal struct {
		name string
		fn   func(s *state, a *args) (Value, error)
	}
	// iterVal is a generator: it can be walked once and is true.
	iterVal struct {
		next func(s *state) (Value, error) // nil, nil at the end
	}
	cyclerVal struct {
		items []Value
		pos   int
	}
	joinerVal struct {
		sep  string
		used bool
	}
)

type viewKind uint8

const (
	viewKeys viewKind = iota
	viewValues
	viewItems
)

var none Value = noneVal{}

// None returns Python's None.
func None() Value { return none }

// Bool returns a bool value.
func Bool(b bool) Value { return boolVal(b) }

// Int returns an integer value.
func Int(i int64) Value { return intVal(i) }

// Float returns a float value.
func Float(f float64) Value { return floatVal(f) }

// String returns a string value; bytes that are not UTF-8 become U+FFFD.
func String(s string) Value { return strVal(validUTF8(s)) }

// List returns a list of the given items.
func List(items ...Value) Value { return &listVal{items} }

// Pair is one entry of [Map].
type Pair struct {
	Key   string
	Value Value
}

// Map returns a map that keeps the order of its pairs; of a key given twice
// the last value stands at the first place.
func Map(pairs ...Pair) Value {
	d := newDict(len(pairs))
	for _, p := range pairs {
		d.setStr(p.Key, p.Value)
	}
	return d
}

func (noneVal) typeName() string    { return "NoneType" }
func (boolVal) typeName() string    { return "bool" }
func (intVal) typeName() string     { return "int" }
func (bigVal) typeName() string     { return "int" }
func (floatVal) typeName() string   { return "float" }
func (strVal) typeName() string     { return "str" }
func (markupVal) typeName() string  { return "Markup" }
func (*listVal) typeName() string   { return "list" }
func (*tupleVal) typeName() string  { return "tuple" }
func (*dictVal) typeName() string   { return "dict" }
func (*undefVal) typeName() string  { return "Undefined" }
func (*rangeVal) typeName() string  { return "range" }
func (*nsVal) typeName() string     { return "Namespace" }
func (*funcVal) typeName() string   { return "function" }
func (*iterVal) typeName() string   { return "generator" }
func (*cyclerVal) typeName() string { return "Cycler" }
func (*joinerVal) typeName() string { return "Joiner" }
func (v *viewVal) typeName() string {
	return [...]string{"dict_keys", "dict_values", "dict_items"}[v.kind]
}

// msg is the text of the error that using the value causes.
func (u *undefVal) msg() string {
	switch {
	case u.hint != "":
		return u.hint
	case u.obj == nil:
		return "'" + u.name + "' is undefined"
	}
	t := u.obj.typeName()
	if t == "NoneType" {
		return "'None' has no attribute '" + u.name + "'"
	}
	return "'" + t + " object' has no attribute '" + u.name + "'"
}

func (u *undefVal) fail() error { return errorf("%s", u.msg()) }

// dictKey is the comparable form of a hashable value; values that are equal in
// Python (1, 1.0, True) have equal keys.
type dictKey struct {
	kind byte
	n    int64
	s    string
}

// dictVal is an insertion-ordered map. It is built once and then only read,
// but for namespaces and the globals, which one render owns.
type dictVal struct {
	keys  []Value
	vals  []Value
	index map[dictKey]int // nil while the dict is small
}

// smallDict is the size up to which a scan beats a hash map.
const smallDict = 8

func newDict(n int) *dictVal {
	return &dictVal{keys: make([]Value, 0, n), vals: make([]Value, 0, n)}
}

// strOf returns the text of a string value of either kind.
func strOf(v Value) (string, bool) {
	switch v := v.(type) {
	case strVal:
		return string(v), true
	case markupVal:
		return string(v), true
	}
	return "", false
}

func (d *dictVal) findStr(k string) int {
	if d.index != nil {
		if i, ok := d.index[dictKey{kind: 's', s: k}]; ok {
			return i
		}
		return -1
	}
	for i, kv := range d.keys {
		if s, ok := strOf(kv); ok && s == k {
			return i
		}
	}
	return -1
}

func (d *dictVal) getStr(k string) (Value, bool) {
	if i := d.findStr(k); i >= 0 {
		return d.vals[i], true
	}
	return nil, false
}

func (d *dictVal) find(k Value) (int, error) {
	if s, ok := strOf(k); ok {
		return d.findStr(s), nil
	}
	hk, err := hashKey(k, 0)
	if err != nil {
		return -1, err
	}
	if d.index != nil {
		if i, ok := d.index[hk]; ok {
			return i, nil
		}
		return -1, nil
	}
	for i, kv := range d.keys {
		if h, err := hashKey(kv, 0); err == nil && h == hk {
			return i, nil
		}
	}
	return -1, nil
}

func (d *dictVal) setStr(k string, v Value) {
	if i := d.findStr(k); i >= 0 {
		d.vals[i] = v
		return
	}
	d.push(strVal(k), dictKey{kind: 's', s: k}, v)
}

func (d *dictVal) set(k, v Value) error {
	i, err := d.find(k)
	if err != nil {
		return err
	}
	if i >= 0 {
		d.vals[i] = v
		return nil
	}
	hk, err := hashKey(k, 0)
	if err != nil {
		return err
	}
	d.push(k, hk, v)
	return nil
}

func (d *dictVal) push(k Value, hk dictKey, v Value) {
	d.keys = append(d.keys, k)
	d.vals = append(d.vals, v)
	if d.index != nil {
		d.index[hk] = len(d.keys) - 1
		return
	}
	if len(d.keys) <= smallDict {
		return
	}
	d.index = make(map[dictKey]int, 2*len(d.keys))
	for i, k := range d.keys {
		if h, err := hashKey(k, 0); err == nil {
			d.index[h] = i
		}
	}
}

func (d *dictVal) clone() *dictVal {
	c := newDict(len(d.keys))
	for i, k := range d.keys {
		// Keys of a dict are hashable already, so this cannot fail.
		_ = c.set(k, d.vals[i])
	}
	return c
}

// maxValueDepth bounds the nesting of values wherever they are walked.
const maxValueDepth = 500

func hashKey(v Value, depth int) (dictKey, error) {
	switch v := v.(type) {
	case strVal:
		return dictKey{kind: 's', s: string(v)}, nil
	case markupVal:
		return dictKey{kind: 's', s: string(v)}, nil
	case noneVal:
		return dictKey{kind: 'N'}, nil
	case boolVal:
		if v {
			return dictKey{kind: 'i', n: 1}, nil
		}
		return dictKey{kind: 'i'}, nil
	case intVal:
		return dictKey{kind: 'i', n: int64(v)}, nil
	case bigVal:
		return dictKey{kind: 'b', s: v.Text(62)}, nil
	case floatVal:
		return hashFloat(float64(v)), nil
	case *undefVal:
		return dictKey{kind: 'u'}, nil
	case *tupleVal:
		return hashTuple(v, depth)
	case *rangeVal:
		return dictKey{kind: 'r', s: "range:" + strconv.FormatInt(v.start, 10) + ":" + strconv.FormatInt(v.step, 10), n: v.n}, nil
	case *funcVal:
		return dictKey{kind: 'f', s: v.name}, nil
	case *nsVal, *macroVal, *loopVal, *iterVal, *cyclerVal, *joinerVal:
		return dictKey{kind: 'p', s: fmt.Sprintf("%p", v)}, nil
	}
	return dictKey{}, errorf("unhashable type: '%s'", v.typeName())
}

func hashFloat(f float64) dictKey {
	if f == math.Trunc(f) && math.Abs(f) < 1<<62 {
		return dictKey{kind: 'i', n: int64(f)}
	}
	if f == math.Trunc(f) && !math.IsInf(f, 0) {
		b, _ := big.NewFloat(f).Int(nil)
		if b.IsInt64() {
			return dictKey{kind: 'i', n: b.Int64()}
		}
		return dictKey{kind: 'b', s: b.Text(62)}
	}
	return dictKey{kind: 'd', n: int64(math.Float64bits(f))}
}

// maxKey bounds the comparable form of a tuple, in bytes: tuples that share
// parts can be small and yet have exponentially many leaves.
const maxKey = 1 << 16

func hashTuple(t *tupleVal, depth int) (dictKey, error) {
	if depth > maxValueDepth {
		return dictKey{}, limitf("values nested deeper than %d", maxValueDepth)
	}
	var b []byte
	for _, it := range t.items {
		k, err := hashKey(it, depth+1)
		if err != nil {
			return dictKey{}, err
		}
		b = append(b, k.kind)
		b = strconv.AppendInt(b, k.n, 36)
		b = append(b, ':')
		b = strconv.AppendInt(b, int64(len(k.s)), 36)
		b = append(b, ':')
		b = append(b, k.s...)
		if len(b) > maxKey {
			return dictKey{}, limitf("tuple too large for a key")
		}
	}
	return dictKey{kind: 't', s: string(b)}, nil
}

// truth is Python's bool(v).
func truth(v Value) bool {
	switch v := v.(type) {
	case noneVal, *undefVal:
		return false
	case boolVal:
		return bool(v)
	case intVal:
		return v != 0
	case floatVal:
		return v != 0
	case strVal:
		return v != ""
	case markupVal:
		return v != ""
	case *listVal:
		return len(v.items) > 0
	case *tupleVal:
		return len(v.items) > 0
	case *dictVal:
		return len(v.keys) > 0
	case *rangeVal:
		return v.n > 0
	case *viewVal:
		return len(v.dict.keys) > 0
	}
	return true
}
