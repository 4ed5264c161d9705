"""Renders template cases with jinja2, set up as transformers sets it up.

    python oracle.py CASES.json OUT.json

CASES.json is a list of {name, template, cases: [{name, vars}]}. OUT.json is the
same with `output`, or `error` (the text of the exception) for cases that fail.
The clock of strftime_now stands at 2025-07-10 12:00:00.
"""

import copy
import datetime
import json
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_render")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


class Namespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attrs = dict(*args, **kwargs)
        for name in attrs:
            Namespace.check(name)
        jinja2.utils.Namespace.__init__(self, attrs)

    def __setitem__(self, name, value):
        Namespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"underscore-prefixed namespace attribute {name!r}")


class Dict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime(2025, 7, 10, 12, 0, 0).strftime(f)
    env.globals["dict"] = Dict()
    env.globals["namespace"] = Namespace
    return env


def render(env, template, vars):
    try:
        # A copy, because some filters (indent of a list) change their input.
        out = env.from_string(template).render(**copy.deepcopy(vars))
        out.encode()
        return {"output": out}
    except Exception as e:  # noqa: BLE001: every failure is a result here
        return {"error": f"{type(e).__name__}: {e}"[:200]}


def main(src, dst):
    env = environment()
    with open(src, encoding="utf-8") as f:
        templates = json.load(f)
    failed = total = 0
    for t in templates:
        for c in t["cases"]:
            c.pop("output", None)
            c.pop("error", None)
            c.update(render(env, t["template"], c["vars"]))
            total += 1
            failed += "error" in c
    with open(dst, "w", encoding="utf-8") as f:
        json.dump(templates, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    print(f"{len(templates)} templates, {total} cases, {failed} of them errors")


if __name__ == "__main__":
    main(*sys.argv[1:])
