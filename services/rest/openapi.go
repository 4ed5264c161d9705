package rest

import (
	"net/http"

	"chorale/services/auth"
	"chorale/services/rest/apidoc"
	"chorale/services/rest/docspage"
	"chorale/services/status"
)

// addDocs adds /openapi.json, which tells of all routes, and /docs, which shows
// it.
func addDocs(o *Options, table []route) ([]route, error) {
	var doc []byte
	table = append(table,
		route{"/openapi.json", get, auth.Open, status.OpenAI, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(doc)
		}, "This document, OpenAPI 3.0."},
		route{"/", get, auth.Open, status.OpenAI, http.RedirectHandler("/docs", http.StatusFound).ServeHTTP, ""},
	)
	for _, path := range docspage.Paths {
		summary := ""
		if path == "/docs" {
			summary = "It as a page."
		}
		table = append(table, route{path, get, auth.Open, status.OpenAI, docspage.Serve, summary})
	}
	all := newDispatcher(table, nil)
	d := apidoc.Document{
		Native: o.OpenAPI, Version: o.Version,
		Level: func(method, path string) auth.Level {
			if rt := all.find(path); rt != nil {
				return rt.levelFor(method, path)
			}
			return auth.Admin
		},
		Served: func(l auth.Level) bool { return o.Keys.Served(l) == nil },
	}
	for _, rt := range table {
		if rt.doc != "" {
			d.Routes = append(d.Routes, apidoc.Route{Path: rt.path, Methods: rt.methods, Summary: rt.doc})
		}
	}
	var err error
	doc, err = d.JSON()
	return table, err
}
