package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// openAPI adds the other faces' routes to the generated document (OpenAPI 2).
func openAPI(generated []byte, version string, table []route) ([]byte, error) {
	doc := map[string]any{"swagger": "2.0"}
	if len(generated) > 0 {
		if err := json.Unmarshal(generated, &doc); err != nil {
			return nil, fmt.Errorf("rest: OpenAPI document: %w", err)
		}
	}
	doc["info"] = map[string]any{"title": "Chorale", "version": version}
	paths, ok := doc["paths"].(map[string]any)
	if !ok {
		paths = map[string]any{}
		doc["paths"] = paths
	}
	for _, rt := range table {
		if rt.doc == "" {
			continue
		}
		path := rt.path
		parameters := []any{}
		if strings.HasSuffix(path, "/") {
			path += "{id}"
			parameters = append(parameters, map[string]any{"name": "id", "in": "path", "required": true, "type": "string"})
		}
		tag, _, ok := strings.Cut(rt.doc, ":")
		if !ok {
			tag = "Operations"
		}
		ops := map[string]any{}
		for _, m := range rt.methods {
			if m == http.MethodHead {
				continue
			}
			ops[strings.ToLower(m)] = map[string]any{
				"summary": rt.doc, "tags": []string{tag}, "parameters": parameters,
				"operationId": strings.ToLower(m) + strings.NewReplacer("/", "_", "{", "", "}", "").Replace(path),
				"responses":   map[string]any{"200": map[string]any{"description": "Success."}, "default": map[string]any{"description": "An error in the face's shape."}},
				"x-key":       rt.level.String(),
			}
		}
		paths[path] = ops
	}
	return json.MarshalIndent(doc, "", "  ")
}
