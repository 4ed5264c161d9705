package bench

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"chorale/bench/client"
)

// APIs are the languages that servers are spoken to in: Chorale's native REST
// face, SGLang's /generate, OpenAI's /v1/completions, llama.cpp's /completion.
var APIs = []string{"chorale", "sglang", "openai", "llama"}

// call is one request in no particular API.
type call struct {
	ids         []int32 // or
	text        string
	adapter     string // "" is the base model
	output      int
	temperature float64
	stopAtEOS   bool
}

// counts are the tokens of an answer as the server counted them.
type counts struct{ prompt, output int }

// Info is what a server tells of itself.
type Info struct {
	Version string `json:"version,omitempty"`
	Model   string `json:"model,omitempty"`
	// Adapters that requests can name.
	Adapters []string `json:"adapters,omitempty"`
	// Vocab is the number of token ids, 0 if unknown.
	Vocab int `json:"vocab,omitempty"`
	// Notes are the server's own settings that matter for a comparison.
	Notes map[string]any `json:"notes,omitempty"`
}

// api speaks to one server.
type api interface {
	// probe asks what the server is; it is called once, before stream.
	probe(ctx context.Context) (Info, error)
	// stream makes one request and calls tokens with the number of tokens so far
	// whenever some arrive.
	stream(ctx context.Context, c *call, tokens func(total int)) (counts, error)
}

func newAPI(name string, c *client.Client) (api, error) {
	switch name {
	case "chorale":
		return &choraleAPI{c}, nil
	case "sglang":
		return &sglangAPI{c}, nil
	case "openai":
		return &openaiAPI{c: c}, nil
	case "llama":
		return &llamaAPI{c: c}, nil
	}
	return nil, fmt.Errorf("%w: api %q is none of %s", ErrConfig, name, strings.Join(APIs, ", "))
}

// prompt is the ids, or the text.
func (c *call) prompt() any {
	if c.ids != nil {
		return c.ids
	}
	return c.text
}

// cards reads /v1/models: the base model and the adapters, which alone have a
// parent.
func cards(ctx context.Context, c *client.Client) (base string, adapters []string, vocab int, err error) {
	var list struct {
		Data []struct {
			ID     string  `json:"id"`
			Parent *string `json:"parent"`
			Meta   struct {
				Vocab int `json:"n_vocab"` // llama.cpp
			} `json:"meta"`
		} `json:"data"`
	}
	if err := c.JSON(ctx, http.MethodGet, "/v1/models", nil, &list); err != nil {
		return "", nil, 0, err
	}
	for _, m := range list.Data {
		switch {
		case m.Parent != nil:
			adapters = append(adapters, m.ID)
		case base == "":
			base, vocab = m.ID, m.Meta.Vocab
		}
	}
	return base, adapters, vocab, nil
}

// sglangAPI streams events that each hold the whole answer so far.
type sglangAPI struct{ c *client.Client }

func (a *sglangAPI) probe(ctx context.Context) (Info, error) {
	base, adapters, _, err := cards(ctx, a.c)
	if err != nil {
		return Info{}, err
	}
	info := Info{Model: base, Adapters: adapters}
	var server map[string]any
	if a.c.JSON(ctx, http.MethodGet, "/server_info", nil, &server) == nil || a.c.JSON(ctx, http.MethodGet, "/get_server_info", nil, &server) == nil {
		info.Version, _ = server["version"].(string)
	}
	return info, nil
}

func (a *sglangAPI) stream(ctx context.Context, c *call, tokens func(int)) (counts, error) {
	body := map[string]any{
		"stream": true,
		"sampling_params": map[string]any{
			"max_new_tokens": c.output, "ignore_eos": !c.stopAtEOS, "temperature": c.temperature,
		},
	}
	if c.ids != nil {
		body["input_ids"] = c.ids
	} else {
		body["text"] = c.text
	}
	if c.adapter != "" {
		body["lora_path"] = c.adapter
	}
	var n counts
	err := a.c.Events(ctx, "/generate", body, func(data []byte) error {
		var ev struct {
			Meta struct {
				Prompt     int `json:"prompt_tokens"`
				Completion int `json:"completion_tokens"`
				Finish     *struct {
					Type    string `json:"type"`
					Message string `json:"message"`
				} `json:"finish_reason"`
			} `json:"meta_info"`
		}
		if err := unmarshal(data, &ev); err != nil {
			return err
		}
		n = counts{ev.Meta.Prompt, ev.Meta.Completion}
		tokens(n.output)
		if f := ev.Meta.Finish; f != nil && f.Type == "abort" {
			return fmt.Errorf("aborted by the server: %s", f.Message)
		}
		return nil
	})
	return n, err
}

// openaiAPI streams /v1/completions. Tokens are counted by whatever the server
// gives, best first: their ids (vLLM, Chorale), usage with each chunk (vLLM,
// SGLang, Chorale), or one per chunk until the final usage corrects the sum.
type openaiAPI struct {
	c    *client.Client
	base string
}

func (a *openaiAPI) probe(ctx context.Context) (Info, error) {
	base, adapters, vocab, err := cards(ctx, a.c)
	a.base = base
	info := Info{Model: base, Adapters: adapters, Vocab: vocab}
	var v struct {
		Version string `json:"version"`
	}
	if err == nil && a.c.JSON(ctx, http.MethodGet, "/version", nil, &v) == nil {
		info.Version = v.Version
	}
	return info, err
}

func (a *openaiAPI) stream(ctx context.Context, c *call, tokens func(int)) (counts, error) {
	model := c.adapter
	if model == "" {
		model = a.base
	}
	body := map[string]any{
		"model": model, "prompt": c.prompt(), "max_tokens": c.output, "temperature": c.temperature, "stream": true,
		"stream_options":   map[string]any{"include_usage": true, "continuous_usage_stats": true},
		"return_token_ids": true,
	}
	if !c.stopAtEOS {
		body["ignore_eos"] = true
	}
	var n counts
	byIDs := false
	err := a.c.Events(ctx, "/v1/completions", body, func(data []byte) error {
		var ev struct {
			Choices []struct {
				Text     string  `json:"text"`
				TokenIDs []int32 `json:"token_ids"`
			} `json:"choices"`
			Usage *struct {
				Prompt     int `json:"prompt_tokens"`
				Completion int `json:"completion_tokens"`
			} `json:"usage"`
		}
		if err := unmarshal(data, &ev); err != nil {
			return err
		}
		for _, ch := range ev.Choices {
			switch {
			case len(ch.TokenIDs) > 0:
				byIDs = true
				n.output += len(ch.TokenIDs)
			case !byIDs && ev.Usage == nil && ch.Text != "":
				n.output++
			}
		}
		if u := ev.Usage; u != nil {
			n.prompt = u.Prompt
			if !byIDs || len(ev.Choices) == 0 {
				n.output = u.Completion
			}
		}
		tokens(n.output)
		return nil
	})
	return n, err
}

// llamaAPI streams llama.cpp's /completion, where an adapter is a position in
// the server's --lora list.
type llamaAPI struct {
	c  *client.Client
	id map[string]int
}

func (a *llamaAPI) probe(ctx context.Context) (Info, error) {
	var list []struct {
		ID   int    `json:"id"`
		Path string `json:"path"`
	}
	if err := a.c.JSON(ctx, http.MethodGet, "/lora-adapters", nil, &list); err != nil {
		return Info{}, err
	}
	info := Info{Notes: map[string]any{}}
	a.id = map[string]int{}
	for _, l := range list {
		name := strings.TrimSuffix(filepath.Base(l.Path), filepath.Ext(l.Path))
		if _, taken := a.id[name]; taken || name == "" || name == "." {
			name = strconv.Itoa(l.ID)
		}
		a.id[name] = l.ID
		info.Adapters = append(info.Adapters, name)
	}
	var props struct {
		Build string `json:"build_info"`
		Path  string `json:"model_path"`
		Slots int    `json:"total_slots"`
	}
	if a.c.JSON(ctx, http.MethodGet, "/props", nil, &props) == nil {
		info.Version, info.Model = props.Build, filepath.Base(props.Path)
		info.Notes["slots"] = props.Slots
	}
	if _, _, vocab, err := cards(ctx, a.c); err == nil {
		info.Vocab = vocab
	}
	return info, nil
}

func (a *llamaAPI) stream(ctx context.Context, c *call, tokens func(int)) (counts, error) {
	body := map[string]any{
		"prompt": c.prompt(), "n_predict": c.output, "ignore_eos": !c.stopAtEOS, "temperature": c.temperature,
		"stream": true, "cache_prompt": false,
	}
	switch id, known := a.id[c.adapter]; {
	case known:
		body["lora"] = []map[string]any{{"id": id, "scale": 1}}
	case c.adapter != "":
		n, err := strconv.Atoi(c.adapter)
		if err != nil || n < 0 || n >= len(a.id) {
			return counts{}, fmt.Errorf("%w: no adapter %q among the server's: %s", ErrConfig, c.adapter, strings.Join(a.names(), ", "))
		}
		body["lora"] = []map[string]any{{"id": n, "scale": 1}}
	case len(a.id) > 0:
		// Not an empty list: that means the server's own, in which every adapter
		// has scale 1 even with --lora-init-without-apply.
		body["lora"] = []map[string]any{{"id": 0, "scale": 0}}
	}
	var n counts
	err := a.c.Events(ctx, "/completion", body, func(data []byte) error {
		var ev struct {
			Predicted int `json:"tokens_predicted"`
			Evaluated int `json:"tokens_evaluated"`
		}
		if err := unmarshal(data, &ev); err != nil {
			return err
		}
		// Tokens that end inside a character are held back and come as one.
		n = counts{ev.Evaluated, ev.Predicted}
		tokens(n.output)
		return nil
	})
	return n, err
}

func (a *llamaAPI) names() []string {
	var out []string
	for n := range a.id {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
