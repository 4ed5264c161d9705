package chattemplate

import (
	"math"
	"math/big"
	"strings"
)

// maxBits bounds integers; CPython refuses to print more than 4300 digits.
const maxBits = 1 << 15

// number is an int (i or b) or a float.
type number struct {
	isFloat bool
	f       float64
	i       int64
	b       *big.Int // when int64 is too small
}

func numberOf(v Value) (number, bool) {
	switch v := v.(type) {
	case boolVal:
		if v {
			return number{i: 1}, true
		}
		return number{}, true
	case intVal:
		return number{i: int64(v)}, true
	case bigVal:
		return number{b: v.Int}, true
	case floatVal:
		return number{isFloat: true, f: float64(v)}, true
	}
	return number{}, false
}

func (n number) big() *big.Int {
	if n.b != nil {
		return n.b
	}
	return big.NewInt(n.i)
}

// float converts to float64; integers beyond its range are an error.
func (n number) float() (float64, error) {
	switch {
	case n.isFloat:
		return n.f, nil
	case n.b == nil:
		return float64(n.i), nil
	}
	f, _ := new(big.Float).SetInt(n.b).Float64()
	if math.IsInf(f, 0) {
		return 0, errorf("int too large to convert to float")
	}
	return f, nil
}

func negate(v Value, plus bool) (Value, error) {
	if u, ok := v.(*undefVal); ok {
		return nil, u.fail()
	}
	n, ok := numberOf(v)
	switch {
	case !ok:
		return nil, errorf("bad operand type for unary +/-: '%s'", v.typeName())
	case n.isFloat && plus:
		return v, nil
	case n.isFloat:
		return floatVal(-n.f), nil
	case plus:
		return intOf(n.big()), nil
	}
	return intOf(new(big.Int).Neg(n.big())), nil
}

// binary is `l op r` for the arithmetic operators.
func (s *state) binary(op string, l, r Value) (Value, error) {
	if err := s.step(1); err != nil {
		return nil, err
	}
	if op == "%" {
		if t, ok := strOf(l); ok {
			return s.percentFormat(t, r)
		}
	}
	for _, v := range []Value{l, r} {
		if u, ok := v.(*undefVal); ok {
			return nil, u.fail()
		}
	}
	a, okA := numberOf(l)
	b, okB := numberOf(r)
	if okA && okB {
		return arith(op, a, b)
	}
	var v Value
	var err error
	switch op {
	case "+":
		v, err = s.addSeq(l, r)
	case "*":
		v, err = s.repeat(l, r, a, b, okA, okB)
	}
	if v == nil && err == nil {
		err = errorf("unsupported operand type(s) for %s: '%s' and '%s'", op, l.typeName(), r.typeName())
	}
	return v, err
}

func (s *state) addSeq(l, r Value) (Value, error) {
	if a, ok := strOf(l); ok {
		b, ok := strOf(r)
		if !ok {
			return nil, errorf(`can only concatenate str (not "%s") to str`, r.typeName())
		}
		if err := s.text(len(a) + len(b)); err != nil {
			return nil, err
		}
		_, ml := l.(markupVal)
		_, mr := r.(markupVal)
		switch {
		case ml && !mr:
			b = escapeHTML(b)
		case mr && !ml:
			a = escapeHTML(a)
		}
		if ml || mr {
			return markupVal(a + b), nil
		}
		return strVal(a + b), nil
	}
	switch a := l.(type) {
	case *listVal:
		if b, ok := r.(*listVal); ok {
			items, err := s.joinItems(a.items, b.items)
			return &listVal{items}, err
		}
	case *tupleVal:
		if b, ok := r.(*tupleVal); ok {
			items, err := s.joinItems(a.items, b.items)
			return &tupleVal{items: items}, err
		}
	}
	return nil, nil
}

func (s *state) joinItems(a, b []Value) ([]Value, error) {
	if err := s.items(len(a) + len(b)); err != nil {
		return nil, err
	}
	return append(append(make([]Value, 0, len(a)+len(b)), a...), b...), nil
}

// repeat is sequence * int in either order; nil if the operands are not that.
func (s *state) repeat(l, r Value, a, b number, okA, okB bool) (Value, error) {
	seq, n := l, b
	if okA {
		seq, n = r, a
	} else if !okB {
		return nil, nil
	}
	if n.isFloat {
		return nil, nil
	}
	count := int(max(0, min(n.i, int64(s.maxOutput)+1)))
	if n.b != nil {
		count = 0
		if n.b.Sign() > 0 {
			count = s.maxOutput + 1
		}
	}
	switch q := seq.(type) {
	case strVal:
		if err := s.text(len(q) * count); err != nil {
			return nil, err
		}
		return strVal(strings.Repeat(string(q), count)), nil
	case markupVal:
		if err := s.text(len(q) * count); err != nil {
			return nil, err
		}
		return markupVal(strings.Repeat(string(q), count)), nil
	case *listVal:
		items, err := s.repeatItems(q.items, count)
		return &listVal{items}, err
	case *tupleVal:
		items, err := s.repeatItems(q.items, count)
		return &tupleVal{items: items}, err
	}
	return nil, nil
}

func (s *state) repeatItems(items []Value, count int) ([]Value, error) {
	if err := s.items(len(items) * count); err != nil {
		return nil, err
	}
	out := make([]Value, 0, len(items)*count)
	for range count {
		out = append(out, items...)
	}
	return out, nil
}

func arith(op string, a, b number) (Value, error) {
	if op == "/" || a.isFloat || b.isFloat {
		return floatArith(op, a, b)
	}
	if a.b == nil && b.b == nil {
		if v, ok := smallArith(op, a.i, b.i); ok {
			return v, nil
		}
	}
	return bigArith(op, a, b)
}

// smallArith covers what cannot overflow.
func smallArith(op string, a, b int64) (Value, bool) {
	const small = 1 << 31
	if a > small || a < -small || b > small || b < -small {
		return nil, false
	}
	switch op {
	case "+":
		return intVal(a + b), true
	case "-":
		return intVal(a - b), true
	case "*":
		return intVal(a * b), true
	}
	return nil, false
}

func bigArith(op string, a, b number) (Value, error) {
	x, y, z := a.big(), b.big(), new(big.Int)
	if x.BitLen()+y.BitLen() > 2*maxBits {
		return nil, limitf("integer of more than %d bits", maxBits)
	}
	switch op {
	case "+":
		z.Add(x, y)
	case "-":
		z.Sub(x, y)
	case "*":
		z.Mul(x, y)
	case "//", "%":
		if y.Sign() == 0 {
			return nil, errorf("integer division or modulo by zero")
		}
		m := new(big.Int)
		z.QuoRem(x, y, m)
		if m.Sign() != 0 && m.Sign() != y.Sign() {
			z.Sub(z, big.NewInt(1))
			m.Add(m, y)
		}
		if op == "%" {
			z = m
		}
	case "**":
		return intPow(a, b)
	}
	if z.BitLen() > maxBits {
		return nil, limitf("integer of more than %d bits", maxBits)
	}
	return intOf(z), nil
}

func intPow(a, b number) (Value, error) {
	x, y := a.big(), b.big()
	if y.Sign() < 0 {
		if x.Sign() == 0 {
			return nil, errorf("0.0 cannot be raised to a negative power")
		}
		return floatArith("**", a, b)
	}
	if x.BitLen() > 1 && (!y.IsInt64() || y.Int64() > maxBits || int64(x.BitLen())*y.Int64() > 2*maxBits) {
		return nil, limitf("integer of more than %d bits", maxBits)
	}
	if !y.IsInt64() { // x is -1, 0 or 1
		y = big.NewInt(int64(y.Bit(0)) + 2)
	}
	return intOf(new(big.Int).Exp(x, y, nil)), nil
}

func floatArith(op string, a, b number) (Value, error) {
	if op == "/" && !a.isFloat && !b.isFloat {
		return trueDiv(a, b)
	}
	x, err := a.float()
	if err != nil {
		return nil, err
	}
	y, err := b.float()
	if err != nil {
		return nil, err
	}
	switch op {
	case "+":
		return floatVal(x + y), nil
	case "-":
		return floatVal(x - y), nil
	case "*":
		return floatVal(x * y), nil
	case "**":
		return floatPow(x, y)
	}
	if y == 0 {
		return nil, errorf("float division by zero")
	}
	if op == "/" {
		return floatVal(x / y), nil
	}
	div, mod := floatDivMod(x, y)
	if op == "//" {
		return floatVal(div), nil
	}
	return floatVal(mod), nil
}

// trueDiv divides integers, correctly rounded as Python does.
func trueDiv(a, b number) (Value, error) {
	if b.big().Sign() == 0 {
		return nil, errorf("division by zero")
	}
	f, _ := new(big.Rat).SetFrac(a.big(), b.big()).Float64()
	if math.IsInf(f, 0) {
		return nil, errorf("integer division result too large for a float")
	}
	return floatVal(f), nil
}

// floatDivMod is Python's divmod: the remainder has the divisor's sign.
func floatDivMod(x, y float64) (div, mod float64) {
	mod = math.Mod(x, y)
	div = (x - mod) / y
	if mod != 0 {
		if (y < 0) != (mod < 0) {
			mod += y
			div--
		}
	} else {
		mod = math.Copysign(0, y)
	}
	if div == 0 {
		return math.Copysign(0, x/y), mod
	}
	f := math.Floor(div)
	if div-f > 0.5 {
		f++
	}
	return f, mod
}

func floatPow(x, y float64) (Value, error) {
	if x == 0 && y < 0 {
		return nil, errorf("0.0 cannot be raised to a negative power")
	}
	f := math.Pow(x, y)
	if math.IsNaN(f) && !math.IsNaN(x) && !math.IsNaN(y) {
		return nil, errorf("complex numbers are not supported")
	}
	if math.IsInf(f, 0) && !math.IsInf(x, 0) && !math.IsInf(y, 0) {
		return nil, errorf("Numerical result out of range")
	}
	return floatVal(f), nil
}
