package rest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"chorale/proto/gen/openapi"
	"chorale/services/auth"
	"chorale/services/rest/apidoc"
	"chorale/services/rest/docspage"
)

// document reads and validates a server's /openapi.json.
func document(t *testing.T, s *server) *openapi3.T {
	t.Helper()
	code, _, body := s.call("GET", "/openapi.json", "")
	if code != 200 {
		t.Fatal(code)
	}
	doc, err := openapi3.NewLoader().LoadFromData([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestOpenAPI: the document is valid and has every route with all its methods,
// those of the generated one included.
func TestOpenAPI(t *testing.T) {
	s := serve(t)
	doc := document(t, s)
	var native struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal(openapi.Document, &native); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{}
	for path, ops := range native.Paths {
		want[path] = slices.Sorted(maps.Keys(ops))
	}
	handler := s.Config.Handler.(*outer).next
	for _, rt := range slices.Concat(slices.Collect(maps.Values(handler.exact)), handler.prefixes) {
		if rt.path == nativePrefix || rt.path == "/" || strings.HasPrefix(rt.path, "/docs/") {
			continue
		}
		if !slices.Contains(apidoc.Documented(), rt.path) && rt.doc != "" && !slices.Contains([]string{"/health", "/health_generate", "/ping"}, rt.path) {
			t.Errorf("%s: neither what goes in nor what comes out is documented", rt.path)
		}
		path := rt.path
		if strings.HasSuffix(path, "/") {
			path += "{id}"
		}
		for _, m := range rt.methods {
			if m != http.MethodHead {
				want[path] = append(want[path], strings.ToLower(m))
			}
		}
		slices.Sort(want[path])
	}
	ids := map[string]string{}
	for path, item := range doc.Paths.Map() {
		var got []string
		for m, op := range item.Operations() {
			got = append(got, strings.ToLower(m))
			if op.Summary == "" || ids[op.OperationID] != "" || len(op.Tags) != 1 || doc.Tags.Get(op.Tags[0]) == nil {
				t.Errorf("%s %s: summary %q, id %q as %s, tags %v", m, path, op.Summary, op.OperationID, ids[op.OperationID], op.Tags)
			}
			ids[op.OperationID] = m + " " + path
		}
		slices.Sort(got)
		if !slices.Equal(got, want[path]) {
			t.Errorf("%s: %v, want %v", path, got, want[path])
		}
		delete(want, path)
	}
	if len(want) > 0 {
		t.Errorf("not in the document: %v", want)
	}
}

// TestOpenAPISurfaces: the document of an address has what it takes.
func TestOpenAPISurfaces(t *testing.T) {
	answers := document(t, serve(t, func(o *Options) { o.Keys = (*auth.Keys)(nil).At(auth.NoAdmin) }))
	admin := document(t, serve(t, func(o *Options) { o.Keys = (*auth.Keys)(nil).At(auth.OnlyAdmin) }))
	for path, here := range map[string][2]bool{
		"/generate": {true, false}, "/load_lora_adapter": {false, true}, "/chorale/v1/adapters": {false, true},
		"/chorale/v1/generate": {true, false}, "/v1/models": {true, true}, "/health": {true, true},
	} {
		if got := [2]bool{answers.Paths.Value(path) != nil, admin.Paths.Value(path) != nil}; got != here {
			t.Errorf("%s: %v, want %v", path, got, here)
		}
	}
}

// TestDocumentedFieldsAreRead: a field of the compatible faces' requests with a
// value of no type that it takes is refused by its name: it is not ignored.
func TestDocumentedFieldsAreRead(t *testing.T) {
	s := serve(t)
	doc := document(t, s)
	// What a request needs beside the field, and what stands for a field that is
	// an object.
	need := map[string]string{
		"/generate": `"text":"x"`, "/v1/completions": `"prompt":"x"`, "/v1/chat/completions": `"messages":[{"role":"user","content":"x"}]`,
		"/tokenize": `"prompt":"x"`, "/detokenize": `"tokens":[257]`, "/load_lora_adapter": `"lora_name":"n","lora_path":"/p"`,
		"/unload_lora_adapter": `"lora_name":"n"`, "/v1/load_lora_adapter": `"lora_name":"n","lora_path":"/p"`,
		"/v1/unload_lora_adapter": `"lora_name":"n"`, "/abort_request": `"rid":"x"`,
	}
	for path, rest := range need {
		schema := doc.Paths.Value(path).Post.RequestBody.Value.Content["application/json"].Schema.Value
		for name, p := range schema.Properties {
			s.refuses(path, rest, name, "%s", p.Value)
			if sub := p.Value; sub.Type.Is("object") && len(sub.Properties) > 0 && name != "response_format" {
				for inner, q := range sub.Properties {
					s.refuses(path, rest+`,"stream":true`, name+"."+inner, `{"`+inner+`":%s}`, q.Value)
				}
			}
		}
	}
	for name, p := range doc.Components.Schemas["SGLangSamplingParams"].Value.Properties {
		s.refuses("/generate", need["/generate"], "sampling_params."+name, `{"`+name+`":%s}`, p.Value)
	}
}

// refuses sends a value of the wrong type where wrap has it in the field.
func (s *server) refuses(path, rest, field, wrap string, schema *openapi3.Schema) {
	s.t.Helper()
	bad := `{"no":[{}]}`
	if schema.Type.Is("object") || slices.ContainsFunc(schema.AnyOf, func(o *openapi3.SchemaRef) bool { return o.Value.Type.Is("object") }) {
		bad = "7"
	}
	top, _, _ := strings.Cut(field, ".")
	// The field replaces the same one among those that a request needs.
	rest = regexp.MustCompile(`(^|,)"`+top+`":(\[.*\]|"[^"]*"|true)`).ReplaceAllString(rest, "")
	body := fmt.Sprintf(`{"%s":`+wrap, top, bad)
	if rest = strings.TrimPrefix(rest, ","); rest != "" {
		body += "," + rest
	}
	switch top { // of which there may be one only
	case "messages", "input_ids":
		body = strings.NewReplacer(`,"prompt":"x"`, "", `,"text":"x"`, "").Replace(body)
	case "chat_template_kwargs", "add_generation_prompt", "continue_final_message":
		body = strings.Replace(body, `"prompt":"x"`, `"messages":[{"role":"user","content":"x"}]`, 1)
	}
	if code, out := s.post(path, body+"}"); code != 400 || !strings.Contains(out, field) {
		s.t.Errorf("POST %s %s = %d %s, want 400 with %s", path, body+"}", code, out, field)
	}
}

// TestDocsPage: the page may ask nobody but its own server, and does not want to.
func TestDocsPage(t *testing.T) {
	s := serve(t)
	elsewhere := regexp.MustCompile(`https?://[^w]|[^:]//[a-z]|data:|\bon[a-z]+=|style=|<script>|innerHTML|eval\(`)
	for _, path := range docspage.Paths {
		code, h, body := s.call("GET", path, "")
		if code != 200 || !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'") || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, code, h)
		}
		if found := elsewhere.FindString(body); found != "" {
			t.Errorf("%s holds %q", path, found)
		}
	}
	if code, h, _ := s.call("GET", "/docs/page.js", ""); code != 200 || h.Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("%d %v", code, h)
	}
}
