package rest

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"chorale/router"
	"chorale/services/auth"
	"chorale/services/rest/facetest"
)

// TestOpenAIClient drives the faces with OpenAI's own Python client. It needs
// an interpreter that has the package: OPENAI_PYTHON=venv/bin/python.
func TestOpenAIClient(t *testing.T) {
	python := os.Getenv("OPENAI_PYTHON")
	if python == "" {
		t.Skip("OPENAI_PYTHON names no interpreter with the openai package")
	}
	s := serve(t, func(o *Options) { o.Keys = auth.NewKeys("key", "") })
	s.router.Script = func(r *router.Request, prompt []int32) []router.Event {
		out := facetest.Answer(r, prompt)
		if r.Prompt.Text != nil && *r.Prompt.Text == "fail" {
			lost := router.Event{Finish: &router.Finish{Reason: router.FinishAbort, Err: router.ErrWorkerLost}}
			out = append(out[:1], lost)
		}
		return out
	}
	out, err := exec.CommandContext(t.Context(), python, "testdata/openai_client.py", s.URL).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "ok ") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
