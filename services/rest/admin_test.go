package rest

import (
	"strings"
	"testing"

	"chorale/services/auth"
)

// TestSurfaces: with an address of its own for adapters, the other says where
// they are administered, and the one generates nothing. Each takes its own key.
func TestSurfaces(t *testing.T) {
	keys := auth.NewKeys("user", "boss")
	answers := serve(t, func(o *Options) { o.Keys = keys.At(auth.NoAdmin) })
	admin := serve(t, func(o *Options) { o.Keys = keys.At(auth.OnlyAdmin) })
	load, gen := `{"lora_name":"n","lora_path":"/p"}`, `{"text":"x"}`
	for _, tt := range []struct {
		s                       *server
		method, path, body, key string
		code                    int
		says                    string
	}{
		{answers, "POST", "/load_lora_adapter", load, "boss", 404, "--admin-listen"},
		{answers, "POST", "/load_lora_adapter", load, "", 404, "--admin-listen"},
		{answers, "POST", "/unload_lora_adapter", load, "boss", 404, "/unload_lora_adapter: adapters are administered at another address"},
		{answers, "POST", "/v1/load_lora_adapter", load, "boss", 404, `"type":"NotFoundError"`},
		{answers, "POST", "/v1/unload_lora_adapter", load, "boss", 404, "--admin-listen"},
		{answers, "GET", nativeAdapters, "", "boss", 404, "SERVED_ELSEWHERE"},
		{answers, "POST", uploadPath, "", "boss", 404, "SERVED_ELSEWHERE"},
		{answers, "DELETE", nativeAdapters + "/a", "", "boss", 404, "SERVED_ELSEWHERE"},
		{answers, "POST", "/flush_cache", "", "boss", 404, "--admin-listen"},
		{answers, "POST", "/abort_request", `{"rid":"x"}`, "boss", 404, "--admin-listen"},
		{answers, "POST", "/generate", gen, "user", 200, "Hello"},
		{answers, "POST", "/generate", gen, "boss", 200, "Hello"},
		{answers, "POST", "/generate", gen, "", 401, "API key"},
		{answers, "GET", "/v1/models", "", "user", 200, `"tiny"`},
		{answers, "GET", "/health", "", "", 200, ""},

		{admin, "POST", "/load_lora_adapter", load, "", 401, "API key"},
		{admin, "POST", "/load_lora_adapter", load, "user", 403, "the admin API key is required"},
		{admin, "POST", "/v1/load_lora_adapter", load, "user", 403, "the admin API key is required"},
		{admin, "GET", nativeAdapters, "", "user", 403, "ADMIN_KEY_REQUIRED"},
		{admin, "POST", "/load_lora_adapter", load, "boss", 200, `"success":true`},
		{admin, "POST", "/flush_cache", "", "boss", 200, ""},
		{admin, "POST", "/generate", gen, "boss", 404, "answers are generated at another"},
		{admin, "POST", "/v1/chat/completions", `{}`, "boss", 404, `"code":"served_elsewhere"`},
		{admin, "POST", "/chorale/v1/generate", `{}`, "boss", 404, "SERVED_ELSEWHERE"},
		{admin, "GET", "/v1/models", "", "boss", 200, `"id":"n"`},
		{admin, "GET", "/server_info", "", "", 401, "API key"},
		{admin, "GET", "/health", "", "", 200, ""},
		{admin, "GET", "/metrics", "", "", 200, "chorale_up"},
	} {
		var header []string
		if tt.key != "" {
			header = []string{"Authorization", "Bearer " + tt.key}
		}
		if code, _, out := tt.s.call(tt.method, tt.path, tt.body, header...); code != tt.code || !strings.Contains(out, tt.says) {
			t.Errorf("%s %s with %q = %d %s, want %d with %q", tt.method, tt.path, tt.key, code, out, tt.code, tt.says)
		}
	}
}
