package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"chorale/bench/client"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// clientFlags say which server a client command talks to.
type clientFlags struct {
	Server         string        `group:"http" default:"http://127.0.0.1:30000" placeholder:"URL" help:"The running server's HTTP address."`
	APIKey         string        `name:"api-key" group:"http" placeholder:"KEY" help:"Key that inference needs."`
	AdminAPIKey    string        `name:"admin-api-key" group:"http" placeholder:"KEY" help:"Key that adapters need (default: the api-key)."`
	CAFile         string        `name:"ca-file" group:"http" placeholder:"FILE" help:"Authorities of an https server in PEM (default: the system's)."`
	ConnectTimeout time.Duration `group:"http" default:"5s" placeholder:"TIME" help:"Longest wait for a connection."`
	Timeout        time.Duration `group:"http" placeholder:"TIME" help:"Longest run of the whole command (default: no limit)."`
}

// open makes the client and the context that bounds the command.
func (f *clientFlags) open(ctx context.Context) (*client.Client, context.Context, context.CancelFunc, error) {
	o := client.Options{Server: f.Server, APIKey: f.APIKey, AdminKey: f.AdminAPIKey, ConnectTimeout: f.ConnectTimeout}
	if f.CAFile != "" {
		ca, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("--ca-file: %w", err)
		}
		o.CA = ca
	}
	c, err := client.New(o)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("--server: %w", err)
	}
	cancel := context.CancelFunc(func() {})
	if f.Timeout > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, f.Timeout, fmt.Errorf("not done after --timeout %v", f.Timeout))
	}
	return c, ctx, func() { cancel(); c.CloseIdleConnections() }, nil
}

// explain adds to an error what the user can do about it.
func explain(ctx context.Context, err error) error {
	var refused *client.StatusError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded) && context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(err, client.ErrUnreachable):
		return fmt.Errorf("%w\n  start one: chorale serve --model-path FILE.gguf\n  or say where it is: --server URL (CHORALE_SERVER)", err)
	case errors.As(err, &refused) && refused.Status == 401:
		return fmt.Errorf("%w\n  give the key: --api-key or --admin-api-key (CHORALE_API_KEY, CHORALE_ADMIN_API_KEY)", err)
	case refused != nil && strings.Contains(refused.Message, "--admin-listen"):
		return fmt.Errorf("%w\n  say where: --server URL (CHORALE_SERVER)", err)
	}
	return err
}

// samplingFlags choose tokens. Those that are not given stay the server's.
type samplingFlags struct {
	MaxTokens         int32    `group:"Sampling" default:"256" placeholder:"N" help:"Most tokens of the answer."`
	MinTokens         *int32   `group:"Sampling" placeholder:"N" help:"Fewest tokens before the answer may end."`
	Temperature       float64  `group:"Sampling" default:"0" help:"0 takes the most likely token; 1 follows the model."`
	TopP              *float64 `group:"Sampling" placeholder:"P" help:"The fewest tokens whose probabilities reach P."`
	TopK              *int32   `group:"Sampling" placeholder:"K" help:"The K most likely tokens."`
	MinP              *float64 `group:"Sampling" placeholder:"P" help:"Tokens of at least P times the best one's probability."`
	FrequencyPenalty  *float64 `group:"Sampling" placeholder:"X" help:"Subtracted per occurrence in the answer."`
	PresencePenalty   *float64 `group:"Sampling" placeholder:"X" help:"Subtracted once for tokens in the answer."`
	RepetitionPenalty *float64 `group:"Sampling" placeholder:"X" help:"Divides the scores of tokens that were there before."`
	Seed              *uint64  `group:"Sampling" placeholder:"N" help:"Same seed, same answer."`
	Stop              []string `group:"Sampling" sep:"none" placeholder:"TEXT" help:"Text that ends the answer; may be repeated."`
	IgnoreEOS         bool     `name:"ignore-eos" group:"Sampling" help:"Do not end at the model's end token."`
}

func (f *samplingFlags) params() *choralev1.SamplingParams {
	return &choralev1.SamplingParams{
		MaxTokens: &f.MaxTokens, MinTokens: f.MinTokens, Temperature: &f.Temperature, TopP: f.TopP, TopK: f.TopK, MinP: f.MinP,
		FrequencyPenalty: f.FrequencyPenalty, PresencePenalty: f.PresencePenalty, RepetitionPenalty: f.RepetitionPenalty,
		Seed: f.Seed, Stop: f.Stop, IgnoreEos: f.IgnoreEOS,
	}
}

// baseVoice is how users name the base model.
const baseVoice = "base"

// adapterOf turns a voice into an adapter's name: "base" and "" are the base
// model.
func adapterOf(voice string) string {
	if voice == baseVoice {
		return ""
	}
	return voice
}

// isTerminal tells whether a file is one that can move its cursor.
func isTerminal(f *os.File) bool {
	return term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// colours tells whether to use them; see no-color.org.
func colours(f *os.File) bool { return isTerminal(f) && os.Getenv("NO_COLOR") == "" }

// printable replaces control characters, of which a model may make any, by
// their pictures: an answer must not move the cursor or set the title.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r < 0x20:
			return '␀' + r
		case r == 0x7f:
			return '␡'
		case 0x80 <= r && r < 0xa0:
			return '�'
		}
		return r
	}, s)
}

// finishError is nil unless the server gave an answer up.
func finishError(p *choralev1.GenerateStreamResponse) error {
	f := p.GetFinish()
	if f == nil || f.GetReason() != choralev1.FinishReason_FINISH_REASON_ABORT {
		return nil
	}
	why := f.GetMessage()
	if why == "" {
		why = "aborted by the server"
	}
	return errors.New(why)
}
