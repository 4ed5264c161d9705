package chattemplate

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

func filterInt(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("int", 0, "default", "base")
	if err != nil {
		return nil, err
	}
	def, base := Value(intVal(0)), 10
	if p[0] != nil {
		def = p[0]
	}
	if p[1] != nil {
		n, ok := numberOf(p[1])
		if !ok || n.isFloat {
			return nil, errorf("'%s' object cannot be interpreted as an integer", p[1].typeName())
		}
		base = clampIndex(n)
	}
	if u, ok := v.(*undefVal); ok {
		return nil, u.fail()
	}
	if t, ok := strOf(v); ok {
		if b, ok := parseInt(t, base); ok {
			return intOf(b), nil
		}
		f, ok := parseFloat(t)
		if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
			return def, nil
		}
		b, _ := big.NewFloat(f).Int(nil)
		return intOf(b), nil
	}
	n, ok := numberOf(v)
	switch {
	case !ok, n.isFloat && math.IsNaN(n.f):
		return def, nil
	case n.isFloat:
		b, err := wholeFloat(n.f)
		return intOf(b), err
	}
	return intOf(n.big()), nil
}

// wholeFloat is Python's int(f).
func wholeFloat(f float64) (*big.Int, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return new(big.Int), errorf("cannot convert float infinity or NaN to integer")
	}
	b, _ := big.NewFloat(f).Int(nil)
	return b, nil
}

// parseInt is Python's int(t, base).
func parseInt(t string, base int) (*big.Int, bool) {
	t = strings.TrimFunc(t, isSpace)
	neg := strings.HasPrefix(t, "-")
	if neg || strings.HasPrefix(t, "+") {
		t = t[1:]
	}
	if base != 0 && (base < 2 || base > 36) || len(t) > maxIntDigits {
		return nil, false
	}
	for _, pre := range []struct {
		s    string
		base int
	}{{"0x", 16}, {"0o", 8}, {"0b", 2}} {
		if len(t) > 2 && strings.EqualFold(t[:2], pre.s) && (base == pre.base || base == 0) {
			t, base = strings.TrimPrefix(t[2:], "_"), pre.base
		}
	}
	if base == 0 {
		base = 10
	}
	if strings.HasPrefix(t, "_") || strings.HasSuffix(t, "_") || strings.Contains(t, "__") ||
		strings.HasPrefix(t, "-") || strings.HasPrefix(t, "+") {
		return nil, false
	}
	b, ok := new(big.Int).SetString(strings.ReplaceAll(t, "_", ""), base)
	if ok && neg {
		b.Neg(b)
	}
	return b, ok
}

// parseFloat is Python's float(t).
func parseFloat(t string) (float64, bool) {
	t = strings.TrimFunc(t, isSpace)
	if strings.ContainsAny(t, "xXpP") || strings.Contains(t, "__") || strings.HasPrefix(t, "_") || strings.HasSuffix(t, "_") {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(t, "_", ""), 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

func filterFloat(_ *state, v Value, a *args) (Value, error) {
	p, err := a.bind("float", 0, "default")
	if err != nil {
		return nil, err
	}
	def := Value(floatVal(0))
	if p[0] != nil {
		def = p[0]
	}
	if u, ok := v.(*undefVal); ok {
		return nil, u.fail()
	}
	if t, ok := strOf(v); ok {
		if f, ok := parseFloat(t); ok {
			return floatVal(f), nil
		}
		return def, nil
	}
	n, ok := numberOf(v)
	if !ok {
		return def, nil
	}
	f, err := n.float()
	return floatVal(f), err
}

func filterAbs(_ *state, v Value, a *args) (Value, error) {
	if _, err := a.positional("abs", 0, 0); err != nil {
		return nil, err
	}
	n, ok := numberOf(v)
	switch {
	case !ok:
		return nil, errorf("bad operand type for abs(): '%s'", v.typeName())
	case n.isFloat:
		return floatVal(math.Abs(n.f)), nil
	}
	return intOf(new(big.Int).Abs(n.big())), nil
}

func filterRound(s *state, v Value, a *args) (Value, error) {
	p, err := a.bind("round", 0, "precision", "method")
	if err != nil {
		return nil, err
	}
	prec, how := 0, "common"
	if p[0] != nil {
		n, ok := numberOf(p[0])
		if !ok || n.isFloat {
			return nil, errorf("'%s' object cannot be interpreted as an integer", p[0].typeName())
		}
		prec = clampIndex(n)
	}
	if p[1] != nil {
		how, _ = strOf(p[1])
	}
	if how != "common" && how != "ceil" && how != "floor" {
		return nil, errorf("method must be common, ceil or floor")
	}
	n, ok := numberOf(v)
	if !ok {
		return nil, errorf("type %s doesn't define __round__ method", v.typeName())
	}
	if how == "common" {
		return roundCommon(n, prec)
	}
	x, err := n.float()
	if err != nil {
		return nil, err
	}
	scale := math.Pow(10, float64(prec))
	if math.IsInf(scale, 0) || scale == 0 || math.IsInf(x*scale, 0) || math.IsNaN(x*scale) {
		return nil, errorf("cannot round %s to %d digits", formatFloat(x), prec)
	}
	if how == "ceil" {
		return floatVal(noNegZero(math.Ceil(x*scale)) / scale), nil
	}
	return floatVal(noNegZero(math.Floor(x*scale)) / scale), nil
}

// noNegZero drops the sign of zero, as Python's ceil and floor return integers.
func noNegZero(f float64) float64 {
	if f == 0 {
		return 0
	}
	return f
}

// roundCommon is Python's round(n, prec): to even, on the exact value.
func roundCommon(n number, prec int) (Value, error) {
	if !n.isFloat {
		if prec >= 0 {
			return intOf(n.big()), nil
		}
		if prec < -maxIntDigits {
			return intVal(0), nil
		}
		return intOf(roundInt(n.big(), -prec)), nil
	}
	if math.IsNaN(n.f) || math.IsInf(n.f, 0) || prec > 330 {
		return floatVal(n.f), nil
	}
	if prec < -330 {
		return floatVal(math.Copysign(0, n.f)), nil
	}
	if prec >= 0 {
		f, err := strconv.ParseFloat(strconv.FormatFloat(n.f, 'f', prec, 64), 64)
		return floatVal(f), err
	}
	b, _ := big.NewFloat(math.Trunc(n.f)).Int(nil)
	r := roundInt(b, -prec)
	if frac := n.f - math.Trunc(n.f); frac != 0 {
		// Twice the distance decides exactly at a half.
		r = roundHalf(n.f, -prec)
	}
	f, _ := new(big.Float).SetInt(r).Float64()
	return floatVal(math.Copysign(math.Abs(f), n.f)), nil
}

func pow10(n int) *big.Int {
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
}

// roundInt rounds b to a multiple of 10**digits, half to even.
func roundInt(b *big.Int, digits int) *big.Int {
	unit := pow10(digits)
	q, m := new(big.Int).QuoRem(new(big.Int).Abs(b), unit, new(big.Int))
	c := new(big.Int).Lsh(m, 1).Cmp(unit)
	if c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	q.Mul(q, unit)
	if b.Sign() < 0 {
		q.Neg(q)
	}
	return q
}

func roundHalf(f float64, digits int) *big.Int {
	unit := new(big.Rat).SetInt(pow10(digits))
	r := new(big.Rat).SetFloat64(math.Abs(f))
	r.Quo(r, unit)
	q := new(big.Int).Quo(r.Num(), r.Denom())
	rest := new(big.Rat).Sub(r, new(big.Rat).SetInt(q))
	c := rest.Cmp(big.NewRat(1, 2))
	if c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	return q.Mul(q, pow10(digits))
}
