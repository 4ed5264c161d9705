// Package vllm speaks the parts of vLLM's HTTP API that OpenAI's does not
// have: its LoRA routes, tokenize and detokenize, ping and version.
package vllm

import (
	"fmt"
	"net/http"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/services/inference"
	"chorale/services/rest/face"
	"chorale/services/rest/jsonbody"
	"chorale/services/status"
)

// Handler serves vLLM's routes.
type Handler struct{ d *face.Deps }

// New makes the handlers.
func New(d *face.Deps) *Handler { return &Handler{d} }

// object reads a request's body.
func object(r *http.Request) (*jsonbody.Object, error) {
	body, err := face.ReadBody(r)
	if err != nil {
		return nil, err
	}
	return jsonbody.Parse(body)
}

// userInput is a refusal of vLLM's type InvalidUserInput.
func userInput(w http.ResponseWriter, format string, args ...any) {
	status.WriteJSON(w, http.StatusBadRequest, map[string]status.OpenAIError{"error": {
		Message: fmt.Sprintf(format, args...), Type: "InvalidUserInput", Code: http.StatusBadRequest,
	}})
}

func notFound(w http.ResponseWriter, format string, args ...any) {
	status.WriteJSON(w, http.StatusNotFound, map[string]status.OpenAIError{"error": {
		Message: fmt.Sprintf(format, args...), Type: "NotFoundError", Code: http.StatusNotFound,
	}})
}

func success(w http.ResponseWriter, format string, args ...any) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprintf(w, format, args...)
}

// LoadLoRA is POST /v1/load_lora_adapter. Adapters that cannot be served are
// 400 with the reason, where vLLM says 500.
func (h *Handler) LoadLoRA(w http.ResponseWriter, r *http.Request) {
	o, err := object(r)
	if err != nil {
		status.Write(w, status.VLLM, err)
		return
	}
	var name, path string
	var inplace bool
	o.String("lora_name", &name)
	o.String("lora_path", &path)
	o.Bool("load_inplace", &inplace)
	face.Refuse(o, "is_3d_lora_weight")
	if o.Err() != nil {
		status.Write(w, status.VLLM, o.Err())
		return
	}
	if name == "" || path == "" {
		userInput(w, "Both 'lora_name' and 'lora_path' must be provided.")
		return
	}
	if h.d.Adapters == nil {
		status.Write(w, status.VLLM, face.ErrNoManager)
		return
	}
	resp, err := h.d.Adapters.LoadAdapter(face.Outgoing(r), &choralev1.LoadAdapterRequest{
		Name: name, Source: path, MustBeNew: !inplace, Replace: inplace,
	})
	if err == nil {
		err = h.d.Router.WaitRevision(r.Context(), resp.Revision)
	}
	switch p := status.Of(err); {
	case err == nil:
		success(w, "Success: LoRA adapter '%s' added successfully.", name)
	case p.Reason == status.ReasonAdapterLoaded:
		userInput(w, "The lora adapter '%s' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True.", name)
	case p.Reason == status.ReasonSourceNotFound, p.Reason == status.ReasonSourceDenied:
		// One answer for both: no oracle for what exists outside the roots.
		notFound(w, "Loading lora %s failed: No adapter found for %s", name, path)
	default:
		status.Write(w, status.VLLM, err)
	}
}

// UnloadLoRA is POST /v1/unload_lora_adapter.
func (h *Handler) UnloadLoRA(w http.ResponseWriter, r *http.Request) {
	o, err := object(r)
	if err != nil {
		status.Write(w, status.VLLM, err)
		return
	}
	var name string
	if o.String("lora_name", &name); o.Err() != nil {
		status.Write(w, status.VLLM, o.Err())
		return
	}
	if name == "" {
		userInput(w, "'lora_name' needs to be provided to unload a LoRA adapter.")
		return
	}
	if h.d.Adapters == nil {
		status.Write(w, status.VLLM, face.ErrNoManager)
		return
	}
	resp, err := h.d.Adapters.UnloadAdapter(face.Outgoing(r), &choralev1.UnloadAdapterRequest{Name: name})
	if err == nil {
		err = h.d.Router.WaitRevision(r.Context(), resp.Revision)
	}
	switch p := status.Of(err); {
	case err == nil:
		success(w, "Success: LoRA adapter '%s' removed successfully.", name)
	case p.Reason == status.ReasonAdapterNotFound:
		notFound(w, "The lora adapter '%s' cannot be found.", name)
	default:
		status.Write(w, status.VLLM, err)
	}
}

// Ping is GET and POST /ping, the health check of some clouds.
func (h *Handler) Ping(w http.ResponseWriter, _ *http.Request) {
	if err := inference.Ready(h.d.Router.State()); err != nil {
		status.Write(w, status.VLLM, err)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// Version is GET /version.
func (h *Handler) Version(w http.ResponseWriter, _ *http.Request) {
	status.WriteJSON(w, http.StatusOK, map[string]string{"version": h.d.Version})
}
