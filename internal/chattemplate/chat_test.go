package chattemplate

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const chatML = `{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}`

func mustParse(t testing.TB, src string) *Template {
	t.Helper()
	tpl, err := Parse(src)
	if err != nil {
		t.Fatal(err)
	}
	return tpl
}

func TestRenderChat(t *testing.T) {
	all := "{{ bos_token }}|{{ eos_token is defined }}|{{ tools }}|{{ documents is none }}|{{ add_generation_prompt }}|{{ x }}|{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}|{{ messages | length }}"
	for _, c := range []struct {
		name, template string
		chat           Chat
		want           string
	}{
		{"prompt", chatML, Chat{Messages: json.RawMessage(`[{"role":"user","content":" hi "}]`), AddGenerationPrompt: true, EOSToken: "</s>"}, "<|user|>hi</s><|assistant|>"},
		{"continue", chatML, Chat{Messages: json.RawMessage(`[{"role":"user","content":"q"},{"role":"assistant","content":"The answer is "}]`), ContinueFinalMessage: true, EOSToken: "</s>"}, "<|user|>q</s><|assistant|>The answer is"},
		{"continue untrimmed", "{% for m in messages %}[{{ m.content }}]{% endfor %}", Chat{Messages: json.RawMessage(`[{"role":"assistant","content":"is "}]`), ContinueFinalMessage: true}, "[is "},
		{"continue parts", "{% for p in messages[0].content %}{{ p.text }};{% endfor %}", Chat{Messages: json.RawMessage(`[{"role":"assistant","content":[{"type":"text","text":"a"},{"type":"text","text":"b"},{"type":"image"}]}]`), ContinueFinalMessage: true}, "a;b"},
		{"defaults", all, Chat{Messages: json.RawMessage(`[{"role":"user","content":null}]`)}, "|False|None|True|False||||1"},
		{"all", all, Chat{
			Messages: json.RawMessage(`[{"role":"assistant","content":"a","reasoning":"r"}]`), Tools: json.RawMessage(`[{"b":1,"a":2.0}]`), Documents: json.RawMessage(`[]`), BOSToken: "<s>", EOSToken: "</s>",
			AddGenerationPrompt: true, Extra: map[string]json.RawMessage{"x": json.RawMessage(`{"k":true}`), "bos_token": json.RawMessage(`"<b>"`), "messages": json.RawMessage(`1`)},
		}, "<b>|True|[{'b': 1, 'a': 2.0}]|False|True|{'k': True}|r|r|1"},
	} {
		got, err := mustParse(t, c.template).RenderChat(c.chat, Options{})
		if err != nil || got != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

func TestRenderChatErrors(t *testing.T) {
	ok := json.RawMessage(`[{"role":"user","content":"a"}]`)
	for _, c := range []struct {
		name, template string
		chat           Chat
		want           string
	}{
		{"no list", chatML, Chat{Messages: json.RawMessage(`{}`)}, "messages: want a list"},
		{"absent", chatML, Chat{}, "messages: want a list"},
		{"no object", chatML, Chat{Messages: json.RawMessage(`[1]`)}, "messages[0]: want an object"},
		{"bad JSON", chatML, Chat{Messages: json.RawMessage(`[{]`)}, "messages: "},
		{"bad tools", chatML, Chat{Messages: ok, Tools: json.RawMessage(`[1`)}, "tools: "},
		{"bad extra", chatML, Chat{Messages: ok, Extra: map[string]json.RawMessage{"k": json.RawMessage(`x`)}}, "chat_template_kwargs.k"},
		{"both", chatML, Chat{Messages: ok, AddGenerationPrompt: true, ContinueFinalMessage: true}, "add_generation_prompt"},
		{"none to continue", chatML, Chat{Messages: json.RawMessage(`[]`), ContinueFinalMessage: true}, "empty"},
		{"null to continue", chatML, Chat{Messages: json.RawMessage(`[{"content":null}]`), ContinueFinalMessage: true}, "no text"},
		{"dropped", "{% for m in messages %}{{ m.content[0] }}{% endfor %}", Chat{Messages: json.RawMessage(`[{"content":"abc"}]`), ContinueFinalMessage: true}, "does not print"},
		{"unused", "x", Chat{Messages: ok, ContinueFinalMessage: true}, "does not use content"},
	} {
		_, err := mustParse(t, c.template).RenderChat(c.chat, Options{})
		if !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestFlattenTextParts(t *testing.T) {
	in := json.RawMessage(`[{"role":"user","content":[{"type":"text","text":"a\"é"},{"type":"text","text":"b"}],"n":1.0,"big":123456789012345678901},{"role":"assistant","content":"c"}]`)
	got, err := FlattenTextParts(in)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"role":"user","content":"a\"é\nb","n":1.0,"big":123456789012345678901},{"role":"assistant","content":"c"}]`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
	for src, path := range map[string]string{
		`[{"content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{}}]}]`: "messages[0].content[1]",
		`[{"content":"a"},{"content":[{"type":"input_audio"}]}]`:                         "messages[1].content[0]",
		`[{"content":[5]}]`:               "messages[0].content[0]",
		`[{"content":[{"type":"text"}]}]`: "messages[0].content[0]",
	} {
		_, err := FlattenTextParts(json.RawMessage(src))
		var pe *PartError
		if !errors.As(err, &pe) || pe.Path != path || !errors.Is(err, ErrInput) {
			t.Errorf("%s: got %v", src, err)
		}
	}
}

func TestWantsParts(t *testing.T) {
	for src, want := range map[string]bool{
		chatML: false,
		"{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}":                                         true,
		"{% for m in messages %}{% for p in m['content'] if p.type == 'text' %}{{ p.text }}{% endfor %}{% endfor %}":                  true,
		"{% for m in messages %}{% set c = m.content %}{% if c is not string %}{% for p in c %}{% endfor %}{% endif %}{% endfor %}":   true,
		"{% macro f(c) %}{% for p in c %}{{ p.text }}{% endfor %}{% endmacro %}{% for m in messages %}{{ f(m.content) }}{% endfor %}": true,
		"{% for m in messages %}{% for t in m.tool_calls %}{{ t }}{% endfor %}{% endfor %}":                                           false,
	} {
		if got := mustParse(t, src).WantsParts(); got != want {
			t.Errorf("%s: got %v", src, got)
		}
	}
}

func TestFromJSON(t *testing.T) {
	for src, want := range map[string]string{
		`{"b":1,"a":[1.0,-0,1e2,null,true],"b":2}`: `{'b': 2, 'a': [1.0, 0, 100.0, None, True]}`,
		`12345678901234567890`:                     `12345678901234567890`,
		`1e999`:                                    `inf`,
		`"\u00e9\ud83d\ude00"`:                     `é😀`,
	} {
		v, err := FromJSON([]byte(src))
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		got, err := mustParse(t, "{{ v }}").Render(Map(Pair{"v", v}), Options{})
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v", src, got, err)
		}
	}
	for _, src := range []string{``, `{`, `[1] 2`, `{"a"}`, `[1,]`, `nul`, `01`, strings.Repeat("[", 300) + strings.Repeat("]", 300), `[` + strings.Repeat("9", 5000) + `]`} {
		if _, err := FromJSON([]byte(src)); !errors.Is(err, ErrInput) {
			t.Errorf("%s: got %v, want ErrInput", clip(src), err)
		}
	}
}

func TestFromGo(t *testing.T) {
	v, err := FromGo(map[string]any{"z": []any{1, uint64(1 << 63), 2.0, "x", nil, true}, "a": json.Number("7"), "r": json.RawMessage(`{"k":[]}`), "p": new(int), "v": None()})
	if err != nil {
		t.Fatal(err)
	}
	got, err := mustParse(t, "{{ v }}").Render(Map(Pair{"v", v}), Options{})
	want := "{'a': 7, 'p': 0, 'r': {'k': []}, 'v': None, 'z': [1, 9223372036854775808, 2.0, 'x', None, True]}"
	if err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []any{make(chan int), map[int]int{}, []any{func() {}}} {
		if _, err := FromGo(bad); !errors.Is(err, ErrInput) {
			t.Errorf("%T: got %v", bad, err)
		}
	}
}

// TestConcurrent renders one template with shared variables at once.
func TestConcurrent(t *testing.T) {
	tpl := mustParse(t, llamaLike)
	msgs, err := FromJSON(tenMessages())
	if err != nil {
		t.Fatal(err)
	}
	vars := Map(Pair{"messages", msgs}, Pair{"bos_token", String("<s>")})
	want, err := tpl.Render(vars, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if got, err := tpl.Render(vars, Options{}); err != nil || got != want {
					t.Errorf("got %q, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
}
