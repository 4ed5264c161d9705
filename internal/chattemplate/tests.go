package chattemplate

import "strings"

// testFunc is a jinja test: `v is name(args)`.
type testFunc func(s *state, v Value, a *args) (bool, error)

var testTable map[string]testFunc

func init() {
	testTable = map[string]testFunc{
		"defined":   kind(func(v Value) bool { _, u := v.(*undefVal); return !u }),
		"undefined": kind(func(v Value) bool { _, u := v.(*undefVal); return u }),
		"none":      kind(func(v Value) bool { return v == none }),
		"boolean":   kind(func(v Value) bool { _, ok := v.(boolVal); return ok }),
		"true":      kind(func(v Value) bool { return v == boolVal(true) }),
		"false":     kind(func(v Value) bool { return v == boolVal(false) }),
		"integer":   kind(func(v Value) bool { _, b := v.(boolVal); return !b && v.typeName() == "int" }),
		"float":     kind(func(v Value) bool { _, ok := v.(floatVal); return ok }),
		"number":    kind(func(v Value) bool { _, ok := numberOf(v); return ok }),
		"string":    kind(func(v Value) bool { _, ok := strOf(v); return ok }),
		"mapping":   kind(func(v Value) bool { _, ok := v.(*dictVal); return ok }),
		"sequence":  kind(isSequence),
		"iterable":  kind(isIterable),
		"callable":  kind(isCallable),
		"escaped":   kind(func(v Value) bool { _, ok := v.(markupVal); return ok }),

		"upper": func(s *state, v Value, a *args) (bool, error) { t, err := s.testText(v, a); return isUpper(t), err },
		"lower": func(s *state, v Value, a *args) (bool, error) { t, err := s.testText(v, a); return isLower(t), err },

		"odd":         modTest(2, 1),
		"even":        modTest(2, 0),
		"divisibleby": testDivisible,
		"sameas":      testSame,
		"filter":      knownTest(func(name string) bool { return filterTable[name] != nil }),
		"test":        knownTest(func(name string) bool { return testTable[name] != nil }),
	}
	for op, names := range map[string]string{
		"==": "eq equalto ==", "!=": "ne !=", "<": "lt lessthan <", "<=": "le <=",
		">": "gt greaterthan >", ">=": "ge >=", "in": "in",
	} {
		for _, name := range strings.Fields(names) {
			testTable[name] = compareTest(op)
		}
	}
}

func kind(f func(Value) bool) testFunc {
	return func(_ *state, v Value, a *args) (bool, error) {
		if _, err := a.positional("test", 0, 0); err != nil {
			return false, err
		}
		return f(v), nil
	}
}

// knownTest asks whether a name is in a table; like there, only what has a hash
// can be asked for.
func knownTest(known func(string) bool) testFunc {
	return func(_ *state, v Value, a *args) (bool, error) {
		if _, err := a.positional("test", 0, 0); err != nil {
			return false, err
		}
		if _, err := hashKey(v, 0); err != nil {
			return false, err
		}
		name, ok := strOf(v)
		return ok && known(name), nil
	}
}

func compareTest(op string) testFunc {
	return func(s *state, v Value, a *args) (bool, error) {
		p, err := a.positional("test", 1, 1)
		if err != nil {
			return false, err
		}
		return s.compare(op, v, p[0])
	}
}

func isSequence(v Value) bool {
	switch v.(type) {
	case strVal, markupVal, *listVal, *tupleVal, *dictVal, *rangeVal, *undefVal:
		return true
	}
	return false
}

func isIterable(v Value) bool {
	switch v.(type) {
	case *viewVal, *iterVal, *loopVal:
		return true
	}
	return isSequence(v)
}

func isCallable(v Value) bool {
	switch v.(type) {
	case *funcVal, *macroVal, *loopVal, *joinerVal, *undefVal:
		return true
	}
	return false
}

func (s *state) testText(v Value, a *args) (string, error) {
	if _, err := a.positional("test", 0, 0); err != nil {
		return "", err
	}
	return s.str(v)
}

func modTest(by, want int64) testFunc {
	return func(s *state, v Value, a *args) (bool, error) {
		if _, err := a.positional("test", 0, 0); err != nil {
			return false, err
		}
		return s.remainderIs(v, intVal(by), intVal(want))
	}
}

func (s *state) remainderIs(v, by, want Value) (bool, error) {
	m, err := s.binary("%", v, by)
	if err != nil {
		return false, err
	}
	return s.equal(m, want, 0)
}

func testDivisible(s *state, v Value, a *args) (bool, error) {
	p, err := a.bind("divisibleby", 1, "num")
	if err != nil {
		return false, err
	}
	return s.remainderIs(v, p[0], intVal(0))
}

// testSame is Python's `is`. Equal small values are one object there.
func testSame(_ *state, v Value, a *args) (bool, error) {
	p, err := a.bind("sameas", 1, "other")
	if err != nil {
		return false, err
	}
	if x, ok := v.(bigVal); ok {
		y, ok := p[0].(bigVal)
		return ok && x.Int == y.Int, nil
	}
	return v == p[0], nil
}
