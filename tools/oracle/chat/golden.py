"""Our own templates and cases: python golden.py OUT.json renders them."""

import json
import sys

from oracle import environment, render

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather <now> & later", "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Ålesund"]}, "days": {"type": "integer", "default": 1, "minimum": 0.5}}, "required": ["city"]}}}]
CALL = {"id": "abc123def", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Ålesund", "days": 2, "f": 1e-7, "none": None}}}
U, A, S = (lambda c, **k: {"role": "user", "content": c, **k}), (lambda c, **k: {"role": "assistant", "content": c, **k}), {"role": "system", "content": " Be brief. "}

CHATS = {
    "one": {"messages": [U("Hi\n")], "add_generation_prompt": True},
    "many": {"messages": [S, U("a"), A(" b "), U("c 👋")], "add_generation_prompt": False},
    "tools": {"messages": [U("w?"), A("", tool_calls=[CALL]), {"role": "tool", "name": "get_weather", "content": "{\"t\": 3.0}"}], "tools": TOOLS, "add_generation_prompt": True},
    "thinking": {"messages": [U("1+1"), A("<think>\nhm\n</think>\n\n2"), U("?"), A("x", reasoning_content="why")], "enable_thinking": False},
    "parts": {"messages": [U([{"type": "text", "text": "see"}, {"type": "image"}, {"type": "text", "text": " that"}])], "add_generation_prompt": True},
    "wrong": {"messages": [A("a"), {"role": "critic", "content": None}]},
    "empty": {"messages": []},
}
for c in CHATS.values():
    c.update({"bos_token": "<s>", "eos_token": "</s>"})

MODELS = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "chatml default system": "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}\n",
    "llama like": """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|h|>system<|/h|>\\n\\n" }}
{%- if tools is not none and tools is defined %}
    {{- "Environment: ipython\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|h|>' + message['role'] + '<|/h|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("single tool-calls only") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|h|>ipython<|/h|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|h|>assistant<|/h|>\\n\\n' }}
{%- endif %}
""",
    "mistral like": """{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" or (message["role"] == "assistant" and message.tool_calls is not defined) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools and loop.last %}[TOOLS]{{ tools | map(attribute="function") | list | tojson }}[/TOOLS]{%- endif %}
        {{- "[INST] " + (system_message + "\\n\\n" if system_message is defined and loop.last else "") + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls %}
        {{- "[CALLS] [" }}{%- for tc in message.tool_calls %}{%- if not tc.id is defined or tc.id|length != 9 %}{{- raise_exception("id") }}{%- endif %}{%- set out = tc.function|tojson %}{{- out[:-1] }}{{- ', "id": "' + tc.id + '"}' }}{{- ", " if not loop.last else "]" + eos_token }}{%- endfor %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool" %}{%- set content = message.content.content if message.content.content is defined else message.content %}{{- '[RESULTS] {"content": ' + content|string + '}' }}
    {%- else %}{{- raise_exception("Only user and assistant roles, got " + message.role) }}{%- endif %}
{%- endfor %}""",
    "thinking": """{%- set ns = namespace(multi_step_tool=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not (message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set reasoning = '' %}
    {%- if message.reasoning_content is string %}
        {%- set reasoning = message.reasoning_content %}
    {%- elif '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- message.role ~ ':' }}
    {%- if reasoning and loop.index0 > ns.last %}{{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
    {{- content.lstrip('\\n') + '|' }}
    {%- for tc in message.tool_calls or [] %}{%- if tc.function %}{%- set tc = tc.function %}{%- endif %}{{- tc.name ~ (tc.arguments if tc.arguments is string else tc.arguments | tojson) }}{%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'A:' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}{%- endif %}""",
    "parts": "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content | trim }}{% elif m.content is iterable %}{% for p in m.content %}{% if p.type == 'image' %}<img>{% else %}{{ p['text'] | trim }}{% endif %}{% endfor %}{% else %}{{ raise_exception('bad content') }}{% endif %}{% endfor %}",
    "generation tag": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}",
    "xml tools": """{% macro type_of(spec) %}{% if spec.type == 'array' %}list[{{ type_of(spec['items']) }}]{% elif spec.enum %}Literal{{ spec.enum }}{% else %}{{ {'string': 'str', 'integer': 'int'}.get(spec.type, 'Any') }}{% endif %}{% endmacro %}
{%- for tool in tools or [] %}
{%- set fn = tool.function %}
def {{ fn.name }}({% for name, spec in fn.parameters.properties | dictsort %}{{ name }}: {{ type_of(spec) }}{{ ' = ' ~ spec.default if spec.default is defined }}{{ ', ' if not loop.last }}{% endfor %}):
{% endfor %}
{%- for m in messages %}{{ m.role | upper }}: {{ m.content | default('-', true) }}
{%- for tc in m.tool_calls %}<call {{ tc.function.name }}>{% for k, v in tc.function.arguments.items() %}<{{ k }}>{{ v | tojson if v is mapping or (v is iterable and v is not string) else v }}</{{ k }}>{% endfor %}{% endfor %}
{% endfor %}""",
    "alternating": "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{{ bos_token if loop.first }}{{ m['role']|title }}: {{ m['content'].strip() }}{{ eos_token if m.role == 'assistant' }}{% endfor %}",
    "date": "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%A %-d %B %y, %H:%M:%S %p %I %j %U %W %w %u %V %G %e %D %F %T %R %c|%z%Z|%%|%x %X %h %C %-m %-H %s'[:-3]) }}",
}

# Templates that need no chat.
V = {"l": [3, 1, 2], "d": {"b": 1, "a": [True, None, 1.5], "items": 0}, "s": "a\nb", "n": 5, "tree": [{"v": 1, "c": [{"v": 2, "c": []}, {"v": 3}]}, {"v": 4}]}
SNIPPETS = [
    # white space
    "  {% if true %}\n  a\n  {% endif %}\n b", "a  {%- if true -%}  b  {%- endif -%}  c", "  {%+ if true %}x{% endif +%}\n y", "a\n  {# c #}\nb", "a {#- c -#} b", "a\n\n {%- set x = 1 %}\n\nb", "x\n", "x\n\n", "\n{{ n }}\n\n", "{{ n }}\n  {{ n }}\n", "\t{% set a = 1 %}\t\nz", "a{{- n -}} b", "a{{+ n }}b",
    "{% raw %}{{ x }} {% y %}{% endraw %}", "  {% raw -%}  {{ x }}  {%- endraw %}\nb", "a\r\nb\rc\n", "{%- for x in l %}\n  {{ x }}\n{%- endfor %}", "{% for x in l %}\n  {{ x }}\n{% endfor %}\nend", "{#\n multi\n#}\nq", "{{ 'a' }}\n{# x +#}\nb", "{{'}}'}}{{ '%}' }}{{ {'a': {'b': 1}}.a.b }}", "{% if true %}{# nothing #}{% endif %}|",
    # literals
    "{{ 'a' 'b' }}{{ \"\\x41\\u00e9\\n\\t\\\\\\q\" }}{{ 'it\\'s' }}", "{{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1.5e3 }} {{ 1e-7 }} {{ 12345678901234567890123 }} {{ 1e16 }} {{ 1e22 }} {{ 123456789.123 }}", "{{ [1, 'a', none, true, 1.0, (1,), {}] }}", "{{ {'k': 'v', 1: [2], none: true} }}", "{{ ['\\'', '\"', '\\'\"', '\\n\\t\\x00\\u200b\\u00e9'] }}", "{{ (1, 2) }}{{ 1, 2 }}{{ () }}", "{{ True }}{{ False }}{{ None }}{{ none }}",
    # operators
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}", "{{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 1 == 1.0 == true }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }}", "{{ 1 in l }} {{ 'b' not in d }} {{ 'a' in s }} {{ not 1 in l }}", "{{ 'a' ~ 1 ~ none ~ 1.0 ~ [1] }}", "{{ 'ab' * 2 }} {{ [1] * 2 + [2] }} {{ 'x' + 'y' }}", "{{ 1 and 'x' }} {{ 0 or [] or 'z' }} {{ not '' }}", "{{ 'a' if n > 3 else 'b' }} {{ 'a' if n > 9 }}|{{ ('a' if n > 9) is defined }}", "{{ 1 + 2 | abs }} {{ -1 | abs }} {{ (-1) | abs }} {{ 'a' + 'b' | upper }}", "{{ 9223372036854775807 + 1 }} {{ 10 ** 30 // 7 }} {{ -10 ** 30 % 7 }}", "{{ 0.1 + 0.2 }} {{ 1 / 3 }} {{ 5.5 // 2 }} {{ -5.5 % 2 }}",
    # access
    "{{ d.items() | list }} {{ d['items'] }} {{ d.b }} {{ d['nope'] }}|{{ d.nope is defined }} {{ d.get('x', 3) }}", "{{ l[0] }}{{ l[-1] }}{{ l[9] }}{{ l.0 }}{{ l[1:] }}{{ l[::-1] }}{{ l[:-1] }}{{ s[::-1] }}{{ 'héllo'[1:3] }}{{ 'héllo'[-1] }}", "{{ nope }}{{ nope is undefined }}{{ nope | default('d') }}{{ '' | default('e', true) }}", "{{ d.keys() }} {{ d.values() }} {{ d.items() }}", "{{ 'a'.upper }}"[:0] + "{{ 'abc'['upper']() }}", "{{ d.__class__ }}{{ l.append }}{{ ''.__class__ is defined }}|", "{{ range(3) }} {{ range(1, 10, 3) | list }} {{ range(3)[1] }}",
    # loops
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}", "{% for x in [] %}x{% else %}none{% endfor %}", "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}e{% endfor %}", "{% for x in l %}{% continue %}{% else %}never finished{% endfor %}", "{% for i in tree recursive %}{{ i.v }}{{ loop.depth }}{% if i.c %}({{ loop(i.c) }}){% endif %}{% endfor %}", "{% for x in 'aabbc' %}{% if loop.changed(x) %}{{ x }}{% endif %}{{ loop.cycle('-', '+') }}{% endfor %}", "{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", "{% for x in nope %}a{% else %}b{% endfor %}", "{% for x in l | reverse %}{{ x }}{% endfor %}{% for x in d %}{{ x }}{% endfor %}", "{% for i in range(3) %}{% set n = n + i %}{{ n }} {% endfor %}{{ n }}", "{% for x in l %}{% set y = x %}{% endfor %}{{ y is defined }}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{% set j = joiner('|') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}",
    # scopes
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}", "{% set ns = namespace(a=0) %}{% for x in l %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "{% set a, b = 1, 2 %}{{ b }}{{ a }}{% set (c, d2) = [3, 4] %}{{ c }}", "{% set x %}a{{ n }}b{% endset %}{{ x }}{{ x | length }}", "{% set x | upper | trim %} abc {% endset %}[{{ x }}]", "{% filter upper %}a{{ s }}{% endfilter %}", "{% if false %}{% set n = 1 %}{% endif %}{{ n }}", "{% for x in [1] %}{% for y in [1] %}{{ q }}{% endfor %}{% set q = 2 %}{{ q }}{% endfor %}", "{% for x in [1, 2] %}{{ n }}{% set n = x %}{{ n }}{% endfor %}{{ n }}", "{% macro f() %}{{ later }}{% endmacro %}{% set later = 'L' %}{{ f() }}", "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{% set ns.c = 3 %}{{ ns.c }}{{ ns }}",
    # macros
    "{% macro f(a, b=2, c=b) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, c=9) }} {{ f(b=1, a=0) }} {{ f() }}", "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}", "{% macro f(x) %}[{{ caller(x) }}]{% endmacro %}{% call(y) f(3) %}{{ y * 2 }}{% endcall %}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro f(a) %}{% endmacro %}{{ f.name }}{{ f.arguments }}{{ f.caller }}", "{% macro f() %}{{ caller is defined }}{{ caller() if caller }}{% endmacro %}{{ f() }}{% call f() %}x{% endcall %}", "{% macro f(*a) %}{% endmacro %}", "{% macro g(x) %}<{{ x }}>{% endmacro %}{{ l | map('string') | map('upper') | join }}{{ g(*[1]) }}{{ g(**{'x': 2}) }}",
    # filters and tests
    "{{ d | tojson }}{{ d | tojson(indent=2) }}{{ '<é&\\u2028>' | tojson }}{{ 1.0 | tojson }}{{ [] | tojson(indent=1) }}", "{{ l | sort | join(',') }}{{ l | max }}{{ l | min }}{{ l | sum }}{{ l | first }}{{ l | last }}{{ l | length }}", "{{ 3.75 | round(1) }}{{ 2.5 | round }}{{ 3 | round }}{{ 2.1 | round(0, 'ceil') }}{{ 3.9 | int }}{{ '7' | int + 1 }}{{ 'x' | int(-1) }}{{ '1.5' | float }}", "{{ 'the quick-brown fox' | title }}{{ 'ABC' | capitalize }}{{ '  x ' | trim }}|{{ 'aXbX' | replace('X', '-', 1) }}", "{{ ('a' | safe) + '<' }}{{ '<a>' | e }}{{ '<' | escape ~ '>' }}", "{{ 'a\\nb\\n\\nc' | indent(2) }}|{{ 'a\\nb' | indent('--', true) }}", "{{ tree | map(attribute='v') | list }}{{ tree | selectattr('c') | list | length }}{{ l | select('gt', 1) | list }}{{ l | reject('odd') | list }}", "{{ d is mapping }}{{ l is sequence }}{{ s is string }}{{ n is number }}{{ 1.0 is float }}{{ none is none }}{{ f is defined }}{{ l is iterable }}{{ 4 is even }}{{ 4 is divisibleby 2 }}{{ 1 is in [1] }}{{ true is boolean }}{{ n is not integer }}", "{{ '%s=%05.1f|%-4d|%x' % ('a', 3.14159, 7, 255) }}{{ '%s' | format(1) }}", "{{ '{}-{:>4}-{x:.2f}'.format('a', 1, x=2.0) }}", "{{ 'a,b'.split(',') }}{{ ' a  b '.split() }}{{ 'abc'.find('c') }}{{ 'x'.join(['1', '2']) }}{{ 'aXb'.partition('X') }}", "{{ [{'a': 1, 'b': 2}, {'a': 1, 'b': 3}] | groupby('a') }}{% for g in [{'a': 1}, {'a': 2}] | groupby('a') %}{{ g.grouper }}{{ g.list | length }}{% endfor %}", "{{ range(7) | batch(3) | list }}{{ range(7) | slice(3, 'x') | list }}{{ [1, 1, 2] | unique | list }}", "{{ {'b': 2, 'A': 1} | dictsort }}{{ {'b': 2} | items | list }}{{ 'a b&c/d' | urlencode }}{{ {'q': 'a b'} | urlencode }}",
    # errors
    "{{ nope.x }}", "{{ nope['x'] }}", "{{ nope() }}", "{{ nope + 1 }}", "{{ 'a' + 1 }}", "{{ 1 + none }}", "{{ 1 / 0 }}", "{{ 1 < 'a' }}", "{{ none | length }}", "{{ n | tojson(bad=1) }}", "{{ raise_exception('x') }}", "{{ l | nope }}", "{{ l is nope }}", "{{ l | nope if false }}", "{% if true %}{{ 1 | nope }}{% endif %}", "{{ d.pop('b') }}", "{% set d.b = 1 %}", "{% set nope.b = 1 %}", "{% for x in 5 %}{% endfor %}", "{% for x in none %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% set a, b = 1, 2, 3 %}", "{{ {}[[]] }}|{{ {[]: 1} }}", "{{ nope | tojson }}", "{{ d.items | tojson }}", "{{ 'a' in 5 }}", "{{ 5 in 'a5' }}", "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", "{{ range(200000) | length }}", "{% set ns = namespace() %}{% set ns._x = 1 %}", "{{ 'abc'.index('z') }}", "{{ ''.join([1]) }}", "{{ loop.index }}", "{% for x in l %}{{ loop(x) }}{% endfor %}", "{{ cycler() }}", "{{ [1, 'a'] | sort }}", "{{ 10 ** 5000 }}",
    # syntax errors
    "{{", "{% if %}", "{% if x %}", "{% endif %}", "{{ 1 + }}", "{{ (1 }}", "{{ 1) }}", "{% for x %}{% endfor %}", "{% bogus %}", "{{ 'a }}", "{# open", "{% raw %}", "{% set 1 = 2 %}", "{% set true = 2 %}", "{{ a.b. }}", "{{ a[ }}", "{% break %}", "{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "{% for loop in l %}{% endfor %}", "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% do l.append(1) %}", "{{ x is a is b }}", "{{ f(a=1, 2) }}", "{{ a ? b : c }}", "{{ 1 if }}", "{% macro f(a=1, b) %}{% endmacro %}", "{% call 1 %}{% endcall %}", "{% else %}", "{% if a %}{% else %}{% elif b %}{% endif %}", "{{ $ }}", "{{ a & b }}", "{% set x = %}", "{{ }}", "{{ [1, 2 }}", "{% generation %}x",
]


def main(out):
    env = environment()
    templates = [{"name": n, "template": t, "cases": [{"name": k, "vars": v} for k, v in CHATS.items()]} for n, t in MODELS.items()]
    templates += [{"name": f"snippet {i}", "template": t, "cases": [{"name": "v", "vars": V}]} for i, t in enumerate(SNIPPETS)]
    for t in templates:
        for c in t["cases"]:
            c.update(render(env, t["template"], c["vars"]))
    with open(out, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(t, ensure_ascii=False) for t in templates) + "\n]\n")
    print(f"{len(templates)} templates, {sum(len(t['cases']) for t in templates)} cases")


if __name__ == "__main__":
    main(*sys.argv[1:])
