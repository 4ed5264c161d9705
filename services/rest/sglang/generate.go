package sglang

import (
	"net/http"
	"time"

	"chorale/router"
	"chorale/services/inference/answer"
	"chorale/services/rest/face"
	"chorale/services/rest/sse"
	"chorale/services/status"
)

// Handler serves SGLang's routes.
type Handler struct {
	d *face.Deps
	// ServerArgs are shown by /server_info.
	serverArgs map[string]any
}

// New makes the handlers. serverArgs are the process's flags by SGLang's
// names, for /server_info; they must hold no key.
func New(d *face.Deps, serverArgs map[string]any) *Handler {
	return &Handler{d: d, serverArgs: serverArgs}
}

// Generate is POST and PUT /generate.
func (h *Handler) Generate(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	body, err := face.ReadBody(r)
	if err != nil {
		status.Write(w, status.SGLang, err)
		return
	}
	g, err := parse(h.d, body)
	if err != nil {
		status.Write(w, status.SGLang, err)
		return
	}
	for _, q := range g.requests {
		q.User = face.User(r, q.User)
	}
	handles, err := h.d.Router.Submit(r.Context(), g.requests)
	if err != nil {
		status.Write(w, status.SGLang, err)
		return
	}
	face.TellAdapters(w, handles)
	if g.stream {
		h.stream(w, r, g, handles, start)
		return
	}
	set, err := answer.Collect(r.Context(), handles, g.requests)
	if err != nil {
		status.Write(w, status.SGLang, err)
		return
	}
	var outs []output
	for _, choices := range set {
		for _, a := range choices {
			outs = append(outs, g.shape(h.d, a, start))
		}
	}
	if g.list() {
		status.WriteJSON(w, http.StatusOK, outs)
		return
	}
	status.WriteJSON(w, http.StatusOK, outs[0])
}

// stream sends each answer's text so far with every event: SGLang's streams
// are cumulative.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, g *generate, handles []*router.Handle, start time.Time) {
	out := sse.New(w)
	set := answer.NewSet(handles, g.requests)
	first := g.firstIndexes()
	err := answer.Each(r.Context(), handles, func(i int, ev router.Event) error {
		if err := answer.Failure(ev.Finish); err != nil {
			return err
		}
		a, err := set.Add(i, ev)
		if err != nil {
			return err
		}
		o := g.shape(h.d, a, start)
		if g.list() {
			index := first[a.Prompt] + a.Choice
			o.Index = &index
		}
		return out.JSON(o)
	})
	if r.Context().Err() != nil {
		return // nobody listens
	}
	if err != nil {
		if !out.Started() {
			status.Write(w, status.SGLang, err)
			return
		}
		// A failed write fails here again; nothing more can be done.
		_ = out.JSON(status.SGLangStream(status.Of(err)))
	}
	_ = out.Done()
}

// firstIndexes gives the position of each prompt's first answer in the list of
// all answers.
func (g *generate) firstIndexes() []int {
	out := make([]int, len(g.requests))
	for i := 1; i < len(out); i++ {
		out[i] = out[i-1] + max(1, g.requests[i-1].Sampling.N)
	}
	return out
}

// FlushCache is GET and POST /flush_cache.
func (h *Handler) FlushCache(w http.ResponseWriter, r *http.Request) {
	if err := h.d.Router.FlushCache(r.Context()); err != nil {
		status.Write(w, status.SGLang, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("Cache flushed.\n"))
}
