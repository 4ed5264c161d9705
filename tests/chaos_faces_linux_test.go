package tests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// chaosWeb takes a connection for each request: a kept one may have been cut
// meanwhile, which is nothing that the server could tell.
var chaosWeb = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (c *chaos) web(ctx context.Context, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", c.site.http+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return chaosWeb.Do(req)
}

// post asks over HTTP: whole gets the body of an answer, or event each event's
// data until it returns false.
func (c *chaos) post(ctx context.Context, path string, q *question, body object, whole func(http.Header, []byte) error, event func(http.Header, []byte) error) outcome {
	body["stream"] = q.stream
	raw, err := json.Marshal(body)
	if err != nil {
		return outcome{wrong: err.Error()}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.web(ctx, path, raw)
	if err != nil {
		return outcome{broken: true, wrong: err.Error()}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !q.stream {
		b, err := io.ReadAll(resp.Body)
		switch {
		case err != nil:
			return outcome{broken: true, wrong: err.Error()}
		case resp.StatusCode != http.StatusOK:
			return refusal(resp.StatusCode, string(b))
		}
		if err := whole(resp.Header, b); err != nil {
			return outcome{wrong: fmt.Sprintf("%v in %s", err, b)}
		}
		return outcome{}
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	for pieces := 1; lines.Scan(); {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		switch {
		case !ok:
			continue
		case string(data) == "[DONE]":
			return outcome{}
		}
		if o, bad := errorEvent(data); bad {
			return o
		}
		if err := event(resp.Header, data); err != nil {
			return outcome{wrong: fmt.Sprintf("%v in %s", err, data)}
		}
		if pieces == q.leave {
			return outcome{}
		}
		pieces++
	}
	if lines.Err() == nil {
		return outcome{broken: true, wrong: "a stream without an end"}
	}
	return outcome{broken: true, wrong: lines.Err().Error()}
}

// errorEvent is an event of a stream that tells an error.
func errorEvent(data []byte) (outcome, bool) {
	var v struct {
		Error *struct {
			Message string
			Code    any
		}
	}
	if json.Unmarshal(data, &v) != nil || v.Error == nil {
		return outcome{}, false
	}
	switch code := v.Error.Code.(type) {
	case float64: // SGLang's and vLLM's are statuses
		return refusal(int(code), string(data)), true
	case string:
		if kind := kinds[strings.ToUpper(code)]; kind != "" {
			return outcome{typed: kind}, true
		}
	}
	return outcome{wrong: string(data)}, true
}

// sampling are the parameters as both HTTP faces name them.
func (q *question) sampling(tokens, seed string) object {
	return object{tokens: q.tokens, "n": q.n, "temperature": 0.8, seed: 7, "ignore_eos": true}
}

// sglang asks over SGLang's face.
func (c *chaos) sglang(ctx context.Context, q *question) outcome {
	type piece struct {
		IDs   []int32 `json:"output_ids"`
		Index int
		Meta  struct {
			Finish  *struct{ Type, Message string } `json:"finish_reason"`
			Adapter string
			Version uint64 `json:"adapter_version"`
			Digest  string `json:"adapter_digest"`
		} `json:"meta_info"`
	}
	var out outcome
	// Answers come prompt by prompt, choice by choice; each event has all so far.
	take := func(i int, p piece) {
		r := out.at(i/q.n, i%q.n)
		r.ids, r.digest, r.ref = p.IDs, p.Meta.Digest, fmt.Sprintf("%s@%d", p.Meta.Adapter, p.Meta.Version)
		switch f := p.Meta.Finish; {
		case f == nil:
		case f.Type == "abort":
			out.typed = aborted(f.Message)
		case f.Type == "length":
			r.whole = true
		default:
			out.wrong = "finished by " + f.Type
		}
	}
	body := object{"rid": q.id, "user": q.user, "sampling_params": q.sampling("max_new_tokens", "sampling_seed")}
	if len(q.prompts) == 1 {
		body["input_ids"], body["lora_path"] = chaosPrompts[q.prompts[0]], q.names[0]
	} else {
		var ids [][]int32
		var rids []string
		for i, p := range q.prompts {
			ids, rids = append(ids, chaosPrompts[p]), append(rids, fmt.Sprint(q.id, "/", i))
		}
		body["input_ids"], body["lora_path"], body["rid"] = ids, q.names, rids
	}
	end := c.post(ctx, "/generate", q, body, func(_ http.Header, b []byte) error {
		if len(q.prompts)*q.n == 1 {
			var p piece
			err := json.Unmarshal(b, &p)
			take(0, p)
			return err
		}
		var ps []piece
		err := json.Unmarshal(b, &ps)
		for i, p := range ps {
			take(i, p)
		}
		return err
	}, func(_ http.Header, b []byte) error {
		var p piece
		err := json.Unmarshal(b, &p)
		take(p.Index, p)
		return err
	})
	return end.with(out)
}

// with is how a request ended, and what it had said until then.
func (o outcome) with(said outcome) outcome {
	if o.typed == "" && o.wrong == "" {
		o.typed, o.wrong = said.typed, said.wrong
	}
	o.replies = said.replies
	return o
}

// openai asks over OpenAI's face.
func (c *chaos) openai(ctx context.Context, q *question) outcome {
	type completion struct {
		Choices []struct {
			Text   string
			Index  int
			Finish *string `json:"finish_reason"`
		}
	}
	var out outcome
	take := func(h http.Header, b []byte) error {
		var m completion
		err := json.Unmarshal(b, &m)
		ref, digest, _ := strings.Cut(h.Get("X-Chorale-Adapter"), ";")
		if plain, err := url.PathUnescape(ref); err == nil {
			ref = plain
		}
		for _, ch := range m.Choices {
			r := out.at(0, ch.Index)
			r.text, r.digest, r.ref, r.spelled = r.text+ch.Text, digest, ref, true
			switch {
			case ch.Finish == nil:
			case *ch.Finish == "length":
				r.whole = true
			case *ch.Finish == "abort":
				out.typed = "aborted"
			default:
				out.wrong = "finished by " + *ch.Finish
			}
		}
		return err
	}
	body := q.sampling("max_tokens", "seed")
	body["model"], body["prompt"], body["user"], body["rid"] = q.names[0], chaosPrompts[q.prompts[0]], q.user, q.id
	if q.names[0] == "" {
		body["model"] = served
	}
	return c.post(ctx, "/v1/completions", q, body, take, take).with(out)
}

// wild are adapters that several administrators change without caring for one
// another.
var wild = []string{"wild/one", "wild/two"}

// roughly changes a wild adapter over the faces of others.
func (c *chaos) roughly(ctx context.Context, pick func(n int) int) {
	name, dir := wild[pick(len(wild))], c.site.contents[pick(chaosContents)]
	path, body := "/load_lora_adapter", object{"lora_name": name, "lora_path": dir}
	switch pick(4) {
	case 0:
		path, body = "/v1/load_lora_adapter", object{"lora_name": name, "lora_path": dir, "load_inplace": true}
	case 1:
		path, body = "/unload_lora_adapter", object{"lora_name": name}
	case 2:
		path, body = "/v1/unload_lora_adapter", object{"lora_name": name}
	}
	raw, err := json.Marshal(body)
	if err != nil {
		c.t.Error(err)
		return
	}
	resp, err := c.web(ctx, path, raw)
	if err != nil {
		c.ledger.add("rough changes without an answer", 1)
		return
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body) // for the message
	if !slices.Contains([]int{200, 400, 404, 409, 499, 503, 504}, resp.StatusCode) {
		c.t.Errorf("%s %s = %d %s", path, raw, resp.StatusCode, b)
	}
	c.ledger.add(fmt.Sprintf("rough changes: status %d", resp.StatusCode), 1)
}
