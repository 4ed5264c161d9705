package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"

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
	r        *router.Router
	grpc     *rpc.Server
	http     *http.Server
	follower *catalogue.Follower
	admin    *adapters.Forwarder
	log      *zap.Logger
}

// routerParts is what the router is made of.
type routerParts struct {
	ckpt     *checkpoint.Checkpoint
	model    modelFlags
	text     textFlags
	lora     loraFlags
	registry registryFlags
	face     faceFlags
	doors    *doors
	peers    []peer
	manager  grpc.ClientConnInterface
	args     map[string]any
	log      *zap.Logger
}

// newRouter builds router and faces.
func newRouter(p routerParts) (*routerRole, error) {
	text, err := openText(p.ckpt, &p.text)
	if err != nil {
		return nil, err
	}
	rr := &routerRole{doors: p.doors, log: p.log.Named("http")}
	m := metrics.New()
	rr.follower = catalogue.New(pb.NewAdapterServiceClient(p.manager), p.log)
	cfg := router.Config{
		Name: p.model.ServedModelName, Path: p.model.ModelPath, Version: version, Text: text, Context: p.model.ContextLength,
		LoRAEnabled: p.lora.EnableLora, MaxLoadedLoRAs: p.registry.MaxLoadedLoras, Residency: rr.follower, Observer: m, Log: p.log,
		ReloadUnloaded: p.registry.LoraReloadUnloaded,
	}
	if cfg.Name == "" {
		cfg.Name = p.model.ModelPath
	}
	cfg.Groups = dialers(p.peers)
	rr.r = router.New(cfg)
	m.Watch(rr.r)
	return rr, rr.faces(p, text, m)
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

func (rr *routerRole) faces(p routerParts, text router.Text, m *metrics.Metrics) error {
	keys := auth.NewKeys(p.face.APIKey, p.face.AdminAPIKey)
	ready := func() error {
		if !rr.r.Ready() {
			return router.ErrUnavailable
		}
		return nil
	}
	var err error
	if rr.grpc, err = rpc.NewServer(rpc.Options{Log: p.log, Keys: keys, Ready: ready}); err != nil {
		return err
	}
	tokens := rr.tokens(text.Tokenizer)
	inference.Register(rr.grpc, rr.r, tokens)
	// The manager's service, so that clients need one address only.
	admin := pb.NewAdapterServiceClient(p.manager)
	rr.admin = adapters.NewForwarder(admin, rr.r)
	pb.RegisterAdapterServiceServer(rr.grpc, rr.admin)
	loop, err := rr.grpc.Loop()
	if err != nil {
		return err
	}
	h, err := rest.New(rest.Options{
		Router: rr.r, Tokens: tokens, Inference: pb.NewInferenceServiceClient(loop), Adapters: pb.NewAdapterServiceClient(loop),
		Keys: keys, Metrics: m.Handler(), OpenAPI: openapi.Document, ServerArgs: p.args, Version: version, Log: p.log,
	})
	if err != nil {
		return err
	}
	rr.http = rest.Server(h, p.log)
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

// doors are the ports that clients come to, bound before anything slow, so
// that a port in use is told at once.
type doors struct {
	httpL, grpcL       net.Listener
	httpAddr, grpcAddr string
}

func openDoors(f *faceFlags) (*doors, error) {
	grpcPort := f.GrpcPort
	if grpcPort == 0 && f.Port != 0 {
		grpcPort = f.Port + 1
	}
	d := &doors{}
	var err error
	if d.httpL, err = net.Listen("tcp", net.JoinHostPort(f.Host, strconv.Itoa(f.Port))); err != nil {
		return nil, fmt.Errorf("--port %d: %w", f.Port, err)
	}
	if d.grpcL, err = net.Listen("tcp", net.JoinHostPort(f.Host, strconv.Itoa(grpcPort))); err != nil {
		d.httpL.Close()
		return nil, fmt.Errorf("--grpc-port %d: %w", grpcPort, err)
	}
	d.httpAddr, d.grpcAddr = d.httpL.Addr().String(), d.grpcL.Addr().String()
	return d, nil
}

// shut closes the ports; those that a server has taken over are closed already.
func (d *doors) shut() {
	d.httpL.Close()
	d.grpcL.Close()
}

// tasks are the goroutines of the role.
func (rr *routerRole) tasks() []task {
	return []task{
		{"router", func(ctx context.Context) error { return rr.r.Run(ctx) }},
		{"catalogue", func(ctx context.Context) error { return rr.follower.Run(ctx, rr.r) }},
		{"grpc loop", stopWith(rr.grpc.Server, rr.grpc.ServeLoop)},
	}
}

// serve opens the faces until they are drained, or cut at the stage's end.
func (rr *routerRole) serve() []task {
	return []task{
		{"http", func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { rr.http.Close() })()
			if err := rr.http.Serve(rr.httpL); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		}},
		{"grpc", stopWith(rr.grpc.Server, func() error { return rr.grpc.Serve(rr.grpcL) })},
	}
}

// drain refuses new requests, lets running ones end and shuts the faces.
func (rr *routerRole) drain(ctx context.Context) {
	if err := rr.r.Drain(ctx); err != nil {
		rr.log.Warn("requests still running are cut", zap.Error(err))
	}
	rr.admin.Close()
	if err := rr.http.Shutdown(ctx); err != nil {
		rr.http.Close()
	}
	_ = rr.grpc.Drain(ctx)
}
