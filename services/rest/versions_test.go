package rest

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"chorale/router"
)

// TestAnswersNameTheVersion: every face tells who answered, and takes a user's
// key and names with versions.
func TestAnswersNameTheVersion(t *testing.T) {
	s := serve(t)
	s.router.Change(func(c *router.Catalogue) {
		c.Adapters["v"] = &router.AdapterEntry{Name: "v", Digest: "sha256:77", Version: 3, Usable: true}
	})
	post := func(path, body string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Chorale-User", "ada")
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		out, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(out)
	}
	for path, body := range map[string]string{
		"/generate":            `{"text":["x","y"],"lora_path":["v",null]}`,
		"/v1/completions":      `{"model":"v","prompt":"x"}`,
		"/v1/chat/completions": `{"model":"tiny:v","messages":[{"role":"user","content":"x"}]}`,
	} {
		resp, out := post(path, body)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Chorale-Adapter") != "v@3;sha256:77" {
			t.Errorf("%s: %d %q %s", path, resp.StatusCode, resp.Header.Get("X-Chorale-Adapter"), out)
		}
		if path == "/generate" && !strings.Contains(out, `"adapter":"v","adapter_version":3,"adapter_digest":"sha256:77"`) {
			t.Error(out)
		}
		rs := s.router.Requests()
		if u := rs[len(rs)-1].User; u != "ada" {
			t.Errorf("%s: user %q", path, u)
		}
	}
	if resp, _ := post("/v1/completions", `{"prompt":"x","user":"own"}`); resp.Header.Get("X-Chorale-Adapter") != "" {
		t.Errorf("the base model is %q", resp.Header.Get("X-Chorale-Adapter"))
	}
	rs := s.router.Requests()
	if u := rs[len(rs)-1].User; u != "own" {
		t.Errorf("user %q", u)
	}
}
