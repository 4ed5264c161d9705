package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"chorale/internal/certs"
	"chorale/internal/checkpoint"
	"chorale/services/auth"
)

// drainFlags bound a graceful stop.
type drainFlags struct {
	DrainTimeout time.Duration `group:"http" default:"30s" help:"How long SIGTERM waits for running requests; a second signal ends at once."`
}

// serveCmd is all roles in one process.
type serveCmd struct {
	modelFlags
	textFlags
	weightFlags
	groupFlags
	loraFlags
	registryFlags
	faceFlags
	sslFlags
	drainFlags
	logFlags
}

// Run serves until the first signal, then drains.
func (c *serveCmd) Run(ctx context.Context) error {
	log, err := c.logger()
	if err != nil {
		return err
	}
	parent, err := supervisor()
	if err != nil {
		return err
	}
	if parent != nil {
		return runRank(ctx, parent, rankParts{model: c.modelFlags, weigh: c.weightFlags, lora: c.loraFlags, group: c.groupFlags, drain: c.DrainTimeout, log: log})
	}
	if err := c.check(&rankFlags{TpRank: -1}); err != nil {
		return err
	}
	doors, err := openDoors(&c.faceFlags, &c.sslFlags, log)
	if err != nil {
		return err
	}
	defer doors.shut()
	ckpt, err := openModel(ctx, &c.modelFlags, log)
	if err != nil {
		return err
	}
	defer ckpt.Close()
	w, err := c.worker(ctx, ckpt, log)
	if err != nil {
		return err
	}
	team := newCrew()
	defer w.free() // after the engine has stopped
	defer team.stop()
	peers := []peer{w.peer()}
	m, err := newManager(&c.registryFlags, &c.loraFlags, peers, nil, log)
	if err != nil {
		return err
	}
	mcc, err := m.server.Loop()
	if err != nil {
		return err
	}
	rr, err := newRouter(routerParts{
		ckpt: ckpt, model: c.modelFlags, text: c.textFlags, lora: c.loraFlags, registry: c.registryFlags, face: c.faceFlags, doors: doors,
		peers: peers, manager: mcc, args: serverArgs(c), log: log,
	})
	if err != nil {
		return err
	}
	if err := m.checkNames(rr.r.Model()); err != nil {
		return err
	}
	if err := w.start(ctx, team, c); err != nil {
		return err
	}
	team.start(task{"adaptermgr", m.run})
	team.start(task{"adaptermgr grpc", stopWith(m.server.Server, m.server.ServeLoop)})
	team.start(rr.tasks()...)
	if err := m.loadInitial(ctx); err != nil {
		return err
	}
	if err := m.preloadOnce(ctx); err != nil {
		return err
	}
	team.start(rr.serve()...)
	log.Info("serving", append(rr.addresses(), zap.Int("adapters", len(m.initial)))...)
	return rr.wait(ctx, team, c.DrainTimeout, log)
}

// wait serves until a signal or a failure, then drains.
func (rr *routerRole) wait(ctx context.Context, team *crew, timeout time.Duration, log *zap.Logger) error {
	select {
	case err := <-team.failed:
		return err
	case <-ctx.Done():
	}
	log.Info("draining: running requests may end, new ones are refused", zap.Duration("timeout", timeout))
	dctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	rr.drain(dctx)
	log.Info("stopped")
	return nil
}

// stopWith makes a task of a gRPC server that ends with the stage.
func stopWith(s *grpc.Server, serve func() error) func(context.Context) error {
	return func(ctx context.Context) error {
		done := make(chan struct{})
		go func() {
			select {
			case <-ctx.Done():
				s.Stop()
			case <-done:
			}
		}()
		defer close(done)
		return untilStopped(serve)(ctx)
	}
}

// serverArgs lists a command's flags by SGLang's names, keys left out.
func serverArgs(cmd any) map[string]any {
	out := map[string]any{}
	collect(reflect.ValueOf(cmd).Elem(), out)
	return out
}

func collect(v reflect.Value, out map[string]any) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			collect(v.Field(i), out)
			continue
		}
		name := f.Tag.Get("name")
		if name == "" {
			name = snake(f.Name)
		}
		name = strings.ReplaceAll(name, "-", "_")
		if !strings.HasSuffix(name, "api_key") {
			out[name] = v.Field(i).Interface()
		}
	}
}

// snake turns a field's name into a flag's: MaxLorasPerBatch, max_loras_per_batch.
func snake(s string) string {
	var b strings.Builder
	for i, r := range s {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// listenFlags are an internal role's address.
type listenFlags struct {
	Listen string `group:"http" help:"Address to listen on, internal: routers and managers come here." placeholder:"HOST:PORT" required:""`
}

// workerListenFlags are a worker group's address, which followers have none of.
type workerListenFlags struct {
	Listen string `group:"http" help:"Address to listen on, internal: routers and managers come here. Not for ranks above 0." placeholder:"HOST:PORT"`
}

// workerCmd is one worker group.
type workerCmd struct {
	modelFlags
	weightFlags
	groupFlags
	rankFlags
	loraFlags
	workerListenFlags
	clusterFlags
	listDevicesFlags
	drainFlags
	logFlags
}

// Run computes until the first signal.
func (c *workerCmd) Run(ctx context.Context) error {
	log, err := c.logger()
	if err != nil {
		return err
	}
	cl, err := c.cluster(log)
	if err != nil {
		return err
	}
	parts := rankParts{model: c.modelFlags, weigh: c.weightFlags, lora: c.loraFlags, group: c.groupFlags, cluster: cl, drain: c.DrainTimeout, log: log}
	parent, err := supervisor()
	if err != nil {
		return err
	}
	if parent != nil {
		return runRank(ctx, parent, parts)
	}
	if err := c.check(&c.rankFlags); err != nil {
		return err
	}
	if c.Listen == "" && c.TpRank <= 0 {
		return errors.New("--listen is needed, but for ranks above 0")
	}
	var l net.Listener
	if c.TpRank <= 0 {
		if l, err = net.Listen("tcp", c.Listen); err != nil { // before the model: a port in use is told at once
			return fmt.Errorf("--listen %s: %w", c.Listen, err)
		}
		defer l.Close()
	}
	ckpt, err := openModel(ctx, &c.modelFlags, log)
	if err != nil {
		return err
	}
	defer ckpt.Close()
	if c.TpSize == 1 {
		return serveWorker(ctx, ckpt, l, nil, &parts)
	}
	g, err := newRankGroup(ckpt, &c.groupFlags, &c.rankFlags, &c.weightFlags, l, c.DrainTimeout, log)
	if err != nil {
		return err
	}
	return g.run(ctx)
}

// serveWorker is a worker's life, alone or as the leader of others.
func serveWorker(ctx context.Context, ckpt *checkpoint.Checkpoint, l net.Listener, m *membership, p *rankParts) error {
	w, err := newWorker(ctx, ckpt, &p.model, &p.weigh, &p.lora, m, p.log)
	if err != nil {
		return err
	}
	team := newCrew()
	defer w.free()
	defer team.stop()
	team.start(task{"worker", w.run})
	if err := w.warmUp(ctx, &p.weigh, &p.lora); err != nil {
		return team.cause(err)
	}
	team.start(task{"grpc", stopWith(w.server.Server, func() error { return w.server.Serve(p.cluster.listen(l, certs.Router, certs.Manager, certs.Operator)) })})
	p.log.Info("worker ready", zap.String("grpc", l.Addr().String()))
	if m != nil {
		m.parent.Ready()
	}
	select {
	case err := <-team.failed:
		w.lastWords()
		return err
	case <-ctx.Done():
	}
	p.log.Info("draining", zap.Duration("timeout", p.drain))
	w.engine.Drain(true)
	w.idle(p.drain)
	return nil
}

// lastWords lets streams tell why they end.
func (w *workerRole) lastWords() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = w.server.Drain(ctx) // those that take longer are cut
}

// idle waits until nothing is computed any more.
func (w *workerRole) idle(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		st, err := w.engine.Status(ctx)
		if err != nil || st.Running+st.Waiting == 0 {
			return
		}
		select {
		case <-ctx.Done():
			w.log.Warn("sequences still running are cut", zap.Int("sequences", st.Running+st.Waiting))
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// adaptermgrCmd is the adapter manager.
type adaptermgrCmd struct {
	loraFlags
	registryFlags
	listenFlags
	workersFlags
	clusterFlags
	AdminAPIKey string `name:"admin-api-key" group:"http" placeholder:"KEY" help:"Key that loading and unloading needs."`
	logFlags
}

// Run manages until the first signal.
func (c *adaptermgrCmd) Run(ctx context.Context) error {
	log, err := c.logger()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", c.Listen, err)
	}
	defer l.Close()
	cl, err := c.cluster(log)
	if err != nil {
		return err
	}
	ws, err := c.open(cl, log)
	if err != nil {
		return err
	}
	defer ws.close()
	m, err := newManager(&c.registryFlags, &c.loraFlags, ws.peers(), auth.NewKeys("", c.AdminAPIKey), log)
	if err != nil {
		return err
	}
	team := newCrew()
	defer team.stop()
	team.start(task{"adaptermgr", m.run})
	team.start(task{"workers", func(ctx context.Context) error { return ws.watch(ctx, m.setWorkers) }})
	team.start(task{"grpc", stopWith(m.server.Server, func() error { return m.server.Serve(cl.listen(l, certs.Router, certs.Operator)) })})
	log.Info("adapter manager ready", zap.String("grpc", l.Addr().String()))
	if err := m.loadInitial(ctx); err != nil {
		log.Error("initial adapters", zap.Error(err))
	}
	team.start(task{"preload", m.preloadAll})
	select {
	case err := <-team.failed:
		return err
	case <-ctx.Done():
	}
	return nil
}

// routerCmd is the router.
type routerCmd struct {
	modelFlags
	textFlags
	loraFlags
	LoraReloadUnloaded bool `group:"lora" help:"Bring an explicitly unloaded adapter back on its next use, as SGLang does."`
	MaxLoadedLoras     int  `group:"lora" placeholder:"N" help:"The adapter manager's limit, to refuse requests that name more at once."`

	Preload []string `group:"lora" sep:"none" placeholder:"NAME" help:"The adapter manager's --preload: not ready before every worker group has had these in device memory."`
	faceFlags
	sslFlags
	workersFlags
	clusterFlags
	Adaptermgr string `required:"" placeholder:"HOST:PORT" help:"The adapter manager."`
	drainFlags
	logFlags
}

// Run routes until the first signal, then drains.
func (c *routerCmd) Run(ctx context.Context) error {
	log, err := c.logger()
	if err != nil {
		return err
	}
	doors, err := openDoors(&c.faceFlags, &c.sslFlags, log)
	if err != nil {
		return err
	}
	defer doors.shut()
	ckpt, err := openModel(ctx, &c.modelFlags, log)
	if err != nil {
		return err
	}
	defer ckpt.Close()
	cl, err := c.cluster(log)
	if err != nil {
		return err
	}
	ws, err := c.open(cl, log)
	if err != nil {
		return err
	}
	defer ws.close()
	manager, hangUpManager, err := dialAll([]string{c.Adaptermgr}, c.AdminAPIKey, cl.to(certs.Manager))
	if err != nil {
		return err
	}
	defer hangUpManager()
	rr, err := newRouter(routerParts{
		ckpt: ckpt, model: c.modelFlags, text: c.textFlags, lora: c.loraFlags, face: c.faceFlags, doors: doors,
		registry: registryFlags{MaxLoadedLoras: c.MaxLoadedLoras, LoraReloadUnloaded: c.LoraReloadUnloaded}, preload: c.Preload, peers: ws.peers(), manager: manager[0].cc, args: serverArgs(c), log: log,
	})
	if err != nil {
		return err
	}
	team := newCrew()
	defer team.stop()
	team.start(rr.tasks()...)
	team.start(task{"workers", func(ctx context.Context) error { return ws.watch(ctx, rr.setGroups) }})
	team.start(rr.serve()...)
	log.Info("serving", rr.addresses()...)
	return rr.wait(ctx, team, c.DrainTimeout, log)
}

// maxMessage is the largest gRPC message between roles.
const maxMessage = 64 << 20

// redial is how soon a role that went away is looked for again: gRPC's own
// delay grows to two minutes, in which a restarted role would stand idle.
var redial = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
	MinConnectTimeout: 5 * time.Second,
}

// ownKey is the key of calls that a role makes for itself; calls that it
// passes on for a client carry the client's.
type ownKey string

// GetRequestMetadata adds the key where there is none.
func (k ownKey) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	if md, _ := metadata.FromOutgoingContext(ctx); k == "" || len(md.Get("authorization")) > 0 {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

// RequireTransportSecurity is false: between roles there is a private network.
func (ownKey) RequireTransportSecurity() bool { return false }

// alive finds out within 15 s that a machine is gone, a network is cut or a process
// has stopped: calls that wait for a worker's step have no time limit of their own.
// gRPC asks no more often than that.
var alive = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}

// dialAll prepares connections; they are made when first used. key is the
// admin key of those who ask for one.
func dialAll(addrs []string, key string, creds credentials.TransportCredentials) ([]peer, func(), error) {
	var out []peer
	var ccs []*grpc.ClientConn
	hangUp := func() {
		for _, cc := range ccs {
			cc.Close()
		}
	}
	for _, a := range addrs {
		cc, err := grpc.NewClient(a, grpc.WithTransportCredentials(creds), grpc.WithConnectParams(redial),
			grpc.WithKeepaliveParams(alive), grpc.WithPerRPCCredentials(ownKey(key)),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
		if err != nil {
			hangUp()
			return nil, nil, fmt.Errorf("address %s: %w", a, err)
		}
		ccs = append(ccs, cc)
		out = append(out, peer{address: a, cc: cc})
	}
	return out, hangUp, nil
}
