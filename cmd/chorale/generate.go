package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	choralev1 "chorale/proto/gen/chorale/v1"
)

// maxPrompt bounds a prompt read from standard input.
const maxPrompt = 16 << 20

// generateCmd completes a text.
type generateCmd struct {
	Prompt string `arg:"" name:"PROMPT" help:"The text to complete; - reads it from standard input."`
	Voice  string `default:"base" placeholder:"NAME" help:"The adapter that answers, or base."`
	samplingFlags
	clientFlags
}

// Run streams the answer to standard output.
func (g *generateCmd) Run(ctx context.Context) error {
	prompt, err := readPrompt(g.Prompt, os.Stdin)
	if err != nil {
		return err
	}
	c, ctx, done, err := g.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	clean := func(s string) string { return s }
	if isTerminal(os.Stdout) {
		clean = printable
	}
	req := &choralev1.GenerateRequest{
		Prompts:  []*choralev1.Prompt{{Kind: &choralev1.Prompt_Text{Text: prompt}}},
		Adapters: []string{adapterOf(g.Voice)}, Sampling: g.params(),
	}
	newline := false
	err = c.Generate(ctx, req, func(p *choralev1.GenerateStreamResponse) error {
		if s := p.GetText(); s != "" {
			newline = strings.HasSuffix(s, "\n")
			if _, err := io.WriteString(os.Stdout, clean(s)); err != nil {
				return err
			}
		}
		return finishError(p)
	})
	if !newline {
		fmt.Println()
	}
	return explain(ctx, err)
}

// readPrompt gives the prompt, from in when it is "-".
func readPrompt(arg string, in io.Reader) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	b, err := io.ReadAll(io.LimitReader(in, maxPrompt+1))
	if err != nil {
		return "", fmt.Errorf("reading the prompt: %w", err)
	}
	if len(b) > maxPrompt {
		return "", fmt.Errorf("the prompt is longer than %d bytes", maxPrompt)
	}
	if len(b) == 0 {
		return "", errors.New("the prompt is empty")
	}
	return string(b), nil
}
