package apidoc

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"chorale/services/auth"
)

// Route is a route beside the native API's.
type Route struct {
	// Path ends in "/" where the rest of it is an id.
	Path    string
	Methods []string
	Summary string
}

// Document is what the document is made of.
type Document struct {
	// Native is the generated OpenAPI 2.0 document of the native API.
	Native  []byte
	Version string
	Routes  []Route
	// Level says what a call needs, and Served whether it is taken here.
	Level  func(method, path string) auth.Level
	Served func(auth.Level) bool
}

// tags group the operations, in this order.
var tags = []struct{ name, text string }{
	{"OpenAI", "Completions, chats and models as OpenAI's clients know them. An adapter is a model."},
	{"SGLang", "Generation with a list of adapters, loads and state as SGLang has them."},
	{"vLLM", "Loads and tokens as vLLM has them."},
	{"Inference", "The native API: everything the server can do. gRPC has the same messages."},
	{"Adapters", "The native API: what there is, loads, versions, their shares."},
	{"Operations", "Health, metrics, versions."},
}

// JSON writes the document, OpenAPI 3.0.
func (d *Document) JSON() ([]byte, error) {
	paths, schemas := map[string]any{}, map[string]any{}
	if len(d.Native) > 0 {
		var err error
		if paths, schemas, err = convert(d.Native); err != nil {
			return nil, err
		}
	}
	for _, all := range []map[string]schema{sglangSchemas, openAISchemas, vllmSchemas} {
		for name, s := range all {
			schemas[name] = s
		}
	}
	for _, r := range d.Routes {
		path, item := r.item()
		paths[path] = item
	}
	d.finish(paths)
	listed := []any{}
	for _, t := range tags {
		listed = append(listed, map[string]any{"name": t.name, "description": t.text})
	}
	return json.MarshalIndent(map[string]any{
		"openapi": "3.0.3",
		"info": map[string]any{
			"title": "Chorale", "version": d.Version,
			"description": "Many LoRA adapters over one base model. Where an operation refuses a field, the error names it; what is refused is listed in docs/reference/api.md.",
		},
		"tags": listed, "paths": paths,
		"components": map[string]any{
			"schemas":         schemas,
			"securitySchemes": map[string]any{"key": map[string]any{"type": "http", "scheme": "bearer", "description": "--api-key, or --admin-api-key for what changes adapters. Nothing is needed where no key is set."}},
		},
	}, "", " ")
}

// finish says which key each operation needs, names the native API's groups and
// leaves out what is not taken here.
func (d *Document) finish(paths map[string]any) {
	for path, item := range paths {
		ops := item.(map[string]any)
		for method, op := range ops {
			level := d.Level(strings.ToUpper(method), path)
			if !d.Served(level) {
				delete(ops, method)
				continue
			}
			o := op.(map[string]any)
			if names, ok := o["tags"].([]string); ok && len(names) == 1 {
				o["tags"] = []string{strings.NewReplacer("InferenceService", "Inference", "AdapterService", "Adapters").Replace(names[0])}
			}
			o["x-key"] = level.String()
			o["security"] = []any{map[string]any{"key": []string{}}, map[string]any{}}
			if level == auth.Open {
				o["security"] = []any{}
			}
		}
		if len(ops) == 0 {
			delete(paths, path)
		}
	}
}

// item is a route's part of the document.
func (r *Route) item() (path string, ops map[string]any) {
	path = r.Path
	var parameters []any
	if strings.HasSuffix(path, "/") {
		path += "{id}"
		parameters = []any{map[string]any{"name": "id", "in": "path", "required": true, "schema": bare("string"), "description": "A name, slashes and all."}}
	}
	known := bodies[r.Path]
	ops = map[string]any{}
	for _, m := range r.Methods {
		if m == http.MethodHead {
			continue // GET's
		}
		op := map[string]any{
			"summary": r.Summary, "tags": []string{known.tag()},
			"operationId": strings.ToLower(m) + strings.NewReplacer("/", "_", "{", "", "}", "", ":", "_").Replace(path),
			"responses":   known.responses(),
		}
		if parameters != nil {
			op["parameters"] = parameters
		}
		if known.in != "" && m != http.MethodGet {
			op["requestBody"] = known.request()
		}
		ops[strings.ToLower(m)] = op
	}
	return path, ops
}

// body is what goes into a route and comes out.
type body struct {
	// in and out name schemas; an out that none has is a media type.
	in, out string
	// event is the schema of a stream's events.
	event string
	// example is a request to try.
	example string
	group   string
}

func (b body) tag() string {
	if b.group == "" {
		return "Operations"
	}
	return b.group
}

func (b body) request() map[string]any {
	media := map[string]any{"schema": ref(b.in)}
	if b.example != "" {
		media["example"] = json.RawMessage(b.example)
	}
	kind := "application/json"
	if b.in == "Upload" {
		kind = "multipart/form-data"
	}
	return map[string]any{"required": true, "content": map[string]any{kind: media}}
}

func (b body) responses() map[string]any {
	good := map[string]any{"description": "Done."}
	media := map[string]any{}
	switch {
	case b.out == "":
	case strings.Contains(b.out, "/"):
		media[b.out] = map[string]any{"schema": bare("string")}
	case strings.HasSuffix(b.out, "[]"):
		one := strings.TrimSuffix(b.out, "[]")
		media["application/json"] = map[string]any{"schema": oneOf("One, or a list for a list of prompts or n > 1.", ref(one), schema{"type": "array", "items": ref(one)})}
	default:
		media["application/json"] = map[string]any{"schema": ref(b.out)}
	}
	if b.event != "" {
		media["text/event-stream"] = map[string]any{"schema": a(b.event, "One event's data; [DONE] is the last.")}
	}
	if len(media) > 0 {
		good["content"] = media
	}
	fault := "OpenAIError"
	switch b.group {
	case "SGLang":
		fault = "SGLangError"
	case "Adapters":
		fault = "rpcStatus"
	}
	return map[string]any{"200": good, "default": map[string]any{"description": "An error.", "content": content(ref(fault))}}
}

// Documented are the paths that have more than a summary.
func Documented() []string { return slices.Sorted(maps.Keys(bodies)) }

const (
	greeting = `"messages": [{"role": "user", "content": "Where does the sun rise?"}]`
	source   = `{"lora_name": "pirate", "lora_path": "examples/adapters/pirate"}`
	name     = `{"lora_name": "pirate"}`
)

var bodies = map[string]body{
	"/v1/completions": {
		in: "OpenAICompletionRequest", out: "OpenAICompletion", event: "OpenAICompletion", group: "OpenAI",
		example: `{"model": "default", "prompt": "The capital of France is", "max_tokens": 16, "temperature": 0}`,
	},
	"/v1/chat/completions": {
		in: "OpenAIChatRequest", out: "OpenAIChat", event: "OpenAIChatChunk", group: "OpenAI",
		example: `{"model": "default", ` + greeting + `, "max_tokens": 64, "temperature": 0, "stream": true}`,
	},
	"/v1/models":  {out: "OpenAIModels", group: "OpenAI"},
	"/v1/models/": {out: "OpenAIModel", group: "OpenAI"},

	"/generate": {
		in: "SGLangGenerateRequest", out: "SGLangAnswer[]", event: "SGLangAnswer", group: "SGLang",
		example: `{"text": ["The capital of France is", "Once upon a time"], "lora_path": [null, null], "sampling_params": {"max_new_tokens": 16, "temperature": 0}}`,
	},
	"/load_lora_adapter":   {in: "SGLangLoadRequest", out: "SGLangLoadResult", group: "SGLang", example: source},
	"/unload_lora_adapter": {in: "SGLangUnloadRequest", out: "SGLangLoadResult", group: "SGLang", example: name},
	"/abort_request":       {in: "SGLangAbortRequest", group: "SGLang", example: `{"rid": "some-id"}`},
	"/flush_cache":         {out: "text/plain", group: "SGLang"},
	"/model_info":          {out: "AnyObject", group: "SGLang"},
	"/get_model_info":      {out: "AnyObject", group: "SGLang"},
	"/server_info":         {out: "AnyObject", group: "SGLang"},
	"/get_server_info":     {out: "AnyObject", group: "SGLang"},

	"/v1/load_lora_adapter":   {in: "VLLMLoadRequest", out: "text/plain", group: "vLLM", example: source},
	"/v1/unload_lora_adapter": {in: "VLLMUnloadRequest", out: "text/plain", group: "vLLM", example: name},
	"/tokenize":               {in: "VLLMTokenizeRequest", out: "VLLMTokens", group: "vLLM", example: `{"prompt": "Hello world", "return_token_strs": true}`},
	"/v1/tokenize":            {in: "VLLMTokenizeRequest", out: "VLLMTokens", group: "SGLang", example: `{"prompt": ["Hello", "world"]}`},
	"/detokenize":             {in: "VLLMDetokenizeRequest", out: "VLLMText", group: "vLLM", example: `{"tokens": [1, 2, 3]}`},
	"/v1/detokenize":          {in: "VLLMDetokenizeRequest", out: "VLLMText", group: "SGLang", example: `{"tokens": [[1], [2, 3]]}`},

	"/version":      {out: "VLLMVersion"},
	"/metrics":      {out: "text/plain"},
	"/openapi.json": {out: "AnyObject"},
	"/docs":         {out: "text/html"},

	"/chorale/v1/adapters:upload": {in: "Upload", out: "v1LoadAdapterResponse", group: "Adapters"},
}
