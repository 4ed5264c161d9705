package rest

import (
	"net/http"
	"slices"
	"strings"

	"chorale/services/auth"
	"chorale/services/rest/face"
	"chorale/services/rest/openai"
	"chorale/services/rest/sglang"
	"chorale/services/rest/vllm"
	"chorale/services/status"
)

// route is one path (or, ending in "/", all below it).
type route struct {
	path    string
	methods []string
	level   auth.Level
	shape   status.Shape
	serve   http.HandlerFunc
	// doc is the route's line in /openapi.json; empty leaves it out.
	doc string
}

var (
	get     = []string{http.MethodGet, http.MethodHead}
	post    = []string{http.MethodPost}
	getPost = []string{http.MethodGet, http.MethodHead, http.MethodPost}
	any4    = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete}
)

const (
	modelsPrefix   = "/v1/models/"
	nativePrefix   = "/chorale/v1/"
	nativeAdapters = "/chorale/v1/adapters"
)

// routes is the table of everything that is served.
func routes(o *Options, d *face.Deps, native http.Handler) []route {
	sg, oa, vl := sglang.New(d, o.ServerArgs), openai.New(d), vllm.New(d)
	table := []route{
		{"/generate", []string{http.MethodPost, http.MethodPut}, auth.Inference, status.SGLang, sg.Generate, "Generate for one or several prompts, each with its adapter (lora_path)."},
		{"/load_lora_adapter", post, auth.Admin, status.SGLang, sg.LoadLoRA, "Load an adapter."},
		{"/unload_lora_adapter", post, auth.Admin, status.SGLang, sg.UnloadLoRA, "Unload an adapter."},
		{"/model_info", get, auth.Describe, status.SGLang, sg.ModelInfo, "The base model."},
		{"/get_model_info", get, auth.Describe, status.SGLang, sg.ModelInfo, "The base model (old name)."},
		{"/server_info", get, auth.Describe, status.SGLang, sg.ServerInfo, "Flags, limits and state."},
		{"/get_server_info", get, auth.Describe, status.SGLang, sg.ServerInfo, "Flags, limits and state (old name)."},
		{"/health", get, auth.Open, status.SGLang, sg.Health, "200 when requests can be answered, else 503."},
		{"/health_generate", get, auth.Open, status.SGLang, sg.HealthGenerate, "Health by generating one token."},
		{"/flush_cache", getPost, auth.Admin, status.SGLang, sg.FlushCache, "Empty the prefix cache."},
		{"/abort_request", post, auth.Admin, status.SGLang, sg.AbortRequest, "Abort requests by rid, or all."},

		{"/v1/completions", post, auth.Inference, status.OpenAI, oa.Completions, "Completions."},
		{"/v1/chat/completions", post, auth.Inference, status.OpenAI, oa.Chat, "Chat completions."},
		{"/v1/models", get, auth.Describe, status.OpenAI, oa.Models, "The base model and the adapters."},
		{modelsPrefix, get, auth.Describe, status.OpenAI, func(w http.ResponseWriter, r *http.Request) {
			oa.Model(w, strings.TrimPrefix(r.URL.Path, modelsPrefix))
		}, "One model or adapter."},

		{"/v1/load_lora_adapter", post, auth.Admin, status.VLLM, vl.LoadLoRA, "Load an adapter."},
		{"/v1/unload_lora_adapter", post, auth.Admin, status.VLLM, vl.UnloadLoRA, "Unload an adapter."},
		{"/tokenize", post, auth.Inference, status.VLLM, vl.Tokenize, "The tokens of a text or a chat."},
		{"/detokenize", post, auth.Inference, status.VLLM, vl.Detokenize, "The text of tokens."},
		{"/v1/tokenize", post, auth.Inference, status.VLLM, vl.Tokenize, "SGLang's name of /tokenize."},
		{"/v1/detokenize", post, auth.Inference, status.VLLM, vl.Detokenize, "SGLang's name of /detokenize."},
		{"/ping", getPost, auth.Open, status.VLLM, vl.Ping, "Health."},
		{"/version", get, auth.Open, status.VLLM, vl.Version, "The server's version."},

		{nativePrefix, any4, auth.Inference, status.Native, native.ServeHTTP, ""},
	}
	if o.Adapters != nil {
		up := &uploader{o.Adapters}
		table = append(table, route{uploadPath, post, auth.Admin, status.Native, up.serve, "Load an adapter whose files are sent as multipart/form-data: name, pinned, labels, replace, must_be_new, digest, weight, owner, etag; then the files or one archive."})
	}
	if o.Metrics != nil {
		table = append(table, route{"/metrics", get, auth.Open, status.OpenAI, o.Metrics.ServeHTTP, "Prometheus metrics."})
	}
	return table
}

// levelOf is what a request to a route needs; within the native prefix the
// adapters are the administrator's, and what else is got describes.
func (rt *route) levelOf(r *http.Request) auth.Level { return rt.levelFor(r.Method, r.URL.Path) }

func (rt *route) levelFor(method, path string) auth.Level {
	switch {
	case rt.path != nativePrefix:
		return rt.level
	case strings.HasPrefix(path, nativeAdapters):
		return auth.Admin
	case method == http.MethodGet || method == http.MethodHead:
		return auth.Describe
	}
	return rt.level
}

// dispatcher finds the route of a path. It does not clean paths: an adapter's
// name may begin with a slash.
type dispatcher struct {
	exact    map[string]*route
	prefixes []*route
	keys     *auth.Keys
}

func newDispatcher(table []route, keys *auth.Keys) *dispatcher {
	d := &dispatcher{exact: map[string]*route{}, keys: keys}
	for i := range table {
		if rt := &table[i]; strings.HasSuffix(rt.path, "/") && rt.path != "/" {
			d.prefixes = append(d.prefixes, rt)
		} else {
			d.exact[rt.path] = rt
		}
	}
	return d
}

func (d *dispatcher) find(path string) *route {
	if rt := d.exact[path]; rt != nil {
		return rt
	}
	for _, rt := range d.prefixes {
		if strings.HasPrefix(path, rt.path) && len(path) > len(rt.path) {
			return rt
		}
	}
	return nil
}

// shaped is how a route's errors look, also where there is none.
func (rt *route) shaped() status.Shape {
	if rt != nil {
		return rt.shape
	}
	return status.OpenAI
}

// serve checks path, method and key, then serves.
func (d *dispatcher) serve(w http.ResponseWriter, r *http.Request, rt *route) {
	if rt == nil {
		status.Write(w, status.OpenAI, status.WithText(status.ErrRouteNotFound, "no such route: "+r.Method+" "+r.URL.Path))
		return
	}
	if err := d.keys.Served(rt.levelOf(r)); err != nil {
		status.Write(w, rt.shape, status.WithText(err, r.URL.Path+": "+err.Error()))
		return
	}
	if !slices.Contains(rt.methods, r.Method) {
		w.Header().Set("Allow", strings.Join(rt.methods, ", "))
		status.Write(w, rt.shape, status.WithText(status.ErrMethod, r.URL.Path+" does not take "+r.Method))
		return
	}
	if err := d.keys.Check(rt.levelOf(r), r.Header.Get("Authorization")); err != nil {
		status.Write(w, rt.shape, err)
		return
	}
	rt.serve(w, r)
}
