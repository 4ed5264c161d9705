// Package docspage is the page at /docs: it shows /openapi.json and sends
// requests to try. It asks nobody but its own server for anything.
package docspage

import (
	"embed"
	"net/http"
	"strings"
)

//go:embed index.html page.js page.css
var files embed.FS

// policy lets the page run its own script and ask its own server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Paths are what Serve serves.
var Paths = []string{"/docs", "/docs/page.js", "/docs/page.css"}

// Serve serves the page and its files.
func Serve(w http.ResponseWriter, r *http.Request) {
	name, kind := strings.TrimPrefix(r.URL.Path, "/docs/"), "text/css; charset=utf-8"
	switch name {
	case "/docs":
		name, kind = "index.html", "text/html; charset=utf-8"
	case "page.js":
		kind = "text/javascript; charset=utf-8"
	}
	b, err := files.ReadFile(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	_, _ = w.Write(b)
}
