package rest

import (
	"strings"
	"testing"

	"chorale/router"
)

func TestVLLMLoad(t *testing.T) {
	s := serve(t)
	plain := func(path, body string, code int, want string) {
		t.Helper()
		if got, out := s.post(path, body); got != code || out != want {
			t.Errorf("%s %s = %d %s", path, body, got, out)
		}
	}
	refused := func(path, body string, code int, kind, want string) {
		t.Helper()
		got, out := s.post(path, body)
		e, _ := decodeJSON(t, out)["error"].(map[string]any)
		if got != code || e["type"] != kind || !strings.Contains(e["message"].(string), want) || e["code"] != float64(code) {
			t.Errorf("%s %s = %d %s", path, body, got, out)
		}
	}
	const load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
	plain(load, `{"lora_name":"x","lora_path":"/x"}`, 200, "Success: LoRA adapter 'x' added successfully.")
	refused(load, `{"lora_name":"x","lora_path":"/x"}`, 400, "InvalidUserInput", "The lora adapter 'x' has already been loaded.")
	plain(load, `{"lora_name":"x","lora_path":"/x2","load_inplace":true}`, 200, "Success: LoRA adapter 'x' added successfully.")
	if r := s.adapters.Requests[2]; !r.Replace || r.MustBeNew {
		t.Errorf("request = %v", r)
	}
	if len(s.router.Waited()) != 2 {
		t.Errorf("waited for %v", s.router.Waited())
	}
	for _, body := range []string{`{}`, `{"lora_name":"x"}`, `{"lora_path":"/x"}`, `{"lora_name":"","lora_path":"/x"}`, `{"lora_name":null,"lora_path":"/x"}`} {
		refused(load, body, 400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
	}
	refused(load, `{"lora_name":"y","lora_path":"/error/ADAPTER_SOURCE_DENIED"}`, 404, "NotFoundError", "No adapter found for /error/")
	refused(load, `{"lora_name":"y","lora_path":"/missing/y"}`, 404, "NotFoundError", "No adapter found for /missing/y")
	for _, reason := range []string{"ADAPTER_INVALID", "ADAPTER_RANK_TOO_LARGE", "ADAPTER_UNSUPPORTED", "ADAPTER_INCOMPATIBLE", "PIN_STARVATION", "LORA_DISABLED"} {
		refused(load, `{"lora_name":"y","lora_path":"/error/`+reason+`"}`, 400, "BadRequestError", "cannot load y")
	}
	refused(load, `{"lora_name":"y","lora_path":"/error/DISK_FULL"}`, 507, "InternalServerError", "cannot load y")
	refused(load, `{"lora_name":5,"lora_path":"/y"}`, 400, "BadRequestError", "lora_name: must be a string, got number")
	refused(load, `{"lora_name":"y","lora_path":"/y","load_inplace":"yes"}`, 400, "BadRequestError", "load_inplace: must be true or false, got string")
	plain(unload, `{"lora_name":"x"}`, 200, "Success: LoRA adapter 'x' removed successfully.")
	refused(unload, `{"lora_name":"x"}`, 404, "NotFoundError", "The lora adapter 'x' cannot be found.")
	refused(unload, `{}`, 400, "InvalidUserInput", "'lora_name' needs to be provided to unload a LoRA adapter.")
}

func TestTokenize(t *testing.T) {
	s := serve(t)
	s.expect("/tokenize", `{"model":"tiny","prompt":"hi"}`, 200, `{"count":3,"max_model_len":512,"tokens":[256,104,105],"token_strs":null}`)
	s.expect("/tokenize", `{"prompt":"hi","add_special_tokens":false,"return_token_strs":true}`, 200,
		`{"count":2,"max_model_len":512,"tokens":[104,105],"token_strs":["<0x68>","<0x69>"]}`)
	s.expect("/tokenize", `{"prompt":["h","","i"],"add_special_tokens":false}`, 200, `{"count":[1,0,1],"max_model_len":512,"tokens":[[104],[],[105]],"token_strs":null}`)
	s.expect("/tokenize", `{"messages":[{"role":"u","content":"i"}]}`, 200, `{"count":4,"max_model_len":512,"tokens":[117,58,105,124],"token_strs":null}`)
	s.expect("/detokenize", `{"tokens":[104,105,256,257]}`, 200, `{"prompt":"hi<eos>Hello","text":"hi<eos>Hello"}`)
	s.expect("/detokenize", `{"tokens":[104,105,256],"skip_special_tokens":true}`, 200, `{"prompt":"hi","text":"hi"}`)
	s.expect("/detokenize", `{"tokens":[]}`, 200, `{"prompt":"","text":""}`)
	for path, bodies := range map[string]map[string]string{
		"/tokenize":   {`{}`: "prompt: or messages must be given", `{"prompt":5}`: "prompt: must be a string", `{"prompt":[]}`: "prompt: must not be empty", `{"messages":5}`: "messages: must be an array"},
		"/detokenize": {`{}`: "tokens: is required", `{"tokens":["x"]}`: "tokens[0]: must be an integer", `{"tokens":[999]}`: "tokens[0]: must be a token id"},
	} {
		for body, want := range bodies {
			if code, out := s.post(path, body); code != 400 || !strings.Contains(out, want) {
				t.Errorf("%s %s = %d %s", path, body, code, out)
			}
		}
	}
	if _, _, out := s.call("GET", "/version", ""); strings.TrimSpace(out) != `{"version":"1.2.3"}` {
		t.Error(out)
	}
	s.router.St.Groups = []router.GroupState{}
	if code, _, _ := s.call("GET", "/ping", ""); code != 503 {
		t.Error(code)
	}
}
