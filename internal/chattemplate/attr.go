package chattemplate

import (
	"math/big"
	"strings"
	"unicode/utf8"
)

// attr is `o.name` under jinja's rules: attributes of the Python type first,
// then items, else Undefined. Methods that would change a value, and
// everything with a leading underscore, are out of reach.
func (s *state) attr(o Value, name string) (Value, error) {
	v, err := s.pyAttr(o, name)
	if v != nil || err != nil {
		return v, err
	}
	if d, ok := o.(*dictVal); ok {
		if v, ok := d.getStr(name); ok {
			return v, nil
		}
	}
	return &undefVal{name: name, obj: o}, nil
}

// item is `o[k]`: items first, then, for a string, attributes.
func (s *state) item(o, k Value) (Value, error) {
	switch c := o.(type) {
	case *undefVal:
		return nil, c.fail()
	case *dictVal:
		i, err := c.find(k)
		if err == nil && i >= 0 {
			return c.vals[i], nil
		}
	default:
		if i, ok := indexOf(k); ok {
			if v := at(o, i); v != nil {
				return v, nil
			}
		}
	}
	name, ok := strOf(k)
	if !ok {
		t, err := s.repr(k)
		return &undefVal{hint: o.typeName() + " object has no element " + t}, err
	}
	v, err := s.pyAttr(o, name)
	if v == nil && err == nil {
		v = &undefVal{name: name, obj: o}
	}
	return v, err
}

// indexOf returns an integer usable as an index.
func indexOf(k Value) (int, bool) {
	n, ok := numberOf(k)
	if !ok || n.isFloat || n.b != nil || n.i > 1<<40 || n.i < -1<<40 {
		return 0, false
	}
	return int(n.i), true
}

// at returns the i-th item of a sequence, counted from the end if negative;
// nil if there is none.
func at(o Value, i int) Value {
	if t, ok := strOf(o); ok {
		return runeAt(t, i)
	}
	var items []Value
	switch c := o.(type) {
	case *listVal:
		items = c.items
	case *tupleVal:
		items = c.items
	case *rangeVal:
		if i < 0 {
			i += int(c.n)
		}
		if i < 0 || int64(i) >= c.n {
			return nil
		}
		return intVal(c.start + int64(i)*c.step)
	default:
		return nil
	}
	if i < 0 {
		i += len(items)
	}
	if i < 0 || i >= len(items) {
		return nil
	}
	return items[i]
}

func runeAt(t string, i int) Value {
	if i < 0 {
		i += utf8.RuneCountInString(t)
	}
	if i < 0 {
		return nil
	}
	for j := range t {
		if i == 0 {
			_, n := utf8.DecodeRuneInString(t[j:])
			return strVal(t[j : j+n])
		}
		i--
	}
	return nil
}

// pyAttr returns an attribute of the Python type, nil if it has none of that
// name, Undefined if the sandbox hides it.
func (s *state) pyAttr(o Value, name string) (Value, error) {
	if strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__") && len(name) > 4 {
		if _, ok := o.(*undefVal); !ok {
			return unsafeAttr(o, name), nil
		}
	}
	switch c := o.(type) {
	case *undefVal:
		return nil, c.fail()
	case *dictVal:
		return method(o, name, dictMethods, dictMutators), nil
	case strVal, markupVal:
		return method(o, name, strMethods, nil), nil
	case *listVal:
		return method(o, name, listMethods, listMutators), nil
	case *tupleVal:
		if c.group && name == "grouper" {
			return c.items[0], nil
		}
		if c.group && name == "list" {
			return c.items[1], nil
		}
		return method(o, name, tupleMethods, nil), nil
	case *nsVal:
		if v, ok := c.attrs.getStr(name); ok {
			return v, nil
		}
	case *loopVal:
		return c.attr(s, name)
	case *macroVal:
		if v := c.attr(name); v != nil {
			return v, nil
		}
	case *cyclerVal:
		return c.attr(name), nil
	case *rangeVal:
		return rangeAttr(c, name), nil
	case *viewVal:
		if name == "mapping" {
			return c.dict, nil
		}
	case *funcVal:
		if c.name == "dict" && name == "fromkeys" {
			return &funcVal{name, dictFromKeys}, nil
		}
	case boolVal, intVal, bigVal, floatVal:
		return numberAttr(o, name), nil
	}
	return nil, nil
}

func unsafeAttr(o Value, name string) Value {
	return &undefVal{name: name, hint: "access to attribute '" + name + "' of '" + o.typeName() + "' object is unsafe."}
}

// methodFunc is a method of a builtin type; self is its receiver.
type methodFunc func(s *state, self Value, a *args) (Value, error)

func method(o Value, name string, table map[string]methodFunc, mutators map[string]bool) Value {
	if m, ok := table[name]; ok {
		return &funcVal{name: name, fn: func(s *state, a *args) (Value, error) { return m(s, o, a) }}
	}
	if mutators[name] {
		return unsafeAttr(o, name)
	}
	return nil
}

func rangeAttr(r *rangeVal, name string) Value {
	switch name {
	case "start":
		return intVal(r.start)
	case "stop":
		return intVal(r.stop)
	case "step":
		return intVal(r.step)
	}
	return nil
}

func numberAttr(o Value, name string) Value {
	n, _ := numberOf(o)
	self := func(*state, *args) (Value, error) { return o, nil }
	switch name {
	case "real":
		return o
	case "imag":
		if n.isFloat {
			return floatVal(0)
		}
		return intVal(0)
	case "conjugate":
		return &funcVal{name, self}
	case "is_integer":
		if n.isFloat {
			return &funcVal{name, func(*state, *args) (Value, error) {
				return boolVal(hashFloat(n.f).kind != 'd'), nil
			}}
		}
	case "numerator", "denominator", "bit_length", "bit_count":
		if !n.isFloat {
			return intAttr(n.big(), name)
		}
	}
	return nil
}

func intAttr(b *big.Int, name string) Value {
	n := 0
	switch name {
	case "numerator":
		return intOf(b)
	case "denominator":
		return intVal(1)
	case "bit_length":
		n = b.BitLen()
	case "bit_count":
		for i := range b.BitLen() {
			n += int(new(big.Int).Abs(b).Bit(i))
		}
	}
	return &funcVal{name, func(*state, *args) (Value, error) { return intVal(n), nil }}
}

func (ns *nsVal) set(name string, v Value) error {
	if strings.HasPrefix(name, "_") {
		return errorf("Chat templates cannot store underscore-prefixed attributes on a namespace, but got %s.", reprStr(name))
	}
	ns.attrs.setStr(name, v)
	return nil
}

// slice is `o[lo:hi:step]`.
func (s *state) slice(o, lo, hi, step Value) (Value, error) {
	if u, ok := o.(*undefVal); ok {
		return nil, u.fail()
	}
	var bounds [3]*int
	for i, v := range []Value{lo, hi, step} {
		if v == none {
			continue
		}
		n, ok := numberOf(v)
		if !ok || n.isFloat {
			return nil, errorf("slice indices must be integers or None or have an __index__ method")
		}
		k := clampIndex(n)
		bounds[i] = &k
	}
	if t, ok := strOf(o); ok {
		out, err := s.sliceStr(t, bounds)
		if _, m := o.(markupVal); m && err == nil {
			return markupVal(out), nil
		}
		return strVal(out), err
	}
	switch c := o.(type) {
	case *listVal:
		items, err := s.sliceItems(c.items, bounds)
		return &listVal{items}, err
	case *tupleVal:
		items, err := s.sliceItems(c.items, bounds)
		return &tupleVal{items: items}, err
	case *rangeVal:
		return sliceRange(c, bounds)
	}
	return nil, errorf("'%s' object is not subscriptable", o.typeName())
}

func clampIndex(n number) int {
	const far = 1 << 40
	if n.b != nil {
		return n.b.Sign() * far
	}
	return int(max(-far, min(far, n.i)))
}

// spanOf turns slice bounds into start, step and count for a length of n.
func spanOf(n int, b [3]*int) (start, step, count int, err error) {
	step = 1
	if b[2] != nil {
		step = *b[2]
	}
	if step == 0 {
		return 0, 0, 0, errorf("slice step cannot be zero")
	}
	lowest, highest := 0, n
	if step < 0 {
		lowest, highest = -1, n-1
	}
	place := func(p *int, otherwise int) int {
		if p == nil {
			return otherwise
		}
		i := *p
		if i < 0 {
			i += n
		}
		return max(lowest, min(highest, i))
	}
	var stop int
	if step > 0 {
		start, stop = place(b[0], 0), place(b[1], n)
		count = (stop - start + step - 1) / step
	} else {
		start, stop = place(b[0], n-1), place(b[1], -1)
		count = (stop - start + step + 1) / step
	}
	return start, step, max(0, count), nil
}

func (s *state) sliceItems(items []Value, b [3]*int) ([]Value, error) {
	start, step, count, err := spanOf(len(items), b)
	if err != nil {
		return nil, err
	}
	if step == 1 {
		return items[start : start+count : start+count], nil
	}
	if err := s.items(count); err != nil {
		return nil, err
	}
	out := make([]Value, count)
	for i := range out {
		out[i] = items[start+i*step]
	}
	return out, nil
}

func (s *state) sliceStr(t string, b [3]*int) (string, error) {
	if err := s.text(len(t)); err != nil {
		return "", err
	}
	if isASCII(t) {
		start, step, count, err := spanOf(len(t), b)
		if err != nil || step == 1 {
			return t[start : start+count], err
		}
		out := make([]byte, count)
		for i := range out {
			out[i] = t[start+i*step]
		}
		return string(out), nil
	}
	runes := []rune(t)
	start, step, count, err := spanOf(len(runes), b)
	if err != nil {
		return "", err
	}
	out := make([]rune, count)
	for i := range out {
		out[i] = runes[start+i*step]
	}
	return string(out), nil
}

func isASCII(t string) bool {
	for i := range len(t) {
		if t[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func sliceRange(r *rangeVal, b [3]*int) (Value, error) {
	start, step, count, err := spanOf(int(r.n), b)
	if err != nil {
		return nil, err
	}
	first, st := r.start+int64(start)*r.step, int64(step)*r.step
	return &rangeVal{start: first, stop: first + int64(count)*st, step: st, n: int64(count)}, nil
}
