package status

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

// Shape is an error body of one face.
type Shape func(p Problem) (httpStatus int, body any)

// OpenAIError is the "error" object of OpenAI's and vLLM's bodies.
type OpenAIError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    any     `json:"code"`
}

// OpenAI gives {"error":{"message","type","param","code"}}.
func OpenAI(p Problem) (int, any) {
	e := OpenAIError{Message: p.Message, Type: openAIType(p.HTTP), Code: openAICode(p)}
	if f := p.Field(); f != "" {
		e.Param = &f
	}
	return p.HTTP, map[string]OpenAIError{"error": e}
}

func openAIType(h int) string {
	switch {
	case h == http.StatusUnauthorized:
		return "authentication_error"
	case h == http.StatusForbidden:
		return "permission_error"
	case h == http.StatusTooManyRequests:
		return "rate_limit_error"
	case h >= 500:
		return "server_error"
	default:
		return "invalid_request_error"
	}
}

// openAICodes are the codes that OpenAI's clients know; other problems show
// their reason's name in lower case.
var openAICodes = map[string]string{
	ReasonInvalid:         "invalid_value",
	ReasonUnsupported:     "unsupported_parameter",
	ReasonTooLong:         "context_length_exceeded",
	ReasonModelNotFound:   "model_not_found",
	ReasonAdapterNotFound: "model_not_found",
	ReasonUnauthenticated: "invalid_api_key",
	ReasonOverloaded:      "rate_limit_exceeded",
}

func openAICode(p Problem) any {
	if c, ok := openAICodes[p.Reason]; ok {
		return c
	}
	if p.Reason == "" {
		return nil
	}
	b := []byte(p.Reason)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// SGLang gives {"error":{"message"}}. SGLang says 400 for whatever the client
// did wrong, unknown adapters included, and 503 for a full queue.
func SGLang(p Problem) (int, any) {
	return SGLangStatus(p), map[string]any{"error": map[string]any{"message": p.Message}}
}

// SGLangStatus is the HTTP status that SGLang's native routes would use.
func SGLangStatus(p Problem) int {
	switch p.HTTP {
	case http.StatusTooManyRequests:
		return http.StatusServiceUnavailable
	case http.StatusNotFound, http.StatusConflict:
		if p.Reason != ReasonRouteNotFound && p.Reason != ReasonElsewhere {
			return http.StatusBadRequest
		}
	case http.StatusForbidden:
		if p.Reason == ReasonSourceDenied {
			return http.StatusBadRequest
		}
	}
	return p.HTTP
}

// SGLangStream is the error that goes into a running stream of /generate.
func SGLangStream(p Problem) any {
	h := SGLangStatus(p)
	kind := "invalid_request_error"
	if h >= 500 {
		kind = "server_error"
	}
	return map[string]any{"error": map[string]any{
		"message": p.Message, "type": kind, "code": h, "retryable": p.Retry > 0,
	}}
}

// VLLM gives {"error":{"message","type","param","code"}} with vLLM's types and
// the HTTP status as the code.
func VLLM(p Problem) (int, any) {
	h, kind := p.HTTP, "BadRequestError"
	switch {
	case p.Reason == ReasonAdapterLoaded:
		h, kind = http.StatusBadRequest, "InvalidUserInput"
	case h == http.StatusNotFound:
		kind = "NotFoundError"
	case h == http.StatusUnauthorized || h == http.StatusForbidden:
		kind = "AuthenticationError"
	case h == http.StatusTooManyRequests || h == http.StatusServiceUnavailable:
		kind = "ServiceUnavailableError"
	case h >= 500:
		kind = "InternalServerError"
	}
	e := OpenAIError{Message: p.Message, Type: kind, Code: h}
	if f := p.Field(); f != "" {
		e.Param = &f
	}
	return h, map[string]OpenAIError{"error": e}
}

// Native gives google.rpc.Status as protojson, as grpc-gateway does.
func Native(p Problem) (int, any) {
	if p.Code == codes.OK {
		p.Code = codes.Internal
	}
	b, err := protojson.Marshal(p.GRPC().Proto())
	if err != nil {
		b = []byte(`{"code":13,"message":"internal error"}`)
	}
	return p.HTTP, json.RawMessage(b)
}

// Write answers an HTTP request with an error in a face's shape. It must be
// called before anything else was written.
func Write(w http.ResponseWriter, shape Shape, err error) {
	p := Of(err)
	h, body := shape(p)
	if p.Retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.Retry.Seconds()))))
	}
	if h == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	WriteJSON(w, h, body)
}

// WriteJSON answers an HTTP request with a JSON body, leaving <, > and & as
// they are.
func WriteJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	// The status is out: a client that went away is all that can fail here.
	_ = enc.Encode(body)
}
