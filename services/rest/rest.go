package rest

import (
	"net/http"

	"chorale/services/rest/face"
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
	table, err = addDocs(&o, table)
	if err != nil {
		return nil, err
	}
	return &outer{newDispatcher(table, o.Keys), newOrigins(o.Origins), &o}, nil
}
