"""Writes random expressions and what jinja2 makes of them:

    python generate.py COUNT SEED OUT.json

OUT.json is {vars, cases: [[template, output or null for an error], ...]}. The
grammar mixes types freely, so that many cases are errors; a third is kept.
Results that name addresses are left out.
"""

import json
import random
import re
import sys

from oracle import environment, render

VARS = {
    "s": "Hello, World", "t": "  two  words\tand\nlines ", "u": "Ærøskøbing ß 日本 👋", "q": "it's \"x\" <b>&</b>",
    "e": "", "i": 7, "n": -3, "z": 0, "big": 123456789012345678901234567890, "f": 2.5, "g": -0.1, "h": 1e20, "b": True, "c": False, "none_": None,
    "l": [3, 1, 2], "m": ["b", "A", "c", "a"], "x": [1, "a", None, 2.5, True], "el": [],
    "d": {"z": 1, "a": {"k": [1, 2]}, "B": "v", "items": 5}, "ed": {},
    "users": [{"name": "Ann", "age": 31, "tags": ["x"]}, {"name": "bob", "age": 27, "tags": []}, {"name": "Cy", "age": 27}],
    "dt": {"pi": 3.14159, "nested": [{"a": [[]]}, {}], "s": "é\n\u0007\"\\"},
}
ATOMS = list(VARS) + [
    "missing", "'abc'", '"a\\nb"', "''", "'%s-%d'", "'{}|{:>5}'", "0", "1", "2", "-1", "10", "255", "1.0", "0.5", "1e3", "1_000", "true", "none",
    "[1, 2, 3]", "[[1, 2], [3]]", "(1, 'a')", "(1,)", "()", "{'a': 1, 2: 'b'}", "range(4)", "range(5, 0, -2)", "users[0]", "users[0].name", "d.a.k", "d['a']",
    "d.items()", "namespace(a=1)", "dict(a=1, b='x')", "'3.7'", "'0x1f'", "' 42 '", "'a,b,,c'", "'title case-word (x)'",
]
NUM = ["0", "1", "2", "-1", "3", "-2", "5", "i", "n", "z", "100"]
BINOPS = ["+", "-", "*", "/", "//", "%", "~", "~", "+"]
CMPS = ["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
FILTERS = """abs capitalize count d default e escape first float forceescape int items join last length list lower
max min reverse round safe sort string sum title tojson trim truncate unique upper urlencode wordcount dictsort indent striptags filesizeformat""".split()
ARG_FILTERS = [
    "default({a})", "default({a}, true)", "d({a}, boolean=true)", "join({a})", "join(', ')", "join(', ', attribute='name')", "replace('a', {a})", "replace('l', 'L', {n})",
    "replace({a}, '-')", "indent({n})", "indent(2, true)", "indent('> ', blank=true)", "indent(width=3, first=true, blank=true)", "round({n})", "round(1)", "round({n}, 'floor')", "round(2, 'ceil')",
    "batch({n}) | list", "batch(2, {a}) | list", "slice({n}) | list", "slice(2, 'x') | list", "tojson(indent={n})", "tojson(indent=2)", "tojson(sort_keys=true)", "tojson(ensure_ascii=true)",
    "tojson(separators=(',', ':'))", "tojson(indent=4, sort_keys=true)", "truncate({n})", "truncate(8, true)", "truncate(9, false, '…', 0)", "center({n})", "center(20)",
    "map('upper') | list", "map(attribute='name') | list", "map(attribute='age', default={a}) | list", "map('length') | join('+')", "map('string') | list", "map('default', {a}) | list", "map('int') | sum",
    "select | list", "reject | list", "select('odd') | list", "select('string') | list", "reject('none') | list", "select('equalto', {a}) | list", "select('in', {a}) | list", "select('gt', {n}) | list",
    "selectattr('age') | list", "selectattr('age', 'gt', 27) | map(attribute='name') | list", "rejectattr('tags') | list | length", "selectattr('name', 'equalto', 'bob') | first",
    "groupby('age') | list", "groupby('name') | map('first') | list", "groupby('age') | map(attribute='list') | map('length') | list", "groupby('tags', default={a}) | list",
    "sort(reverse=true)", "sort(case_sensitive=true)", "sort(attribute='age')", "sort(attribute='age,name')", "sort(false, true)", "unique(case_sensitive=true) | list", "unique | list", "unique(attribute='age') | list",
    "dictsort(by='value')", "dictsort(true)", "dictsort(reverse=true)", "items | list", "sum(start={a})", "sum(attribute='age')", "min(attribute='age')", "max(case_sensitive=true)", "max(attribute='name')",
    "int({a})", "int(base=16)", "int(0, 2)", "float({a})", "attr('upper')", "attr({a})", "format({a})", "format({a}, {b})", "trim({a})", "trim('lo')", "reverse | list", "reverse | join", "xmlattr", "xmlattr(false)",
    "wordcount", "string | length", "list | tojson", "list | last", "first | upper", "filesizeformat(true)", "striptags", "urlencode",
]
METHODS = [
    "upper()", "lower()", "strip()", "lstrip()", "rstrip()", "strip({a})", "lstrip('H ')", "rstrip('d\\n ')", "split()", "split({a})", "split(',')", "split(' ', {n})", "rsplit(None, {n})", "rsplit('o', 1)", "split(maxsplit=1)",
    "split(sep='l', maxsplit={n})", "splitlines()", "splitlines(true)", "startswith({a})", "startswith(('He', 'x'))", "endswith('d')", "endswith({a}, {n})", "find('o')", "find({a}, {n})", "rfind('o')", "index('l')", "rindex({a})",
    "replace('l', {a})", "replace('o', '0', {n})", "replace('', '.')", "count('l')", "count({a})", "count('o', {n}, {m})", "title()", "capitalize()", "swapcase()", "casefold()", "center({n})", "center(15, '*')", "ljust(14, '.')", "rjust({n})", "zfill(14)", "zfill({n})",
    "join({a})", "join(m)", "isdigit()", "isalpha()", "isalnum()", "isspace()", "isupper()", "islower()", "istitle()", "isnumeric()", "isdecimal()", "isidentifier()", "isascii()", "isprintable()", "partition({a})", "partition(' ')", "rpartition('o')",
    "removeprefix('He')", "removesuffix({a})", "expandtabs()", "expandtabs({n})", "format({a}, {b})", "format(1, 2.5)", "format(a=1)", "format_map(d)", "get({a})", "get('z')", "get('q', {a})", "keys() | list", "values() | list", "items() | list", "copy()", "pop()", "append(1)",
    "update({'a': 1})", "index(1)", "index({a})", "count(1)", "real", "imag", "name", "a", "k", "z", "missing", "__class__", "_private", "is_integer()", "bit_length()", "numerator", "start", "fromkeys([1, 2])",
]
TESTS = """defined undefined none boolean true false integer float number string mapping sequence iterable callable odd even lower upper escaped filter test""".split()
ARG_TESTS = ["eq {a}", "ne {a}", "lt {a}", "ge({a})", "divisibleby 3", "divisibleby({n})", "in {a}", "in([1, 'a', none])", "sameas true", "sameas(none)", "equalto({a})", "==(1)"]
FORMATS = ["'{:d}'", "'{:5d}|{:<5}'", "'{:05.1f}'", "'{:,}'", "'{:+.2e}'", "'{:x}'", "'{:#b}'", "'{:^9}'", "'{:*>8}'", "'{:.3}'", "'{0}{0!r}'", "'{a[0]}{b}'", "'{:%}'", "'{:g}'", "'{:08,.2f}'", "'{{{}}}'", "'{:_}'", "'{1} {0}'", "'{:{}}'", "'{.name}'", "'{:c}'", "'{:G}'", "'{:n}'"]
PERCENTS = ["'%d'", "'%5d|'", "'%-6s|'", "'%05.1f'", "'%+d'", "'%x %X'", "'%r'", "'%s %s'", "'%(a)s'", "'%.2f%%'", "'%e'", "'%g'", "'%c'", "'%o'", "'%#x'", "'% d'", "'%.3s'", "'%*d'", "'%i'", "'%.3d'", "'%010.3f'", "'%-+8.2e|'"]


class Gen:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def pick(self, xs):
        return self.r.choice(xs)

    def fill(self, t, depth):
        for key, make in (("{a}", lambda: self.expr(depth - 2)), ("{b}", lambda: self.expr(depth - 2)), ("{n}", lambda: self.pick(NUM)), ("{m}", lambda: self.pick(NUM))):
            t = t.replace(key, make())
        return t

    def expr(self, depth):
        if depth <= 0 or self.r.random() < 0.12:
            return self.pick(ATOMS)
        sub = lambda: self.expr(depth - 1)  # noqa: E731
        k = self.r.randrange(26)
        if k < 4:
            return f"{sub()} | {self.pick(FILTERS)}"
        if k < 8:
            return f"{sub()} | {self.fill(self.pick(ARG_FILTERS), depth)}"
        if k < 12:
            return f"({sub()}).{self.fill(self.pick(METHODS), depth)}"
        if k < 15:
            if self.r.random() < 0.1:  # whole exponents: there are no complex numbers
                return f"({sub()} ** {self.pick(NUM)})"
            return f"({sub()} {self.pick(BINOPS)} {sub()})"
        if k == 15:
            return f"({sub()} {self.pick(CMPS)} {sub()})"
        if k == 16:
            return f"({sub()} {self.pick(CMPS)} {sub()} {self.pick(CMPS)} {sub()})"
        if k == 17:
            return f"({sub()} {self.pick(['and', 'or'])} {self.pick(['', 'not '])}{sub()})"
        if k == 18:
            tail = f" else {sub()}" if self.r.random() < 0.6 else ""
            return f"({sub()} if {sub()}{tail})"
        if k == 19:
            t = self.pick(TESTS) if self.r.random() < 0.5 else self.fill(self.pick(ARG_TESTS), depth)
            return f"({sub()} is {self.pick(['', 'not '])}{t})"
        if k == 20:
            return f"({sub()})[{self.pick(NUM + ['b', 's', repr('a'), repr('name'), '1.0'])}]"
        if k == 21:
            part = lambda: self.pick(["", "", *NUM])  # noqa: E731
            step = f":{part()}" if self.r.random() < 0.5 else ""
            # Of a constant, jinja would compute the slice when it compiles.
            return f"(l and {sub()} or s)[{part()}:{part()}{step}]"
        if k == 22:
            return self.pick([f"[{sub()}, {sub()}]", f"{{'k': {sub()}, {self.pick(NUM)}: {sub()}}}", f"({sub()}, {sub()})", f"{sub()}, {sub()}"] if depth > 2 else [f"[{sub()}]"])
        if k == 23:
            return f"{self.pick(FORMATS)}.format({sub()}{self.pick(['', ', ' + sub(), ', a=' + sub()])})"
        if k == 24:
            arg = self.pick([sub(), f"({sub()}, {sub()})", "{'a': " + sub() + "}"])
            return f"({self.pick(PERCENTS)} % {arg})"
        return f"{self.pick(['-', '+', 'not '])}{sub()}" if self.r.random() < 0.5 else f"(-({sub()}))"

    def template(self):
        e = self.expr(self.r.randint(1, 4))
        k = self.r.randrange(10)
        if k == 0:
            extra = self.pick(["loop.index", "loop.last", "loop.length", "loop.previtem", "loop.nextitem", "loop.revindex0", "loop.cycle('x', 'y')", "loop.changed(v)"])
            cond = self.pick(["", f" if {self.expr(2)}", " if v", " if loop is defined"])
            return f"{{% for v in {e}{cond} %}}[{{{{ v }}}}{{{{ {extra} }}}}]{{% else %}}none{{% endfor %}}"
        if k == 1:
            return f"{{% set a, b2 = {e}, {self.expr(2)} %}}{{% if a %}}{{{{ a }}}}{{% elif b2 %}}{{{{ b2 }}}}{{% endif %}}"
        return f"{{{{ {e} }}}}"


UNSTABLE = re.compile(r"0x[0-9a-f]{6,}|<generator|<function|<built-in|<bound|<class|<Macro|<jinja2|<itertools|<__main__|<oracle|<list_rev|<dict_rev|<reversed|<Markup|generator object")


def main(count, seed, out):
    env, gen = environment(), Gen(int(seed))
    cases, seen = [], set()
    while len(cases) < int(count):
        t = gen.template()
        if t in seen or len(t) > 240:
            continue
        seen.add(t)
        r = render(env, t, VARS)
        text = r.get("output")
        if text is None and gen.r.random() < 0.75 or text is not None and (len(text) > 400 or UNSTABLE.search(text)):
            continue
        cases.append([t, text])
    with open(out, "w", encoding="utf-8") as f:
        f.write('{"vars":' + json.dumps(VARS, ensure_ascii=False) + ',\n"cases":[\n')
        f.write(",\n".join(json.dumps(c, ensure_ascii=False) for c in cases))
        f.write("\n]}\n")
    print(f"{len(cases)} cases, {sum(c[1] is None for c in cases)} errors")


if __name__ == "__main__":
    main(*sys.argv[1:])
