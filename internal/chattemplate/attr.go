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
		c, ok := runeAt(t, i)
		if !ok {
			return nil
		}
		return like(o, c)
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

func runeAt(t string, i int) (string, bool) {
	if i < 0 {
		i += utf8.RuneCountInString(t)
	}
	if i < 0 {
		return "", false
	}
	for j := range t {
		if i == 0 {
			_, n := utf8.DecodeRuneInString(t[j:])
			return t[j : j+n], true
		}
		i--
	}
	return "", false
}

// pyAttr returns an attribute of the Python type, nil if it has none of that
// name, Undefined if the sandbox hides it.
func (s *state) pyAttr(o Value, name string) (Value, error) {
	if strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__") && len(name) > 4 {
		return unsafeAttr(o, name), nil
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
	return method(r, name, tupleMethods, nil)
}

func numberAttr(o Value, name string) Value {
	n, _ := numberOf(o)
	self := func(*state, *args) (Value, error) { return o, nil }
	switch name {
	case "real":
		if !n.isFloat {
			return intOf(n.big()) // True.real is 1
		}
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

// span is a slice of a sequence: count items from start, step apart; stop is
// Python's, which ranges show.
type span struct{ start, stop, step, count int }

// spanOf turns slice bounds into a span of a sequence of n items.
func spanOf(n int, b [3]*int) (span, error) {
	sp := span{step: 1}
	if b[2] != nil {
		sp.step = *b[2]
	}
	if sp.step == 0 {
		return span{}, errorf("slice step cannot be zero")
	}
	lowest, highest := 0, n
	if sp.step < 0 {
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
	if sp.step > 0 {
		sp.start, sp.stop = place(b[0], 0), place(b[1], n)
		sp.count = (sp.stop - sp.start + sp.step - 1) / sp.step
	} else {
		sp.start, sp.stop = place(b[0], n-1), place(b[1], -1)
		sp.count = (sp.stop - sp.start + sp.step + 1) / sp.step
	}
	sp.count = max(0, sp.count)
	return sp, nil
}

func (s *state) sliceItems(items []Value, b [3]*int) ([]Value, error) {
	sp, err := spanOf(len(items), b)
	if err != nil {
		return nil, err
	}
	if sp.step == 1 {
		return items[sp.start : sp.start+sp.count : sp.start+sp.count], s.step(1)
	}
	if err := s.items(sp.count); err != nil {
		return nil, err
	}
	out := make([]Value, sp.count)
	for i := range out {
		out[i] = items[sp.start+i*sp.step]
	}
	return out, nil
}

func (s *state) sliceStr(t string, b [3]*int) (string, error) {
	if err := s.text(len(t)); err != nil {
		return "", err
	}
	if isASCII(t) {
		sp, err := spanOf(len(t), b)
		if err != nil || sp.step == 1 {
			return t[sp.start : sp.start+sp.count], err
		}
		out := make([]byte, sp.count)
		for i := range out {
			out[i] = t[sp.start+i*sp.step]
		}
		return string(out), nil
	}
	runes := []rune(t)
	sp, err := spanOf(len(runes), b)
	if err != nil {
		return "", err
	}
	out := make([]rune, sp.count)
	for i := range out {
		out[i] = runes[sp.start+i*sp.step]
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
	sp, err := spanOf(int(r.n), b)
	if err != nil {
		return nil, err
	}
	return &rangeVal{
		start: r.start + int64(sp.start)*r.step, stop: r.start + int64(sp.stop)*r.step,
		step: int64(sp.step) * r.step, n: int64(sp.count),
	}, nil
}
