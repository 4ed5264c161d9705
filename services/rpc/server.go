package rpc

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/protovalidate"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	"chorale/services/auth"
)

// Options configure a Server; the zero value works.
type Options struct {
	// Log gets one line per call and every panic; nil is silence.
	Log *zap.Logger
	// Keys say who may call; nil lets everybody.
	Keys *auth.Keys
	// MaxMessage is the largest message that is taken or sent, in bytes;
	// 0 is 64 MiB.
	MaxMessage int
	// MaxStreams bounds the concurrent calls of one connection; 0 is 4096.
	MaxStreams uint32
	// Ready is asked on each health check: nil error is SERVING.
	Ready func() error
	// Extra are further options, such as transport credentials.
	Extra []grpc.ServerOption
}

// Server is a gRPC server on any number of listeners.
type Server struct {
	*grpc.Server
	loop   *bufconn.Listener
	max    int
	health *health
	drain  sync.Once
}

const (
	defaultMaxMessage = 64 << 20
	defaultMaxStreams = 4096
	loopBuffer        = 1 << 20
)

// NewServer makes a server that serves health and reflection; register the
// services on it before Serve.
func NewServer(o Options) (*Server, error) {
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("rpc: message validator: %w", err)
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.MaxMessage <= 0 {
		o.MaxMessage = defaultMaxMessage
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = defaultMaxStreams
	}
	in := &interceptors{log: o.Log}
	opts := append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(o.MaxMessage),
		grpc.MaxSendMsgSize(o.MaxMessage),
		grpc.MaxConcurrentStreams(o.MaxStreams),
		// Clients behind idle-killing middleboxes ping; do not punish them.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		// Outermost first: the log sees mapped errors and recovered panics.
		grpc.ChainUnaryInterceptor(in.logUnary, in.mapUnary, in.recoverUnary, o.Keys.Unary(),
			middleware.UnaryServerInterceptor(validator)),
		grpc.ChainStreamInterceptor(in.logStream, in.mapStream, in.recoverStream, o.Keys.Stream(),
			middleware.StreamServerInterceptor(validator)),
	}, o.Extra...)
	s := &Server{Server: grpc.NewServer(opts...), loop: bufconn.Listen(loopBuffer), max: o.MaxMessage, health: newHealth(o.Ready)}
	grpc_health_v1.RegisterHealthServer(s, s.health)
	reflection.Register(s)
	return s, nil
}

// ServeLoop serves the loop-back connections until the server stops; run it
// beside Serve.
func (s *Server) ServeLoop() error { return s.Serve(s.loop) }

// Loop connects to the server without a network: through the same
// interceptors, keys and validation as from outside. ServeLoop must run.
func (s *Server) Loop() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///loop",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.loop.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(s.max), grpc.MaxCallSendMsgSize(s.max)),
	)
}

// Drain refuses new calls and waits for the running ones; those that still run
// when ctx ends are cut, and ctx's error is returned.
func (s *Server) Drain(ctx context.Context) error {
	s.drain.Do(func() { close(s.health.quit) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.Stop()
		<-done
		return ctx.Err()
	}
}
