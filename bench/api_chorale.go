package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"chorale/bench/client"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// choraleAPI streams the native face's lines of JSON.
type choraleAPI struct{ c *client.Client }

func (a *choraleAPI) probe(ctx context.Context) (Info, error) {
	server, err := a.c.Server(ctx)
	if err != nil {
		return Info{}, err
	}
	model, err := a.c.Model(ctx)
	if err != nil {
		return Info{}, err
	}
	info := Info{Version: server.GetVersion(), Model: model.GetName(), Vocab: int(model.GetVocabSize())}
	var devices []string
	for _, g := range server.GetWorkerGroups() {
		devices = append(devices, g.GetDevice())
	}
	info.Notes = map[string]any{
		"dtype": model.GetDtype(), "devices": devices, "max_loras_per_batch": model.GetMaxLorasPerBatch(),
		"parameters": model.GetParameters(),
	}
	info.Adapters, err = a.c.Voices(ctx)
	return info, err
}

func (a *choraleAPI) stream(ctx context.Context, c *call, tokens func(int)) (counts, error) {
	prompt := &choralev1.Prompt{Kind: &choralev1.Prompt_Text{Text: c.text}}
	if c.ids != nil {
		prompt.Kind = &choralev1.Prompt_TokenIds{TokenIds: &choralev1.TokenIds{Ids: c.ids}}
	}
	limit := int32(c.output)
	req := &choralev1.GenerateRequest{
		Prompts: []*choralev1.Prompt{prompt}, Adapters: []string{c.adapter},
		Sampling: &choralev1.SamplingParams{MaxTokens: &limit, Temperature: &c.temperature, IgnoreEos: !c.stopAtEOS},
	}
	var n counts
	err := a.c.Generate(ctx, req, func(p *choralev1.GenerateStreamResponse) error {
		n.output += len(p.GetTokenIds())
		if p.GetFinish() != nil && p.GetUsage() != nil {
			n = counts{int(p.GetUsage().GetPromptTokens()), int(p.GetUsage().GetCompletionTokens())}
		}
		tokens(n.output)
		if f := p.GetFinish(); f.GetReason() == choralev1.FinishReason_FINISH_REASON_ABORT {
			return errors.New("aborted by the server: " + f.GetMessage())
		}
		return nil
	})
	return n, err
}

func unmarshal(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: event: %v", client.ErrAnswer, err)
	}
	return nil
}
