package rest

import (
	"net/http"

	"chorale/services/auth"
	"chorale/services/rest/face"
	"chorale/services/status"
)

// New makes the handler of all HTTP faces. It starts nothing.
func New(o Options) (http.Handler, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	native, err := newNative(&o)
	if err != nil {
		return nil, err
	}
	table := routes(&o, &face.Deps{
		Router: o.Router, Tokens: o.Tokens, Adapters: o.Adapters, Version: o.Version, Log: o.Log,
	}, native)
	doc, err := openAPI(o.OpenAPI, o.Version, table)
	if err != nil {
		return nil, err
	}
	table = append(table, route{"/openapi.json", get, auth.Open, status.OpenAI, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(doc)
	}, ""})
	return &outer{newDispatcher(table, o.Keys), newOrigins(o.Origins), &o}, nil
}
