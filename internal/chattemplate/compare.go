package chattemplate

import (
	"cmp"
	"math"
	"math/big"
	"strings"
)

// compare is `l op r` for the comparing operators.
func (s *state) compare(op string, l, r Value) (bool, error) {
	if err := s.step(1); err != nil {
		return false, err
	}
	switch op {
	case "==", "!=":
		eq, err := s.equal(l, r, 0)
		return eq == (op == "=="), err
	case "in", "not in":
		ok, err := s.contains(r, l)
		return ok == (op == "in"), err
	}
	c, ordered, err := s.order(l, r, 0)
	if err != nil || !ordered {
		return false, err
	}
	switch op {
	case "<":
		return c < 0, nil
	case "<=":
		return c <= 0, nil
	case ">":
		return c > 0, nil
	}
	return c >= 0, nil
}

func cmpNumbers(a, b number) (c int, ordered bool) {
	if !a.isFloat && !b.isFloat {
		if a.b == nil && b.b == nil {
			return cmp.Compare(a.i, b.i), true
		}
		return a.big().Cmp(b.big()), true
	}
	if a.isFloat && b.isFloat {
		return cmp.Compare(a.f, b.f), !math.IsNaN(a.f) && !math.IsNaN(b.f)
	}
	if a.isFloat {
		c, ok := cmpNumbers(b, a)
		return -c, ok
	}
	switch { // int against float, exactly
	case math.IsNaN(b.f):
		return 0, false
	case math.IsInf(b.f, 0):
		if b.f > 0 {
			return -1, true
		}
		return 1, true
	}
	return new(big.Float).SetInt(a.big()).Cmp(big.NewFloat(b.f)), true
}

// order compares values that have an order; ordered is false with NaN.
func (s *state) order(l, r Value, depth int) (c int, ordered bool, err error) {
	if depth > maxValueDepth {
		return 0, false, limitf("values nested deeper than %d", maxValueDepth)
	}
	if a, ok := numberOf(l); ok {
		if b, ok := numberOf(r); ok {
			c, ordered = cmpNumbers(a, b)
			return c, ordered, nil
		}
	}
	if a, ok := strOf(l); ok {
		if b, ok := strOf(r); ok {
			return strings.Compare(a, b), true, s.step(min(len(a), len(b)) / 64)
		}
	}
	switch a := l.(type) {
	case *listVal:
		if b, ok := r.(*listVal); ok {
			return s.orderItems(a.items, b.items, depth)
		}
	case *tupleVal:
		if b, ok := r.(*tupleVal); ok {
			return s.orderItems(a.items, b.items, depth)
		}
	}
	for _, v := range []Value{l, r} {
		if u, ok := v.(*undefVal); ok {
			return 0, false, u.fail()
		}
	}
	return 0, false, errorf("'<' not supported between instances of '%s' and '%s'", l.typeName(), r.typeName())
}

func (s *state) orderItems(a, b []Value, depth int) (int, bool, error) {
	for i := range min(len(a), len(b)) {
		eq, err := s.equal(a[i], b[i], depth+1)
		if err != nil {
			return 0, false, err
		}
		if !eq {
			return s.order(a[i], b[i], depth+1)
		}
	}
	return cmp.Compare(len(a), len(b)), true, nil
}

// equal is Python's l == r.
func (s *state) equal(l, r Value, depth int) (bool, error) {
	if depth > maxValueDepth {
		return false, limitf("values nested deeper than %d", maxValueDepth)
	}
	if a, ok := numberOf(l); ok {
		b, ok := numberOf(r)
		if !ok {
			return false, nil
		}
		c, ordered := cmpNumbers(a, b)
		return ordered && c == 0, nil
	}
	if a, ok := strOf(l); ok {
		b, ok := strOf(r)
		if !ok || len(a) != len(b) {
			return false, nil
		}
		return a == b, s.step(len(a) / 64)
	}
	if l == r {
		return true, nil
	}
	if err := s.step(1); err != nil {
		return false, err
	}
	switch a := l.(type) {
	case *undefVal:
		_, ok := r.(*undefVal)
		return ok, nil
	case *listVal:
		if b, ok := r.(*listVal); ok {
			return s.equalItems(a.items, b.items, depth)
		}
	case *tupleVal:
		if b, ok := r.(*tupleVal); ok {
			return s.equalItems(a.items, b.items, depth)
		}
	case *dictVal:
		if b, ok := r.(*dictVal); ok {
			return s.equalDicts(a, b, depth)
		}
	case *viewVal:
		if b, ok := r.(*viewVal); ok {
			return s.equalViews(a, b, depth)
		}
	case *rangeVal:
		if b, ok := r.(*rangeVal); ok {
			return a.n == b.n && (a.n == 0 || a.start == b.start && (a.n == 1 || a.step == b.step)), nil
		}
	}
	return false, nil
}

func (s *state) equalItems(a, b []Value, depth int) (bool, error) {
	if len(a) != len(b) {
		return false, nil
	}
	for i := range a {
		if eq, err := s.equal(a[i], b[i], depth+1); err != nil || !eq {
			return false, err
		}
	}
	return true, s.step(len(a))
}

// equalViews compares keys and items as sets; values are never equal.
func (s *state) equalViews(a, b *viewVal, depth int) (bool, error) {
	if a.kind != b.kind || a.kind == viewValues || len(a.dict.keys) != len(b.dict.keys) {
		return false, nil
	}
	if a.kind == viewItems {
		return s.equalDicts(a.dict, b.dict, depth)
	}
	for _, k := range a.dict.keys {
		if i, err := b.dict.find(k); err != nil || i < 0 {
			return false, err
		}
	}
	return true, s.step(len(a.dict.keys))
}

func (s *state) equalDicts(a, b *dictVal, depth int) (bool, error) {
	if len(a.keys) != len(b.keys) {
		return false, nil
	}
	for i, k := range a.keys {
		j, err := b.find(k)
		if err != nil || j < 0 {
			return false, err
		}
		if eq, err := s.equal(a.vals[i], b.vals[j], depth+1); err != nil || !eq {
			return false, err
		}
	}
	return true, s.step(len(a.keys))
}

// contains is `x in c`.
func (s *state) contains(c, x Value) (bool, error) {
	if t, ok := strOf(c); ok {
		sub, ok := strOf(x)
		if !ok {
			return false, errorf("'in <string>' requires string as left operand, not %s", x.typeName())
		}
		return strings.Contains(t, sub), s.text(len(t))
	}
	switch c := c.(type) {
	case *dictVal:
		i, err := c.find(x)
		return i >= 0, err
	case *undefVal:
		return false, nil
	case *viewVal:
		if c.kind == viewKeys {
			i, err := c.dict.find(x)
			return i >= 0, err
		}
	}
	it, err := s.iter(c)
	if err != nil {
		return false, errorf("argument of type '%s' is not iterable", c.typeName())
	}
	for {
		v, err := it.next(s)
		if err != nil || v == nil {
			return false, err
		}
		if err := s.step(1); err != nil {
			return false, err
		}
		if eq, err := s.equal(v, x, 0); err != nil || eq {
			return eq, err
		}
	}
}
