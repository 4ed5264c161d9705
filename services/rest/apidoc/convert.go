package apidoc

import (
	"encoding/json"
	"fmt"
	"strings"
)

// convert turns an OpenAPI 2.0 document, as protoc-gen-openapiv2 writes it, into
// paths and schemas of OpenAPI 3.0.
func convert(doc []byte) (paths, schemas map[string]any, err error) {
	var old struct {
		Paths       map[string]map[string]*operation2
		Definitions map[string]any
	}
	if err := json.Unmarshal(doc, &old); err != nil {
		return nil, nil, fmt.Errorf("apidoc: generated document: %w", err)
	}
	paths, schemas = map[string]any{}, map[string]any{}
	for name, s := range old.Definitions {
		schemas[name] = schema3(s)
	}
	for path, ops := range old.Paths {
		item := map[string]any{}
		for method, op := range ops {
			item[method] = op.convert()
		}
		paths[path] = item
	}
	return paths, schemas, nil
}

// operation2 is an operation of OpenAPI 2.0, as far as the generator uses it.
type operation2 struct {
	Summary, Description, OperationID string
	Tags                              []string
	Parameters                        []map[string]any
	Responses                         map[string]struct {
		Description string
		Schema      any
	}
}

func (op *operation2) convert() map[string]any {
	out := map[string]any{"operationId": op.OperationID, "summary": sentence(op.Summary), "tags": op.Tags}
	if text := strings.TrimSpace(op.Summary + "\n\n" + op.Description); text != out["summary"] {
		out["description"] = text
	}
	parameters := []any{}
	for _, p := range op.Parameters {
		if p["in"] == "body" {
			out["requestBody"] = map[string]any{"required": true, "content": content(schema3(p["schema"]))}
			continue
		}
		parameters = append(parameters, parameter3(p))
	}
	if len(parameters) > 0 {
		out["parameters"] = parameters
	}
	responses := map[string]any{}
	for code, r := range op.Responses {
		responses[code] = map[string]any{"description": r.Description, "content": content(schema3(r.Schema))}
	}
	out["responses"] = responses
	return out
}

// sentence is the first sentence of a comment, on one line.
func sentence(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	first, _, more := strings.Cut(s, ". ")
	if more {
		return first + "."
	}
	return s
}

func content(schema any) map[string]any {
	return map[string]any{"application/json": map[string]any{"schema": schema}}
}

// parameter3 moves what describes a parameter's value into its schema.
func parameter3(p map[string]any) map[string]any {
	out, schema := map[string]any{}, map[string]any{}
	for k, v := range p {
		switch k {
		case "name", "in", "description", "required":
			out[k] = v
		case "collectionFormat":
		default:
			schema[k] = v
		}
	}
	out["schema"] = schema3(schema)
	return out
}

// schema3 moves references to where OpenAPI 3.0 has them. A reference stands
// alone there: a description beside one needs a schema around it.
func schema3(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = schema3(item)
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k, item := range v {
			out[k] = schema3(item)
		}
		old, ok := v["$ref"].(string)
		if !ok {
			return out
		}
		to := map[string]any{"$ref": strings.Replace(old, "#/definitions/", "#/components/schemas/", 1)}
		if text, ok := v["description"]; ok {
			return map[string]any{"description": text, "allOf": []any{to}}
		}
		return to
	default:
		return v
	}
}
