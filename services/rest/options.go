package rest

import (
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/services/auth"
	"chorale/services/rest/face"
)

// Options make a handler. Router, Tokens and Inference are required.
type Options struct {
	Router face.Router
	Tokens face.Tokens
	// Inference serves the native routes: a client of the process's own gRPC
	// server (rpc.Server.Loop), so that both ways meet the same validation.
	Inference choralev1.InferenceServiceClient
	// Adapters serves the native adapter routes and the loads of the SGLang
	// and vLLM faces; nil where there is no adapter manager.
	Adapters choralev1.AdapterServiceClient
	// Keys say who may call; nil lets everybody.
	Keys *auth.Keys
	// Metrics serves /metrics; nil has no such route.
	Metrics http.Handler
	// OpenAPI is the generated document of the native API; the other routes
	// are added to it.
	OpenAPI []byte
	// ServerArgs are shown by /server_info: flags by SGLang's names, no keys.
	ServerArgs map[string]any
	Version    string
	// Log gets one line per request; nil is silence.
	Log *zap.Logger
	// MaxBody is the largest request body in bytes; 0 is 32 MiB.
	MaxBody int64
	// Origins are those of web pages that may call what needs no admin key
	// ("https://chat.example"; "*" is any). Others may not call at all.
	Origins []string
	// ReadTimeout bounds how long a body may take to arrive; 0 is a minute.
	ReadTimeout time.Duration
	// WriteTimeout bounds each write to a client, not the whole answer: a
	// stream may last. 0 is 30 seconds.
	WriteTimeout time.Duration
}

const (
	defaultMaxBody      = 32 << 20
	defaultReadTimeout  = time.Minute
	defaultWriteTimeout = 30 * time.Second
)

func (o *Options) fill() error {
	if o.Router == nil || o.Tokens == nil || o.Inference == nil {
		return errors.New("rest: Router, Tokens and Inference are required")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.MaxBody <= 0 {
		o.MaxBody = defaultMaxBody
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = defaultReadTimeout
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = defaultWriteTimeout
	}
	return nil
}

// Server makes an http.Server for a handler of this package. It has no
// WriteTimeout: that would cut streams; the handler bounds each write itself.
func Server(h http.Handler, log *zap.Logger) *http.Server {
	const maxHeader = 64 << 10
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader,
		Protocols: &http.Protocols{},
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true) // behind proxies that speak it, and for many streams on one connection
	if log != nil {
		s.ErrorLog = zap.NewStdLog(log.Named("http"))
	}
	return s
}
