package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"chorale/bench/client"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// chatCmd is a conversation with one voice, or one prompt answered by several.
type chatCmd struct {
	Prompt string   `arg:"" optional:"" name:"PROMPT" help:"What to say; - reads it from standard input. Without it a conversation begins."`
	Voice  []string `sep:"none" placeholder:"NAME" help:"An adapter, or base; several answer side by side, in one batch."`
	All    bool     `help:"The base model and every loaded adapter."`
	System string   `placeholder:"TEXT" help:"The system message."`
	samplingFlags
	clientFlags
}

// Run chats.
func (c *chatCmd) Run(ctx context.Context) error {
	if c.All && len(c.Voice) > 0 {
		return errors.New("--all and --voice exclude each other")
	}
	if c.Prompt == "" && (c.All || len(c.Voice) > 1) {
		return errors.New("several voices need a PROMPT; a conversation has one voice")
	}
	cl, ctx, done, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	return explain(ctx, c.run(ctx, cl))
}

func (c *chatCmd) run(ctx context.Context, cl *client.Client) error {
	voices, err := c.voices(ctx, cl)
	if err != nil {
		return err
	}
	if c.Prompt == "" {
		return newTalk(cl, voices[0], c).run(ctx, os.Stdin, os.Stdout)
	}
	prompt, err := readPrompt(c.Prompt, os.Stdin)
	if err != nil {
		return err
	}
	if len(voices) == 1 {
		t := newTalk(cl, voices[0], c)
		out := io.Writer(os.Stdout)
		if isTerminal(os.Stdout) {
			out = cleaner{os.Stdout}
		}
		return t.say(ctx, prompt, out)
	}
	s := &sideBySide{client: cl, view: newView(os.Stdout)}
	for _, v := range voices {
		s.panes = append(s.panes, &pane{name: v})
	}
	return s.run(ctx, &choralev1.GenerateRequest{
		Prompts: slices.Repeat([]*choralev1.Prompt{chatPrompt(messages(c.System, prompt))}, len(voices)), Sampling: c.params(),
	}, prompt)
}

// voices are those that were named, or all.
func (c *chatCmd) voices(ctx context.Context, cl *client.Client) ([]string, error) {
	if !c.All {
		if len(c.Voice) == 0 {
			return []string{baseVoice}, nil
		}
		return c.Voice, nil
	}
	names, err := cl.Voices(ctx)
	if err != nil {
		return nil, err
	}
	return append([]string{baseVoice}, names...), nil
}

// messages begins a conversation.
func messages(system, user string) []*choralev1.ChatMessage {
	var out []*choralev1.ChatMessage
	if system != "" {
		out = append(out, &choralev1.ChatMessage{Role: "system", Content: system})
	}
	return append(out, &choralev1.ChatMessage{Role: "user", Content: user})
}

func chatPrompt(m []*choralev1.ChatMessage) *choralev1.Prompt {
	return &choralev1.Prompt{Kind: &choralev1.Prompt_Chat{Chat: &choralev1.Chat{Messages: m}}}
}

// cleaner makes what is written printable.
type cleaner struct{ out io.Writer }

func (c cleaner) Write(p []byte) (int, error) {
	if _, err := io.WriteString(c.out, printable(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// talk is a conversation with one voice.
type talk struct {
	client   *client.Client
	voice    string
	system   string
	sampling *choralev1.SamplingParams
	history  []*choralev1.ChatMessage
}

func newTalk(cl *client.Client, voice string, c *chatCmd) *talk {
	return &talk{client: cl, voice: voice, system: c.System, sampling: c.params()}
}

// say asks and streams the answer to out. An answer that the context ended
// stays in the conversation as far as it came; one that failed, or had not
// begun, takes its question back.
func (t *talk) say(ctx context.Context, text string, out io.Writer) error {
	before := len(t.history)
	if before == 0 {
		t.history = messages(t.system, text)
	} else {
		t.history = append(t.history, &choralev1.ChatMessage{Role: "user", Content: text})
	}
	var answer strings.Builder
	req := &choralev1.GenerateRequest{
		Prompts: []*choralev1.Prompt{chatPrompt(t.history)}, Adapters: []string{adapterOf(t.voice)}, Sampling: t.sampling,
	}
	err := t.client.Generate(ctx, req, func(p *choralev1.GenerateStreamResponse) error {
		answer.WriteString(p.GetText())
		if _, err := io.WriteString(out, p.GetText()); err != nil {
			return err
		}
		return finishError(p)
	})
	if s := answer.String(); s != "" && !strings.HasSuffix(s, "\n") {
		_, _ = io.WriteString(out, "\n") // a failed write has ended the answer already
	}
	if err != nil && (ctx.Err() == nil || answer.Len() == 0) {
		t.history = t.history[:before]
		return err
	}
	t.history = append(t.history, &choralev1.ChatMessage{Role: "assistant", Content: answer.String()})
	return err
}

const talkHelp = `/voice NAME   answer with this adapter from now on (base: the base model)
/voice        list the voices
/clear        forget the conversation
/exit         leave (or ctrl-D); ctrl-C ends an answer
`

// command runs a line that begins with a slash.
func (t *talk) command(ctx context.Context, line string) (reply string, leave bool, err error) {
	name, arg, _ := strings.Cut(line, " ")
	arg = strings.TrimSpace(arg)
	switch name {
	case "/exit", "/quit":
		return "", true, nil
	case "/clear":
		t.history = nil
		return "the conversation is forgotten\n", false, nil
	case "/help":
		return talkHelp, false, nil
	case "/voice":
		names, err := t.client.Voices(ctx)
		if err != nil {
			return "", false, err
		}
		names = append([]string{baseVoice}, names...)
		switch {
		case arg == "":
			return "voices: " + join(names) + "\n", false, nil
		case !slices.Contains(names, arg):
			return "", false, fmt.Errorf("no voice %q; there are: %s", arg, join(names))
		}
		t.voice = arg
		return arg + " answers now\n", false, nil
	}
	return "", false, fmt.Errorf("unknown command %s; /help lists them", name)
}

// turn handles one line. Its errors are shown, and the conversation goes on.
func (t *talk) turn(ctx context.Context, line string, out io.Writer) (leave bool) {
	line = strings.TrimSpace(line)
	var reply string
	var err error
	switch {
	case line == "":
		return false
	case strings.HasPrefix(line, "/"):
		reply, leave, err = t.command(ctx, line)
	default:
		err = t.say(ctx, line, out)
	}
	switch {
	case errors.Is(err, context.Canceled):
		reply = "(ended)\n"
	case err != nil:
		reply = fmt.Sprintf("error: %v\n", explain(ctx, err))
	}
	_, werr := io.WriteString(out, reply)
	return leave || werr != nil
}
