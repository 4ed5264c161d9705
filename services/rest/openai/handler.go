package openai

import (
	"net/http"
	"time"

	"chorale/router"
	"chorale/services/inference/answer"
	"chorale/services/rest/face"
	"chorale/services/rest/sse"
	"chorale/services/status"
)

// Handler serves OpenAI's routes.
type Handler struct{ d *face.Deps }

// New makes the handlers.
func New(d *face.Deps) *Handler { return &Handler{d} }

// Completions is POST /v1/completions.
func (h *Handler) Completions(w http.ResponseWriter, r *http.Request) {
	body, err := face.ReadBody(r)
	if err != nil {
		status.Write(w, status.OpenAI, err)
		return
	}
	c, err := parseCompletion(h.d, body)
	if err != nil {
		status.Write(w, status.OpenAI, err)
		return
	}
	handles, err := c.submit(h.d, r)
	if err != nil {
		status.Write(w, status.OpenAI, err)
		return
	}
	face.TellAdapters(w, handles)
	if c.stream {
		h.stream(w, r, &c.params, handles, c.events(h.d), func(u *usage) any {
			resp := c.response(nil)
			resp.Usage = u
			return resp
		})
		return
	}
	set, err := answer.Collect(r.Context(), handles, c.requests)
	if err != nil {
		status.Write(w, status.OpenAI, c.explain(err))
		return
	}
	resp := c.response(nil)
	for _, choices := range set {
		for i, a := range c.best(choices) {
			resp.Choices = append(resp.Choices, c.choice(h.d, a, a.Prompt*c.keep+i))
		}
	}
	resp.Usage = count(set)
	status.WriteJSON(w, http.StatusOK, resp)
}

// Chat is POST /v1/chat/completions.
func (h *Handler) Chat(w http.ResponseWriter, r *http.Request) {
	body, err := face.ReadBody(r)
	if err != nil {
		status.Write(w, status.OpenAI, err)
		return
	}
	c, err := parseChat(h.d, body)
	if err != nil {
		status.Write(w, status.OpenAI, err)
		return
	}
	handles, err := c.submit(h.d, r)
	if err != nil {
		status.Write(w, status.OpenAI, err)
		return
	}
	face.TellAdapters(w, handles)
	if c.stream {
		h.stream(w, r, &c.params, handles, c.events(h.d), func(u *usage) any {
			chunk := c.chunk()
			chunk.Usage = u
			return chunk
		})
		return
	}
	set, err := answer.Collect(r.Context(), handles, c.requests)
	if err != nil {
		status.Write(w, status.OpenAI, c.explain(err))
		return
	}
	resp := &chatResponse{ID: c.id, Object: "chat.completion", Created: c.created, Model: c.model, Usage: count(set)}
	for _, a := range set[0] {
		resp.Choices = append(resp.Choices, c.choice(h.d, a))
	}
	if c.tokenIDs {
		resp.PromptIDs = handles[0].PromptIDs
	}
	status.WriteJSON(w, http.StatusOK, resp)
}

func (p *params) submit(d *face.Deps, r *http.Request) ([]*router.Handle, error) {
	p.created = time.Now().Unix()
	if p.id == "" {
		p.id = p.prefix + face.RequestID(r)
	}
	for _, q := range p.requests {
		q.ID, q.User = p.id, face.User(r, q.User)
	}
	handles, err := d.Router.Submit(r.Context(), p.requests)
	return handles, p.explain(err)
}

// sender sends one event of an answer as chunks; u is its usage so far where
// the client wants it in every chunk.
type sender func(out *sse.Writer, a *answer.Answer, ev router.Event, u *usage) error

// stream sends every event, then the usage, then the end mark. An error is one
// event of its own.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, p *params, handles []*router.Handle, send sender, last func(u *usage) any) {
	out := sse.New(w)
	set := answer.NewSet(handles, p.requests)
	err := answer.Each(r.Context(), handles, func(i int, ev router.Event) error {
		if err := answer.Failure(ev.Finish); err != nil {
			return err
		}
		a, err := set.Add(i, ev)
		if err != nil {
			return err
		}
		var u *usage
		if p.everyUsage {
			u = count(answer.Set{{a}})
		}
		return send(out, a, ev, u)
	})
	if r.Context().Err() != nil {
		return // nobody listens
	}
	if err == nil && p.usage {
		err = out.JSON(last(count(set)))
	}
	if err != nil {
		if !out.Started() {
			status.Write(w, status.OpenAI, p.explain(err))
			return
		}
		_, body := status.OpenAI(status.Of(p.explain(err)))
		// A failed write fails here again; nothing more can be done.
		_ = out.JSON(body)
	}
	_ = out.Done()
}

// events sends completions: text pieces, the last with the reason of the end.
func (c *completion) events(d *face.Deps) sender {
	offsets := make(map[int]int) // where each answer's next token begins
	begun := make(map[int]bool)
	return func(out *sse.Writer, a *answer.Answer, ev router.Event, u *usage) error {
		index := a.Prompt*c.keep + a.Choice
		ch := completionChoice{Index: index, Text: ev.Text}
		ch.FinishReason, ch.MatchedStop = finish(ev.Finish)
		if c.logprobsGiven && len(ev.PromptLogprobs)+len(ev.Logprobs) > 0 {
			ch.Logprobs, offsets[index] = c.logprobsOf(d, offsets[index], ev.PromptLogprobs, ev.Logprobs)
		}
		if c.tokenIDs {
			ch.TokenIDs = ev.IDs
			if !begun[index] {
				ch.PromptIDs = a.Handle.PromptIDs
			}
		}
		if c.echo && !begun[index] {
			ch.Text = c.texts[a.Prompt] + ch.Text
		}
		begun[index] = true
		if ch.Text == "" && ch.Logprobs == nil && ch.TokenIDs == nil && ev.Finish == nil {
			return nil // nothing to tell: text that is held back
		}
		resp := c.response([]completionChoice{ch})
		if c.usage {
			resp.Usage = u
		}
		return out.JSON(resp)
	}
}

// events sends chats: first the role, then pieces of content, then the reason
// of the end in a chunk of its own.
func (c *chat) events(d *face.Deps) sender {
	begun := make(map[int]bool)
	return func(out *sse.Writer, a *answer.Answer, ev router.Event, u *usage) error {
		send := func(ch deltaChoice) error {
			ch.Index = a.Choice
			chunk := c.chunk(ch)
			if c.usage {
				chunk.Usage = u
			}
			return out.JSON(chunk)
		}
		if !begun[a.Choice] {
			begun[a.Choice] = true
			if err := send(deltaChoice{Delta: delta{Role: "assistant", Content: new(string)}}); err != nil {
				return err
			}
		}
		piece := deltaChoice{Delta: delta{Content: &ev.Text}}
		if len(ev.Logprobs) > 0 {
			piece.Logprobs = c.logprobsOf(d, ev.Logprobs)
		}
		if c.tokenIDs {
			piece.TokenIDs = ev.IDs
		}
		if ev.Text != "" || piece.Logprobs != nil || piece.TokenIDs != nil {
			if err := send(piece); err != nil {
				return err
			}
		}
		if ev.Finish == nil {
			return nil
		}
		var end deltaChoice
		end.FinishReason, end.MatchedStop = finish(ev.Finish)
		return send(end)
	}
}
