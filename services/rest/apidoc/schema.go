package apidoc

import "slices"

// schema is a JSON schema of OpenAPI 3.0.
type schema map[string]any

// fields are an object's properties; those in the second list are required.
type fields map[string]schema

func of(kind, text string) schema { return schema{"type": kind, "description": text} }

func str(text string) schema     { return of("string", text) }
func integer(text string) schema { return of("integer", text) }
func number(text string) schema  { return of("number", text) }
func boolean(text string) schema { return of("boolean", text) }
func anything(text string) schema {
	return schema{"description": text}
}

func list(of schema, text string) schema {
	return schema{"type": "array", "items": of, "description": text}
}

func object(text string, fs fields, required ...string) schema {
	s := schema{"type": "object", "description": text, "properties": fs}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// dict is an object whose names are not known.
func dict(of schema, text string) schema {
	return schema{"type": "object", "additionalProperties": of, "description": text}
}

func ref(name string) schema { return schema{"$ref": "#/components/schemas/" + name} }

// a says in words what a referred schema is here.
func a(name, text string) schema { return schema{"description": text, "allOf": []schema{ref(name)}} }

func oneOf(text string, of ...schema) schema { return schema{"description": text, "anyOf": of} }

// bare is a schema without its description, inside others.
func bare(kind string) schema { return schema{"type": kind} }

func listOf(kind string) schema { return schema{"type": "array", "items": bare(kind)} }

func choices(s schema, of ...string) schema {
	s["enum"] = of
	return s
}

// def gives a schema a default.
func def(s schema, v any) schema {
	s["default"] = v
	return s
}

// within bounds a number.
func within(s schema, lo, hi float64) schema {
	s["minimum"], s["maximum"] = lo, hi
	return s
}

func atLeast(s schema, lo float64) schema {
	s["minimum"] = lo
	return s
}

func nullable(s schema) schema {
	s["nullable"] = true
	return s
}

// with joins properties.
func with(all ...fields) fields {
	out := fields{}
	for _, fs := range all {
		for name, s := range fs {
			out[name] = s
		}
	}
	return out
}

// without leaves some out.
func without(fs fields, names ...string) fields {
	out := fields{}
	for name, s := range fs {
		if !slices.Contains(names, name) {
			out[name] = s
		}
	}
	return out
}
