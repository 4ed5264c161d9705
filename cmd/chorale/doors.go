package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"

	"go.uber.org/zap"

	"chorale/internal/certs"
	"chorale/services/auth"
	"chorale/services/rpc"
)

// door is a port of HTTP and one of gRPC.
type door struct {
	httpL, grpcL       net.Listener
	httpAddr, grpcAddr string
}

// openDoor binds both ports; flag and grpcFlag name them in errors. A gRPC port
// of 0 is the one after that of HTTP. A store encrypts both.
func openDoor(store *certs.Store, flag, host string, port int, grpcFlag string, grpcPort int) (*door, error) {
	if grpcPort == 0 && port != 0 {
		grpcPort = port + 1
	}
	d := &door{}
	var err error
	if d.httpL, err = net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port))); err != nil {
		return nil, fmt.Errorf("%s %d: %w", flag, port, err)
	}
	if d.grpcL, err = net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(grpcPort))); err != nil {
		d.httpL.Close()
		return nil, fmt.Errorf("%s %d: %w", grpcFlag, grpcPort, err)
	}
	d.httpAddr, d.grpcAddr = d.httpL.Addr().String(), d.grpcL.Addr().String()
	if store != nil {
		d.httpL, d.grpcL = tls.NewListener(d.httpL, store.Server()), tls.NewListener(d.grpcL, store.Server())
	}
	return d, nil
}

// shut closes the ports; those that a server has taken over are closed already.
func (d *door) shut() {
	if d != nil {
		d.httpL.Close()
		d.grpcL.Close()
	}
}

// doors are the ports that clients come to, bound before anything slow, so
// that a port in use is told at once.
type doors struct {
	*door
	// admin is where adapters are administered; nil: where all else is, too.
	admin  *door
	scheme string // of HTTP's addresses
}

func openDoors(f *faceFlags, ssl *sslFlags, log *zap.Logger) (*doors, error) {
	host, port, err := f.adminAddress()
	if err != nil {
		return nil, err
	}
	store, err := ssl.store(log)
	if err != nil {
		return nil, err
	}
	d := &doors{scheme: "http://"}
	if store != nil {
		d.scheme = "https://"
	}
	if d.door, err = openDoor(store, "--port", f.Host, f.Port, "--grpc-port", f.GrpcPort); err != nil {
		return nil, err
	}
	if f.AdminListen == "" {
		return d, nil
	}
	if d.admin, err = openDoor(store, "--admin-listen, port", host, port, "--admin-listen, gRPC's port", 0); err != nil {
		d.shut()
		return nil, err
	}
	return d, nil
}

// adminAddress checks --admin-listen.
func (f *faceFlags) adminAddress() (host string, port int, err error) {
	if f.AdminListen == "" {
		return "", 0, nil
	}
	host, text, err := net.SplitHostPort(f.AdminListen)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	switch {
	case err != nil:
		return "", 0, fmt.Errorf("--admin-listen %s: want HOST:PORT: %w", f.AdminListen, err)
	case f.APIKey != "" && f.AdminAPIKey == "":
		return "", 0, errors.New("--admin-listen beside --api-key needs --admin-api-key: the keys of clients do not administer")
	case f.APIKey != "" && f.APIKey == f.AdminAPIKey:
		return "", 0, errors.New("--admin-api-key must be another key than --api-key where --admin-listen is given")
	}
	return host, port, nil
}

// shut closes all ports.
func (d *doors) shut() {
	d.door.shut()
	d.admin.shut()
}

// front is what serves behind a door.
type front struct {
	*door
	keys *auth.Keys
	grpc *rpc.Server
	http *http.Server
}

// fronts gives one front for everything, or one for answers and, last, one for
// adapters.
func (d *doors) fronts(f *faceFlags) []*front {
	keys := auth.NewKeys(f.APIKey, f.AdminAPIKey)
	if d.admin == nil {
		return []*front{{door: d.door, keys: keys}}
	}
	return []*front{{door: d.door, keys: keys.At(auth.NoAdmin)}, {door: d.admin, keys: keys.At(auth.OnlyAdmin)}}
}

// addresses are the fields of the line that tells of a server's start.
func (d *doors) addresses() []zap.Field {
	out := []zap.Field{zap.String("http", d.scheme+d.httpAddr), zap.String("grpc", d.grpcAddr)}
	if d.admin != nil {
		out = append(out, zap.String("admin_http", d.scheme+d.admin.httpAddr), zap.String("admin_grpc", d.admin.grpcAddr))
	}
	return out
}

// serve are the tasks that open the door until the servers are drained, or cut
// at the stage's end.
func (f *front) serve() []task {
	return []task{
		{"http", func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { f.http.Close() })()
			if err := f.http.Serve(f.httpL); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		}},
		{"grpc", stopWith(f.grpc.Server, func() error { return f.grpc.Serve(f.grpcL) })},
	}
}

// drain lets what runs end and shuts the door.
func (f *front) drain(ctx context.Context) {
	if err := f.http.Shutdown(ctx); err != nil {
		f.http.Close()
	}
	_ = f.grpc.Drain(ctx)
}
