package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Files are the PEM files of one identity. All of them may be replaced at any time,
// best by renaming; what is shown changes with the next connection.
type Files struct {
	Cert, Key string // of this side: chain and private key; both or neither
	CA        string // authorities that the other side's certificate must come from
}

// ErrFiles says that PEM files cannot be used.
var ErrFiles = errors.New("certificates cannot be used")

// lookEvery is how often files are looked at, at most.
const lookEvery = time.Second

// identity is what the files held when they were last read.
type identity struct {
	cert *tls.Certificate
	pool *x509.CertPool
}

// Store keeps what is in Files. It is safe for concurrent use.
type Store struct {
	files  Files
	failed func(error) // is told once of each change that cannot be used

	mu     sync.Mutex
	looked time.Time
	seen   string
	have   identity
}

// Open reads the files. Later changes that cannot be used are told to failed, and
// what was there before stays in use. The error is [ErrFiles].
func Open(f Files, failed func(error)) (*Store, error) {
	if (f.Cert == "") != (f.Key == "") {
		return nil, fmt.Errorf("%w: a certificate and its key are needed, not one of them (%q, %q)", ErrFiles, f.Cert, f.Key)
	}
	s := &Store{files: f, failed: failed, looked: time.Now(), seen: f.stamp()}
	var err error
	s.have, err = f.read()
	return s, err
}

// read loads the files.
func (f Files) read() (id identity, err error) {
	if f.Cert != "" {
		c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return id, fmt.Errorf("%w: %s with %s: %w", ErrFiles, f.Cert, f.Key, err)
		}
		id.cert = &c
	}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return id, fmt.Errorf("%w: %w", ErrFiles, err)
		}
		id.pool = x509.NewCertPool()
		if !id.pool.AppendCertsFromPEM(pem) {
			return id, fmt.Errorf("%w: %s holds no certificate in PEM", ErrFiles, f.CA)
		}
	}
	return id, nil
}

// stamp changes when one of the files does.
func (f Files) stamp() string {
	out := ""
	for _, name := range []string{f.Cert, f.Key, f.CA} {
		if name == "" {
			continue
		}
		if i, err := os.Stat(name); err != nil {
			out += err.Error()
		} else {
			out += fmt.Sprint(i.ModTime().UnixNano(), " ", i.Size(), ";")
		}
	}
	return out
}

// current reads the files again if they have changed.
func (s *Store) current() identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.looked) < lookEvery {
		return s.have
	}
	s.looked = time.Now()
	stamp := s.files.stamp()
	if stamp == s.seen {
		return s.have
	}
	s.seen = stamp
	id, err := s.files.read()
	if err == nil {
		s.have = id
	} else if s.failed != nil {
		s.failed(err)
	}
	return s.have
}

// Expires is when this side's certificate ends; zero without one.
func (s *Store) Expires() time.Time {
	c := s.current().cert
	if c == nil {
		return time.Time{}
	}
	return c.Leaf.NotAfter
}

// Server is the configuration of a listener. Where the files name authorities,
// clients must show a certificate of theirs.
func (s *Store) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return s.server()
		},
	}
}

// protocols are offered to clients: gRPC needs h2.
var protocols = []string{"h2", "http/1.1"}

func (s *Store) server() (*tls.Config, error) {
	id := s.current()
	if id.cert == nil {
		return nil, fmt.Errorf("%w: a server needs one of its own", ErrFiles)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{*id.cert}}
	if id.pool != nil {
		c.ClientCAs, c.ClientAuth = id.pool, tls.RequireAndVerifyClientCert
	}
	return c, nil
}

// Client is the configuration of one connection to a server called name; as files
// may change, it is asked for anew with each. Without authorities the system's
// count.
func (s *Store) Client(name string) *tls.Config {
	id := s.current()
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, ServerName: name, RootCAs: id.pool}
	if id.cert != nil {
		c.Certificates = []tls.Certificate{*id.cert}
	}
	return c
}
