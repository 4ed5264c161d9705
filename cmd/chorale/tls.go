package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"chorale/internal/certs"
)

// sslFlags encrypt what clients say; the names are SGLang's and vLLM's.
type sslFlags struct {
	SslCertfile string `name:"ssl-certfile" group:"http" placeholder:"FILE" help:"Certificate of HTTP and gRPC in PEM, read again when it changes; without one they are not encrypted."`
	SslKeyfile  string `name:"ssl-keyfile" group:"http" placeholder:"FILE" help:"The certificate's private key."`
	SslCaCerts  string `name:"ssl-ca-certs" group:"http" placeholder:"FILE" help:"Authorities of clients: only those with a certificate of theirs come in."`
}

// store reads the files; nil without any.
func (f *sslFlags) store(log *zap.Logger) (*certs.Store, error) {
	if *f == (sslFlags{}) {
		return nil, nil
	}
	if f.SslCertfile == "" || f.SslKeyfile == "" {
		return nil, errors.New("--ssl-certfile and --ssl-keyfile are needed, both, for TLS")
	}
	s, err := certs.Open(certs.Files{Cert: f.SslCertfile, Key: f.SslKeyfile, CA: f.SslCaCerts}, stale(log))
	if err != nil {
		return nil, fmt.Errorf("--ssl-certfile: %w", err)
	}
	return s, nil
}

// stale logs files that cannot be used.
func stale(log *zap.Logger) func(error) {
	return func(err error) { log.Error("certificates stay as they were", zap.Error(err)) }
}

// clusterFlags let roles know each other.
type clusterFlags struct {
	ClusterTLS string `name:"cluster-tls" group:"http" placeholder:"DIR" help:"Folder with tls.crt, tls.key and ca.crt of this role, read again when they change: roles then talk encrypted, and only to roles of the same authority (chorale certs makes them). Without it they belong on a network of their own."`
}

// cluster is how this role talks to others; nil: in the clear.
type cluster struct{ store *certs.Store }

func (f *clusterFlags) cluster(log *zap.Logger) (*cluster, error) {
	if f.ClusterTLS == "" {
		return nil, nil
	}
	s, err := certs.Open(certs.Folder(f.ClusterTLS), stale(log))
	if err != nil {
		return nil, fmt.Errorf("--cluster-tls %s: %w", f.ClusterTLS, err)
	}
	return &cluster{s}, nil
}

// listen lets in the roles.
func (c *cluster) listen(l net.Listener, roles ...string) net.Listener {
	if c == nil {
		return l
	}
	return c.store.Listener(l, roles...)
}

// to is for connections to servers of a role.
func (c *cluster) to(role string) credentials.TransportCredentials {
	if c == nil {
		return insecure.NewCredentials()
	}
	return c.store.ClientCredentials(role)
}

// certsCmd makes certificates.
type certsCmd struct {
	Dir  string   `arg:"" placeholder:"DIR" help:"Where to; an authority that is there already is used again, everything else is made anew."`
	Host []string `sep:"none" placeholder:"NAME" help:"Names and IP addresses by which clients reach the server; may be repeated (default: localhost and its addresses)."`
}

// Help is the text below the flags.
func (*certsCmd) Help() string {
	return strings.TrimSpace(`
For development and for small clusters. What is made:

  DIR/ca.crt, ca.key   the authority; keep the key apart from the servers
  DIR/server           --ssl-certfile DIR/server/tls.crt --ssl-keyfile DIR/server/tls.key
  DIR/router           router --cluster-tls DIR/router
  DIR/adaptermgr       adaptermgr --cluster-tls DIR/adaptermgr
  DIR/worker           worker --cluster-tls DIR/worker
  DIR/operator         worker drain --cluster-tls DIR/operator

Certificates are good for a year. Run it again to renew them: servers take the new
ones without a restart.`)
}

// Run writes them and says where.
func (c *certsCmd) Run(context.Context) error {
	hosts := c.Host
	if len(hosts) == 0 {
		hosts = []string{"localhost", "127.0.0.1", "::1"}
	}
	folders, err := certs.Make(c.Dir, hosts)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "authority    %s\nclients and servers need it as --ca-file or SSL_CERT_FILE\n", filepath.Join(c.Dir, "ca.crt"))
	for _, f := range folders {
		if err == nil {
			_, err = fmt.Fprintf(os.Stdout, "%-12s %s\n", filepath.Base(f), f)
		}
	}
	return err
}
