package sglang

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/services/rest/face"
	"chorale/services/rest/jsonbody"
	"chorale/services/status"
)

// loadResult answers loads and unloads, good or bad.
type loadResult struct {
	RID            *string           `json:"rid"`
	HTTPWorkerIPC  *string           `json:"http_worker_ipc"`
	Success        bool              `json:"success"`
	ErrorMessage   *string           `json:"error_message"`
	LoadedAdapters map[string]string `json:"loaded_adapters"`
}

// errDisabled is what SGLang says to loads when LoRA is off.
var errDisabled = status.WithText(router.ErrLoRADisabled, disabledText)

const disabledText = "LoRA is not enabled. Please set `--enable-lora` to enable LoRA."

// LoadLoRA is POST /load_lora_adapter.
func (h *Handler) LoadLoRA(w http.ResponseWriter, r *http.Request) {
	var name, path string
	var pinned bool
	err := h.readLoRA(r, func(o *jsonbody.Object) {
		required(o, "lora_name", &name)
		required(o, "lora_path", &path)
		o.Bool("pinned", &pinned)
		face.Refuse(o, "added_tokens_config")
	})
	if err != nil {
		h.refuse(w, status.Of(err), status.Of(err).Message)
		return
	}
	resp, err := h.d.Adapters.LoadAdapter(face.Outgoing(r), &choralev1.LoadAdapterRequest{
		Name: name, Source: path, Pinned: pinned, MustBeNew: true,
	})
	if err != nil {
		h.refuse(w, status.Of(err), loadMessage(name, status.Of(err)))
		return
	}
	if err := h.d.Router.WaitRevision(r.Context(), resp.Revision); err != nil {
		h.refuse(w, status.Of(err), fmt.Sprintf("LoRA adapter %s was loaded, but the router has not seen it yet: %v", name, err))
		return
	}
	loaded := h.loaded()
	for _, e := range resp.Evicted {
		delete(loaded, e)
	}
	status.WriteJSON(w, http.StatusOK, loadResult{Success: true, LoadedAdapters: loaded})
}

// UnloadLoRA is POST /unload_lora_adapter.
func (h *Handler) UnloadLoRA(w http.ResponseWriter, r *http.Request) {
	var name string
	err := h.readLoRA(r, func(o *jsonbody.Object) { required(o, "lora_name", &name) })
	if err != nil {
		h.refuse(w, status.Of(err), status.Of(err).Message)
		return
	}
	resp, err := h.d.Adapters.UnloadAdapter(face.Outgoing(r), &choralev1.UnloadAdapterRequest{Name: name})
	if err != nil {
		p := status.Of(err)
		msg := loadMessage(name, p)
		if p.Reason == status.ReasonAdapterNotFound {
			msg = fmt.Sprintf("LoRA with name %s does not exist. Loaded LoRAs: %s", name, strings.Join(h.names(), ", "))
		}
		h.refuse(w, p, msg)
		return
	}
	if err := h.d.Router.WaitRevision(r.Context(), resp.Revision); err != nil {
		h.refuse(w, status.Of(err), fmt.Sprintf("LoRA adapter %s was unloaded, but the router has not seen it yet: %v", name, err))
		return
	}
	status.WriteJSON(w, http.StatusOK, loadResult{Success: true, LoadedAdapters: h.loaded()})
}

// readLoRA reads a body for one of the LoRA routes.
func (h *Handler) readLoRA(r *http.Request, read func(o *jsonbody.Object)) error {
	body, err := face.ReadBody(r)
	if err != nil {
		return err
	}
	o, err := jsonbody.Parse(body)
	if err != nil {
		return err
	}
	if read(o); o.Err() != nil {
		return o.Err()
	}
	if !h.d.Router.Model().LoRAEnabled {
		return errDisabled
	}
	if h.d.Adapters == nil {
		return face.ErrNoManager
	}
	return nil
}

func required(o *jsonbody.Object, field string, dst *string) {
	o.String(field, dst)
	if *dst == "" {
		o.Fail(status.Invalid(field, "is required"))
	}
}

// loaded gives the adapters that take requests, with their paths exactly as
// they were given at load.
func (h *Handler) loaded() map[string]string {
	out := map[string]string{}
	if c := h.d.Router.Catalogue(); c != nil {
		for name, a := range c.Adapters {
			if a.Usable {
				out[name] = a.Source
			}
		}
	}
	return out
}

func (h *Handler) names() []string {
	var out []string
	for name := range h.loaded() {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (h *Handler) refuse(w http.ResponseWriter, p status.Problem, message string) {
	status.WriteJSON(w, status.SGLangStatus(p), loadResult{ErrorMessage: &message, LoadedAdapters: h.loaded()})
}

// loadMessage says why a load failed, with the words that SGLang's clients
// look for and the manager's reason behind them.
func loadMessage(name string, p status.Problem) string {
	switch p.Reason {
	case status.ReasonAdapterLoaded:
		return fmt.Sprintf("Failed to load LoRA adapter %s because it is already loaded", name)
	case status.ReasonAdapterMismatch, status.ReasonAdapterRank:
		return fmt.Sprintf("LoRA adapter %s is incompatible with the current LoRA memory pool configuration: %s", name, p.Message)
	case status.ReasonPinStarvation:
		return fmt.Sprintf("Failed to load LoRA adapter %s as a pinned adapter. It is not allowed to pin all slots in the LoRA memory pool to avoid starvation for unpinned adapters and the base model: %s", name, p.Message)
	case status.ReasonLoRADisabled:
		return disabledText
	default:
		return fmt.Sprintf("Failed to load LoRA adapter %s: %s", name, p.Message)
	}
}
