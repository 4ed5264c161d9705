package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"chorale/internal/chattemplate"
	"chorale/internal/checkpoint"
	"chorale/internal/tokenizer"
	pb "chorale/proto/gen/chorale/v1"
	"chorale/proto/gen/openapi"
	"chorale/router"
	"chorale/services/adapters"
	"chorale/services/auth"
	"chorale/services/catalogue"
	"chorale/services/inference"
	"chorale/services/metrics"
	"chorale/services/rest"
	"chorale/services/rest/face"
	"chorale/services/rpc"
	"chorale/services/workers"
)

// routerRole is the router in this process, with all faces.
type routerRole struct {
	*doors
	r         *router.Router
	fronts    []*front
	follower  *catalogue.Follower
	forwarder *adapters.Forwarder
	log       *zap.Logger
}

// routerParts is what the router is made of.
type routerParts struct {
	ckpt     *checkpoint.Checkpoint
	model    modelFlags
	text     textFlags
	lora     loraFlags
	registry registryFlags
	// preload is what a router waits for whose adapter manager is elsewhere.
	preload []string
	face    faceFlags
	doors   *doors
	peers   []peer
	manager grpc.ClientConnInterface
	args    map[string]any
	log     *zap.Logger
}

// newRouter builds router and faces.
func newRouter(p routerParts) (*routerRole, error) {
	text, err := openText(p.ckpt, &p.text)
	if err != nil {
		return nil, err
	}
	rr := &routerRole{doors: p.doors, log: p.log.Named("http")}
	if p.face.MetricsMaxAdapters < 0 {
		return nil, fmt.Errorf("--metrics-max-adapters %d: want 0 or more", p.face.MetricsMaxAdapters)
	}
	m := metrics.New(p.face.MetricsMaxAdapters)
	rr.follower = catalogue.New(pb.NewAdapterServiceClient(p.manager), p.log)
	cfg := router.Config{
		Name: p.model.ServedModelName, Path: p.model.ModelPath, Version: version, Text: text, Context: p.model.ContextLength,
		LoRAEnabled: p.lora.EnableLora, MaxLoadedLoRAs: p.registry.MaxLoadedLoras, Residency: rr.follower, Observer: m, Log: p.log,
		ReloadUnloaded: p.registry.LoraReloadUnloaded, Preload: p.preload,
	}
	if cfg.Name == "" {
		cfg.Name = p.model.ModelPath
	}
	cfg.Groups = dialers(p.peers)
	rr.r = router.New(cfg)
	m.Watch(rr.r)
	return rr, rr.faces(&p, text, m)
}

func dialers(peers []peer) []router.Dialer {
	var out []router.Dialer
	for _, w := range peers {
		out = append(out, workers.NewDialer(w.address, w.cc))
	}
	return out
}

// setGroups changes the worker groups.
func (rr *routerRole) setGroups(peers []peer) { rr.r.SetGroups(dialers(peers)) }

// ready is nil when requests can be answered.
func (rr *routerRole) ready() error {
	if !rr.r.Ready() {
		return router.ErrUnavailable
	}
	return nil
}

// faces builds what serves behind the doors. The first has the answers, the last
// the adapters; most often they are one.
func (rr *routerRole) faces(p *routerParts, text router.Text, m *metrics.Metrics) error {
	rr.fronts = p.doors.fronts(&p.face)
	var err error
	for _, f := range rr.fronts {
		o := rpc.Options{Log: p.log, Keys: f.keys, Ready: rr.ready, Extra: []grpc.ServerOption{grpc.UnknownServiceHandler(auth.NotHere)}}
		if f.grpc, err = rpc.NewServer(o); err != nil {
			return err
		}
	}
	answering, administering := rr.fronts[0].grpc, rr.fronts[len(rr.fronts)-1].grpc
	tokens := rr.tokens(text.Tokenizer)
	inference.Register(answering, rr.r, tokens)
	// The manager's service, so that clients need no address of it.
	rr.forwarder = adapters.NewForwarder(pb.NewAdapterServiceClient(p.manager), rr.r)
	pb.RegisterAdapterServiceServer(administering, rr.forwarder)
	answers, err := answering.Loop()
	if err != nil {
		return err
	}
	changes, err := administering.Loop()
	if err != nil {
		return err
	}
	for _, f := range rr.fronts {
		h, err := rest.New(rest.Options{
			Router: rr.r, Tokens: tokens, Inference: pb.NewInferenceServiceClient(answers), Adapters: pb.NewAdapterServiceClient(changes),
			Keys: f.keys, Origins: p.face.AllowedOrigins, Metrics: m.Handler(), OpenAPI: openapi.Document, ServerArgs: p.args, Version: version, Log: p.log,
		})
		if err != nil {
			return err
		}
		f.http = rest.Server(h, p.log)
	}
	if p.face.APIKey != "" && p.face.AdminAPIKey == "" {
		p.log.Warn("--api-key without --admin-api-key: who may ask for answers may change adapters")
	}
	return nil
}

// tokens are the tokenizer's, or nothing but ids where there is none.
func (rr *routerRole) tokens(t *tokenizer.Tokenizer) face.Tokens {
	if t == nil {
		return face.NoTokens{Vocab: func() int { return rr.r.Model().Group.VocabSize }}
	}
	return t
}

// openText reads the router's half of the model.
func openText(c *checkpoint.Checkpoint, f *textFlags) (router.Text, error) {
	if f.SkipTokenizerInit {
		if f.TokenizerPath != "" || f.ChatTemplate != "" {
			return router.Text{}, errors.New("--skip-tokenizer-init goes neither with --tokenizer-path nor with --chat-template")
		}
		return router.Text{}, nil
	}
	if f.TokenizerPath != "" {
		own, err := checkpoint.Open(f.TokenizerPath)
		if err != nil {
			return router.Text{}, fmt.Errorf("--tokenizer-path: %w", err)
		}
		defer own.Close() // what is read below is copied
		c = own
	}
	tok, err := c.Tokenizer()
	if err != nil {
		return router.Text{}, err
	}
	sp := c.Specials()
	t := router.Text{Tokenizer: tok, BOS: sp.BOS, EOS: sp.EOS}
	src, from := c.ChatTemplate(), c.Path
	if f.ChatTemplate != "" {
		b, err := os.ReadFile(f.ChatTemplate)
		if err != nil {
			return t, err
		}
		src, from = string(b), f.ChatTemplate
	}
	if src != "" {
		if t.Template, err = chattemplate.Parse(src); err != nil {
			return t, fmt.Errorf("%s: %w", from, err)
		}
	}
	return t, nil
}

// tasks are the goroutines of the role.
func (rr *routerRole) tasks() []task {
	out := []task{
		{"router", func(ctx context.Context) error { return rr.r.Run(ctx) }},
		{"catalogue", func(ctx context.Context) error { return rr.follower.Run(ctx, rr.r) }},
	}
	for _, f := range rr.fronts {
		out = append(out, task{"grpc loop", stopWith(f.grpc.Server, f.grpc.ServeLoop)})
	}
	return out
}

// serve opens the faces.
func (rr *routerRole) serve() []task {
	var out []task
	for _, f := range rr.fronts {
		out = append(out, f.serve()...)
	}
	return out
}

// drain refuses new requests, lets running ones end and shuts the faces.
func (rr *routerRole) drain(ctx context.Context) {
	if err := rr.r.Drain(ctx); err != nil {
		rr.log.Warn("requests still running are cut", zap.Error(err))
	}
	rr.forwarder.Close()
	for _, f := range rr.fronts {
		f.drain(ctx)
	}
}
