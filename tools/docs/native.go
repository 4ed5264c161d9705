package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// decl is a service, message or enum.
type decl struct {
	Kind, Name, Doc string
	Items           []item
}

// item is a method, field or value.
type item struct {
	Name, Type string
	// Group is the oneof that a field belongs to.
	Group string
	// Rule is what validation asks of a field, HTTP a method's REST route.
	Rule, HTTP string
	Doc        string
}

var (
	declRE   = regexp.MustCompile(`^(service|message|enum) (\w+) \{(\})?`)
	rpcRE    = regexp.MustCompile(`^rpc (\w+)\((.*?)\) returns \((.*?)\)`)
	fieldRE  = regexp.MustCompile(`^((?:optional |repeated )?(?:map<[^>]+>|[\w.]+)) (\w+) = \d+(.*)`)
	valueRE  = regexp.MustCompile(`^(\w+) = (\d+);`)
	oneofRE  = regexp.MustCompile(`^oneof (\w+) \{`)
	routeRE  = regexp.MustCompile(`(get|post|put|patch|delete): "([^"]+)"`)
	ruleRE   = regexp.MustCompile(`(min_len|max_len|min_items|max_items|gte|gt|lte|required|finite)(?: = |: )(-?[\w.]+)`)
	ruleText = map[string]string{
		"min_len": "≥ %s bytes", "max_len": "≤ %s bytes", "min_items": "≥ %s items", "max_items": "≤ %s items",
		"gte": "≥ %s", "gt": "> %s", "lte": "≤ %s", "required": "required", "finite": "finite",
	}
)

// parseProto reads the subset of the language that proto/chorale/v1 is written
// in: one declaration or field to a line, comments before what they are about.
func parseProto(src string) []decl {
	p := &protoParser{lines: strings.Split(src, "\n")}
	for p.more() {
		line := p.next()
		if m := declRE.FindStringSubmatch(line); m != nil {
			p.out = append(p.out, decl{Kind: m[1], Name: m[2], Doc: p.doc()})
			if m[3] == "" {
				p.body("")
			}
		}
	}
	return p.out
}

type protoParser struct {
	lines   []string
	comment []string
	out     []decl
}

func (p *protoParser) more() bool { return len(p.lines) > 0 }

// next takes the next line that is no comment; comments are kept until doc.
func (p *protoParser) next() string {
	line := strings.TrimSpace(p.lines[0])
	p.lines = p.lines[1:]
	if text, ok := strings.CutPrefix(line, "//"); ok {
		p.comment = append(p.comment, strings.TrimSpace(text))
		return ""
	}
	if line == "" || strings.HasPrefix(line, "option ") {
		p.comment = nil
	}
	return line
}

func (p *protoParser) doc() string {
	s := strings.Join(p.comment, " ")
	p.comment = nil
	return s
}

// body reads up to the closing brace.
func (p *protoParser) body(group string) {
	d := &p.out[len(p.out)-1]
	for p.more() {
		line := p.next()
		switch {
		case line == "}":
			return
		case oneofRE.MatchString(line):
			p.doc()
			p.body(oneofRE.FindStringSubmatch(line)[1])
		case rpcRE.MatchString(line):
			m := rpcRE.FindStringSubmatch(line)
			it := item{Name: m[1], Type: m[2] + " → " + m[3], Doc: p.doc()}
			if r := routeRE.FindStringSubmatch(p.rest(line)); r != nil {
				it.HTTP = strings.ToUpper(r[1]) + " " + r[2]
			}
			d.Items = append(d.Items, it)
		case d.Kind == "enum" && valueRE.MatchString(line):
			m := valueRE.FindStringSubmatch(line)
			d.Items = append(d.Items, item{Name: m[1], Type: m[2], Doc: p.doc()})
		case fieldRE.MatchString(line):
			m := fieldRE.FindStringSubmatch(line)
			it := item{Name: m[2], Type: m[1], Group: group, Doc: p.doc()}
			it.Rule = rules(p.rest(line))
			d.Items = append(d.Items, it)
		}
	}
}

// rest gives a statement to its end, over as many lines as it takes.
func (p *protoParser) rest(line string) string {
	all, depth := line, 0
	for {
		depth += strings.Count(line, "{") - strings.Count(line, "}")
		if depth <= 0 || !p.more() {
			return all
		}
		line = strings.TrimSpace(p.lines[0])
		p.lines = p.lines[1:]
		all += " " + line
	}
}

func rules(s string) string {
	var out []string
	for _, m := range ruleRE.FindAllStringSubmatch(s, -1) {
		text := ruleText[m[1]]
		if strings.Contains(text, "%s") {
			text = fmt.Sprintf(text, m[2])
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

const nativeIntro = `# The native API: chorale.v1

gRPC on ` + "`--grpc-port`" + ` (default: the HTTP port + 1), with reflection and ` + "`grpc.health.v1`" + `; the same services as REST on the HTTP
port where a route is given. JSON follows protojson: field names in lowerCamelCase or as written here, 64-bit integers as
strings, bytes in base64. Unknown fields and query parameters are refused. A message that breaks a rule is
` + "`INVALID_REQUEST`" + ` with the field's path ([errors](errors.md)). The running server gives the OpenAPI document of all its
routes at ` + "`/openapi.json`" + `.

In routes, ` + "`{name=**}`" + ` is the rest of the path: names may hold slashes. ` + "`chorale.v1.WorkerService`" + ` (worker.proto) is
internal and not described here.

`

// native describes the services that clients call.
func native(root string) (string, error) {
	var all []decl
	for _, name := range []string{"inference.proto", "adapters.proto"} {
		b, err := os.ReadFile(filepath.Join(root, "proto", "chorale", "v1", name))
		if err != nil {
			return "", err
		}
		all = append(all, parseProto(string(b))...)
	}
	known := map[string]bool{}
	for _, d := range all {
		known[d.Name] = d.Kind != "message" || len(d.Items) > 0 // those without fields have no section
	}
	var b strings.Builder
	b.WriteString(notice + nativeIntro)
	for _, kind := range []string{"service", "message", "enum"} {
		for _, d := range all {
			if d.Kind == kind && (len(d.Items) > 0 || kind == "service") {
				writeDecl(&b, d, known)
			}
		}
	}
	return b.String(), nil
}

func writeDecl(b *strings.Builder, d decl, known map[string]bool) {
	level := "##"
	if d.Kind != "service" {
		level = "###"
	}
	fmt.Fprintf(b, "%s %s\n\n%s\n\n", level, d.Name, cell(d.Doc))
	switch d.Kind {
	case "service":
		b.WriteString("| method | request → response | REST | |\n|---|---|---|---|\n")
		for _, it := range d.Items {
			fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", it.Name, link(it.Type, known), code(it.HTTP), cell(it.Doc))
		}
	case "message":
		b.WriteString("| field | type | rule | |\n|---|---|---|---|\n")
		for _, it := range d.Items {
			doc := cell(it.Doc)
			if it.Group != "" {
				doc = strings.TrimSpace("One of `" + it.Group + "`. " + doc)
			}
			fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", it.Name, link(it.Type, known), it.Rule, doc)
		}
	case "enum":
		b.WriteString("| value | number | |\n|---|---|---|\n")
		for _, it := range d.Items {
			fmt.Fprintf(b, "| `%s` | %s | %s |\n", it.Name, it.Type, cell(it.Doc))
		}
	}
	b.WriteString("\n")
}

var wordRE = regexp.MustCompile(`\w+`)

func link(s string, known map[string]bool) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "<", "&lt;"), ">", "&gt;")
	return wordRE.ReplaceAllStringFunc(s, func(w string) string {
		if known[w] {
			return "[" + w + "](#" + strings.ToLower(w) + ")"
		}
		return w
	})
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

// cell makes text fit for a table's cell.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;").Replace(s)
}
