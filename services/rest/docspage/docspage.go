// Package docspage is the page at /docs: it shows /openapi.json and sends
// requests to try. It asks nobody but its own server for anything.
package docspage

import (
	"embed"
	"net/http"
	"path"
	"strings"
)

//go:embed index.html page.js page.css icon.svg
var files embed.FS

// policy lets the page run its own script and ask its own server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Paths are what Serve serves.
var Paths = []string{"/docs", "/docs/page.js", "/docs/page.css", "/docs/icon.svg"}

var kinds = map[string]string{".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

// Serve serves the page and its files.
func Serve(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/docs/")
	if name == "/docs" {
		name = "index.html"
	}
	b, err := files.ReadFile(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", kinds[path.Ext(name)]+"; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	_, _ = w.Write(b)
}
