package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// made is a new authority with certificates.
func made(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	folders, err := Make(dir, []string{"localhost", "127.0.0.1"})
	if err != nil || len(folders) != 5 {
		t.Fatal(folders, err)
	}
	return dir
}

func open(t *testing.T, f Files) *Store {
	t.Helper()
	s, err := Open(f, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve runs a gRPC server for some roles and gives its address.
func serve(t *testing.T, s *Store, roles ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, healthy{})
	go func() { _ = server.Serve(s.Listener(l, roles...)) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

type healthy struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (healthy) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// call connects to a server as a role and asks for its health.
func call(t *testing.T, s *Store, server, addr string) error {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(s.ClientCredentials(server)))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = grpc_health_v1.NewHealthClient(cc).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err
}

// TestRoles: a server lets in its roles alone, and a client takes no server of
// another role or authority.
func TestRoles(t *testing.T) {
	dir, foreign := made(t), made(t)
	role := func(dir, r string) *Store { return open(t, Folder(filepath.Join(dir, r))) }
	addr := serve(t, role(dir, Worker), Router, Manager)
	for _, tt := range []struct {
		name   string
		client *Store
		asks   string
		ok     bool
	}{
		{"router", role(dir, Router), Worker, true},
		{"manager", role(dir, Manager), Worker, true},
		{"another worker", role(dir, Worker), Worker, false},
		{"operator", role(dir, Operator), Worker, false},
		{"outside certificate", role(dir, Server), Worker, false},
		{"foreign router", role(foreign, Router), Worker, false},
		{"foreign router that trusts all", open(t, Files{
			Cert: filepath.Join(foreign, Router, certFile), Key: filepath.Join(foreign, Router, keyFile), CA: filepath.Join(dir, caFile),
		}), Worker, false},
		{"no certificate", open(t, Files{CA: filepath.Join(dir, caFile)}), Worker, false},
		{"a router that looks for a manager", role(dir, Router), Manager, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := call(t, tt.client, tt.asks, addr); (err == nil) != tt.ok {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestRotation: new files count from the next connection on; those that cannot be
// used are told of once, and the old ones stay.
func TestRotation(t *testing.T) {
	dir := made(t)
	var told []error
	s, err := Open(Folder(filepath.Join(dir, Worker)), func(err error) { told = append(told, err) })
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		time.Sleep(lookEvery)
		return s.current().cert.Leaf.SerialNumber.String()
	}
	synctest.Test(t, func(t *testing.T) {
		s.looked = time.Now()
		first := serial()
		if _, err := Make(dir, nil); err != nil {
			t.Fatal(err)
		}
		second := serial()
		if second == first || len(told) > 0 {
			t.Errorf("after new ones: the same %v; %v", second == first, told)
		}
		name := Folder(filepath.Join(dir, Worker)).Cert
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, good[:len(good)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		if got := serial(); got != second {
			t.Error("a broken file was taken")
		}
		if serial(); len(told) != 1 || !errors.Is(told[0], ErrFiles) || !strings.Contains(told[0].Error(), name) {
			t.Errorf("told %v", told)
		}
	})
}

// TestRotationServes: a running server shows the new certificate, and trusts the
// authorities of the new file.
func TestRotationServes(t *testing.T) {
	dir, other := made(t), made(t)
	s := open(t, Folder(filepath.Join(dir, Worker)))
	addr := serve(t, s, Router)
	client := open(t, Folder(filepath.Join(dir, Router)))
	if err := call(t, client, Worker, addr); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{Worker, Router} {
		for _, f := range []string{certFile, keyFile, caFile} {
			raw, err := os.ReadFile(filepath.Join(other, role, f))
			if err != nil {
				t.Fatal(err)
			}
			if err := replace(filepath.Join(dir, role, f), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(lookEvery + 10*time.Millisecond)
	if err := call(t, client, Worker, addr); err != nil {
		t.Errorf("both with the new authority: %v", err)
	}
}

// TestServer: what clients from outside see is good for the hosts, and needs no
// certificate of theirs.
func TestServer(t *testing.T) {
	dir := made(t)
	f := Folder(filepath.Join(dir, Server))
	f.CA = ""
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }), ReadHeaderTimeout: time.Second}
	go func() { _ = hs.Serve(tls.NewListener(l, open(t, f).Server())) }()
	t.Cleanup(func() { _ = hs.Close() })
	raw, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(raw)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	r, err := (&http.Client{Transport: tr}).Get("https://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); string(b) != "HTTP/2.0" || err != nil {
		t.Errorf("%s %v", b, err)
	}
}

// TestMake: keys are for their owner alone; a second run keeps the authority.
func TestMake(t *testing.T) {
	dir := made(t)
	read := func(name string) string {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	ca, leaf := read(caFile), read(filepath.Join(Worker, certFile))
	if _, err := Make(dir, nil); err != nil {
		t.Fatal(err)
	}
	if read(caFile) != ca || read(filepath.Join(Worker, certFile)) == leaf {
		t.Error("the authority must stay, the others must be new")
	}
	keys := 0
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !slices.Contains([]string{keyFile, "ca.key"}, e.Name()) {
			return err
		}
		keys++
		if i, err := e.Info(); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, i.Mode(), err)
		}
		return nil
	})
	if err != nil || keys != 6 {
		t.Errorf("%d keys, %v", keys, err)
	}
}

// TestOpen: what cannot be used is said with the file's name.
func TestOpen(t *testing.T) {
	dir := made(t)
	w := Folder(filepath.Join(dir, Worker))
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		f    Files
		says string
	}{
		{Files{Cert: w.Cert}, w.Cert},
		{Files{Key: w.Key}, w.Key},
		{Files{Cert: w.Cert, Key: filepath.Join(dir, Router, keyFile)}, Router},
		{Files{Cert: dir + "/none", Key: w.Key}, "/none"},
		{Files{CA: empty}, empty},
		{Files{CA: dir + "/none"}, "/none"},
	} {
		if _, err := Open(tt.f, nil); !errors.Is(err, ErrFiles) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: %v", tt.f, err)
		}
	}
}
