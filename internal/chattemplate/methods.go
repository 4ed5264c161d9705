package chattemplate

var dictMutators = map[string]bool{"clear": true, "pop": true, "popitem": true, "setdefault": true, "update": true}

var listMutators = map[string]bool{
	"append": true, "clear": true, "pop": true, "reverse": true,
	"insert": true, "sort": true, "extend": true, "remove": true,
}

// dictMethods are the reading methods of Python's dict.
var dictMethods = map[string]methodFunc{
	"items": viewMethod(viewItems), "keys": viewMethod(viewKeys), "values": viewMethod(viewValues),
	"get": func(_ *state, v Value, a *args) (Value, error) {
		p, err := a.positional("get", 1, 2)
		if err != nil {
			return nil, err
		}
		d := v.(*dictVal)
		i, err := d.find(p[0])
		switch {
		case err != nil:
			return nil, err
		case i >= 0:
			return d.vals[i], nil
		case p[1] != nil:
			return p[1], nil
		}
		return none, nil
	},
	"copy": func(s *state, v Value, a *args) (Value, error) {
		if _, err := a.positional("copy", 0, 0); err != nil {
			return nil, err
		}
		d := v.(*dictVal)
		return d.clone(), s.items(len(d.keys))
	},
	"fromkeys": func(s *state, _ Value, a *args) (Value, error) { return dictFromKeys(s, a) },
}

func viewMethod(k viewKind) methodFunc {
	return func(_ *state, v Value, a *args) (Value, error) {
		if _, err := a.positional("dict view", 0, 0); err != nil {
			return nil, err
		}
		return &viewVal{dict: v.(*dictVal), kind: k}, nil
	}
}

func dictFromKeys(s *state, a *args) (Value, error) {
	p, err := a.positional("fromkeys", 1, 2)
	if err != nil {
		return nil, err
	}
	keys, err := s.list(p[0])
	if err != nil {
		return nil, err
	}
	val := none
	if p[1] != nil {
		val = p[1]
	}
	d := newDict(len(keys))
	for _, k := range keys {
		if err := d.set(k, val); err != nil {
			return nil, err
		}
	}
	return d, s.items(len(keys))
}

var tupleMethods = map[string]methodFunc{"count": seqCount, "index": seqIndex}

var listMethods = map[string]methodFunc{
	"count": seqCount, "index": seqIndex,
	"copy": func(s *state, v Value, a *args) (Value, error) {
		if _, err := a.positional("copy", 0, 0); err != nil {
			return nil, err
		}
		items, err := s.joinItems(v.(*listVal).items, nil)
		return &listVal{items}, err
	},
}

func seqCount(s *state, v Value, a *args) (Value, error) {
	p, err := a.positional("count", 1, 1)
	if err != nil {
		return nil, err
	}
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, it := range items {
		eq, err := s.equal(it, p[0], 0)
		if err != nil {
			return nil, err
		}
		if eq {
			n++
		}
	}
	return intVal(n), s.items(len(items))
}

func seqIndex(s *state, v Value, a *args) (Value, error) {
	p, err := a.positional("index", 1, 3)
	if err != nil {
		return nil, err
	}
	items, err := s.list(v)
	if err != nil {
		return nil, err
	}
	var b [3]*int
	for i, x := range p[1:] {
		if x == nil {
			continue
		}
		n, ok := numberOf(x)
		if !ok || n.isFloat {
			return nil, errorf("slice indices must be integers or have an __index__ method")
		}
		k := clampIndex(n)
		b[i] = &k
	}
	sp, err := spanOf(len(items), b)
	if err != nil {
		return nil, err
	}
	for i := sp.start; i < sp.start+sp.count; i++ {
		eq, err := s.equal(items[i], p[0], 0)
		if err != nil {
			return nil, err
		}
		if eq {
			return intVal(i), s.step(i)
		}
	}
	return nil, errorf("%s.index(x): x not in %s", v.typeName(), v.typeName())
}
