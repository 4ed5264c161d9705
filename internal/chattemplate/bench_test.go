package chattemplate

import (
	"encoding/json"
	"fmt"
	"testing"
)

// llamaLike is in the manner of Llama 3.1's template.
const llamaLike = `{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {{- message.tool_calls[0].function.arguments | tojson }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
`

func tenMessages() json.RawMessage {
	var msgs []map[string]string
	for i := range 10 {
		role := []string{"user", "assistant"}[i%2]
		msgs = append(msgs, map[string]string{"role": role, "content": fmt.Sprintf(" message number %d, with some words in it ", i)})
	}
	b, err := json.Marshal(msgs)
	if err != nil {
		panic(err)
	}
	return b
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := Parse(llamaLike); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRender renders values that are ready.
func BenchmarkRender(b *testing.B) {
	t, err := Parse(llamaLike)
	if err != nil {
		b.Fatal(err)
	}
	msgs, err := FromJSON(tenMessages())
	if err != nil {
		b.Fatal(err)
	}
	vars := Map(Pair{"messages", msgs}, Pair{"bos_token", String("<s>")}, Pair{"add_generation_prompt", Bool(true)})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := t.Render(vars, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRenderChat is a request's whole way, from JSON to text.
func BenchmarkRenderChat(b *testing.B) {
	t, err := Parse(llamaLike)
	if err != nil {
		b.Fatal(err)
	}
	c := Chat{Messages: tenMessages(), AddGenerationPrompt: true, BOSToken: "<s>"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := t.RenderChat(c, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
