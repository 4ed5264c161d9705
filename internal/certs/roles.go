package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc/credentials"
)

// Domain is below what the roles of a cluster have their names.
const Domain = "chorale.internal"

// Roles that a certificate of a cluster can speak for.
const (
	Router   = "router"
	Manager  = "adaptermgr"
	Worker   = "worker"
	Operator = "operator" // people and their tools
)

// Roles are all of them.
var Roles = []string{Router, Manager, Worker, Operator}

// ErrRole says that the other side's certificate speaks for the wrong role.
var ErrRole = errors.New("the certificate's role is not allowed here")

// Names in a role's folder, those of a Kubernetes TLS secret.
const (
	certFile = "tls.crt"
	keyFile  = "tls.key"
	caFile   = "ca.crt"
)

// Folder are the files of a role's folder.
func Folder(dir string) Files {
	return Files{Cert: filepath.Join(dir, certFile), Key: filepath.Join(dir, keyFile), CA: filepath.Join(dir, caFile)}
}

// Listener lets in connections of l whose certificate speaks for one of the roles.
func (s *Store) Listener(l net.Listener, roles ...string) net.Listener {
	c := s.Server()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		cfg, err := s.server()
		if err != nil {
			return nil, err
		}
		cfg.MinVersion = tls.VersionTLS13
		cfg.VerifyConnection = func(st tls.ConnectionState) error { return allowed(st.PeerCertificates, roles) }
		return cfg, nil
	}
	return tls.NewListener(l, c)
}

// allowed says whether a certificate speaks for one of the roles.
func allowed(chain []*x509.Certificate, roles []string) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: there is none", ErrRole)
	}
	names := chain[0].DNSNames
	for _, r := range roles {
		if slices.Contains(names, r+"."+Domain) {
			return nil
		}
	}
	return fmt.Errorf("%w: it has the names %q, wanted is one of %s", ErrRole, names, strings.Join(roles, ", "))
}

// ClientCredentials are for connections to servers of a role.
func (s *Store) ClientCredentials(role string) credentials.TransportCredentials {
	return &client{s: s, role: role}
}

// client makes a configuration for each handshake, from the files of that moment.
type client struct {
	s    *Store
	role string
}

func (c *client) now() credentials.TransportCredentials {
	cfg := c.s.Client(c.role + "." + Domain)
	cfg.MinVersion = tls.VersionTLS13
	return credentials.NewTLS(cfg)
}

// ClientHandshake ignores the authority, which is an address: the name is the
// role's.
func (c *client) ClientHandshake(ctx context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.now().ClientHandshake(ctx, c.role+"."+Domain, conn)
}

// ServerHandshake fails: these are a client's.
func (c *client) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("certs: a client's credentials on a server")
}

// Info tells the protocol and the name.
func (c *client) Info() credentials.ProtocolInfo { return c.now().Info() }

// Clone copies.
func (c *client) Clone() credentials.TransportCredentials { return &client{c.s, c.role} }

// OverrideServerName is not for these.
func (c *client) OverrideServerName(string) error {
	return errors.New("certs: the name is the role's")
}
