package sglang

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"chorale/router"
	"chorale/services/inference"
	"chorale/services/inference/answer"
	"chorale/services/rest/face"
	"chorale/services/rest/jsonbody"
	"chorale/services/status"
)

// ModelInfo is GET /model_info and /get_model_info.
func (h *Handler) ModelInfo(w http.ResponseWriter, _ *http.Request) {
	m := h.d.Router.Model()
	status.WriteJSON(w, http.StatusOK, map[string]any{
		"model_path": m.Path, "tokenizer_path": m.Path, "served_model_name": m.Name,
		"is_generation": true, "preferred_sampling_params": nil, "weight_version": "default",
		"load_format": "auto", "has_image_understanding": false, "has_audio_understanding": false,
		"tool_call_parser": nil, "reasoning_parser": nil,
		"model_type": m.Group.ModelType, "architectures": m.Group.Architectures,
	})
}

// ServerInfo is GET /server_info and /get_server_info: the flags, the model's
// limits and the state.
func (h *Handler) ServerInfo(w http.ResponseWriter, _ *http.Request) {
	m, st := h.d.Router.Model(), h.d.Router.State()
	out := maps.Clone(h.serverArgs)
	if out == nil {
		out = map[string]any{}
	}
	state := "ready"
	if inference.Ready(st) != nil {
		state = "unavailable"
	}
	pages, states := 0, []map[string]any{}
	for _, g := range st.Groups {
		pages += g.Info.KVPages * g.Info.PageSize
		states = append(states, groupState(g))
	}
	maps.Copy(out, map[string]any{
		"model_path": m.Path, "served_model_name": m.Name, "enable_lora": m.LoRAEnabled,
		"max_loras_per_batch": m.Group.MaxLoRAsPerBatch, "max_lora_rank": m.Group.MaxLoRARank,
		"lora_target_modules": m.Group.Modules, "context_length": m.Group.ContextLength,
		"max_req_input_len": max(0, m.Group.ContextLength-1), "max_total_num_tokens": pages,
		"version": h.d.Version, "status": state, "uptime": time.Since(st.Started).Seconds(),
		"num_running_reqs": st.Running, "num_queue_reqs": st.Queued,
		"internal_states": states,
	})
	status.WriteJSON(w, http.StatusOK, out)
}

func groupState(g router.GroupState) map[string]any {
	s := map[string]any{
		"worker": g.Address, "connected": g.Connected, "device": g.Info.Device,
		"num_running_reqs": g.Status.Running, "num_waiting_reqs": g.Status.Waiting,
		"kv_pages_used": g.Status.KVPagesUsed, "kv_pages_total": g.Status.KVPages,
		"resident_adapters": g.Status.Resident, "steps": g.Status.Step,
		"last_step_rows": g.Status.StepRows, "last_step_adapters": g.Status.StepAdapters,
		"max_step_adapters": g.Status.MaxStepAdapters, "error": nil,
		"draining": g.Status.Draining, "ranks": g.Info.Ranks, "restarts": g.Info.Restarts,
	}
	if g.Err != nil {
		s["error"] = g.Err.Error()
	} else if u := g.Unhealthy(); u != "" {
		s["error"] = u
	}
	devices := make([]map[string]any, len(g.Devices))
	for i, d := range g.Devices {
		devices[i] = map[string]any{
			"index": d.Index, "name": d.Name, "uuid": d.UUID, "memory_total": d.MemoryTotal, "memory_used": d.MemoryUsed,
			"utilization": d.Utilization, "temperature": d.Temperature, "power": d.Power, "power_limit": d.PowerLimit,
			"ecc_uncorrected": d.ECCUncorrected, "xid_events": d.XIDs, "last_xid": d.LastXID, "unhealthy": d.Unhealthy,
		}
	}
	s["devices"] = devices
	return s
}

// Health is GET /health: 200 when requests can be answered now, else 503.
func (h *Handler) Health(w http.ResponseWriter, _ *http.Request) {
	if err := inference.Ready(h.d.Router.State()); err != nil {
		status.Write(w, status.SGLang, err)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// healthTimeout bounds the generation of /health_generate.
const healthTimeout = 20 * time.Second

// HealthGenerate is GET /health_generate: it has one token generated.
func (h *Handler) HealthGenerate(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	if err := h.oneToken(ctx); err != nil {
		p := status.Of(err)
		p.HTTP = http.StatusServiceUnavailable
		code, body := status.SGLang(p)
		status.WriteJSON(w, code, body)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (h *Handler) oneToken(ctx context.Context) error {
	s := router.DefaultSampling()
	s.MaxTokens, s.Temperature = 1, 0
	reqs := []*router.Request{{
		ID: "HEALTH_CHECK_" + newID(), Prompt: router.Prompt{IDs: []int32{0}}, Sampling: s,
		Logprobs: router.Logprobs{PromptStart: -1}, Field: "health",
	}}
	handles, err := h.d.Router.Submit(ctx, reqs)
	if err != nil {
		return err
	}
	_, err = answer.Collect(ctx, handles, reqs)
	return err
}

// AbortRequest is POST /abort_request.
func (h *Handler) AbortRequest(w http.ResponseWriter, r *http.Request) {
	body, err := face.ReadBody(r)
	if err != nil {
		status.Write(w, status.SGLang, err)
		return
	}
	o, err := jsonbody.Parse(body)
	if err != nil {
		status.Write(w, status.SGLang, err)
		return
	}
	var rids []string
	var all bool
	o.StringOrList("rid", face.MaxPrompts, &rids)
	o.Bool("abort_all", &all)
	if !all && (len(rids) == 0 || slices.Contains(rids, "")) {
		o.Fail(status.Invalid("rid", "is required unless abort_all is true"))
	}
	if o.Err() != nil {
		status.Write(w, status.SGLang, o.Err())
		return
	}
	if all {
		rids = []string{""}
	}
	for _, rid := range rids {
		h.d.Router.Abort(rid, all)
	}
	w.WriteHeader(http.StatusOK)
}
