package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Lives of certificates.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	// clockSlack is how far another machine's clock may be behind.
	clockSlack = time.Hour
)

// Server is the name of the certificate that clients from outside see.
const Server = "server"

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// Make writes, below dir, an authority ("ca.crt", "ca.key") unless there is one, and
// from it new certificates: a folder for each of [Roles], and one called [Server]
// for hosts, which are names or IP addresses. It gives the folders.
func Make(dir string, hosts []string) ([]string, error) {
	ca, err := openAuthority(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, role := range append([]string{Server}, Roles...) {
		t := &x509.Certificate{Subject: pkix.Name{CommonName: role}}
		if role == Server {
			for _, h := range hosts {
				if ip := net.ParseIP(h); ip != nil {
					t.IPAddresses = append(t.IPAddresses, ip)
				} else {
					t.DNSNames = append(t.DNSNames, h)
				}
			}
		} else {
			t.DNSNames = []string{role + "." + Domain}
		}
		folder := filepath.Join(dir, role)
		if err := ca.issue(folder, t); err != nil {
			return nil, err
		}
		out = append(out, folder)
	}
	return out, nil
}

// openAuthority reads the authority of dir, or makes one.
func openAuthority(dir string) (*authority, error) {
	certName, keyName := filepath.Join(dir, caFile), filepath.Join(dir, "ca.key")
	certPEM, err := os.ReadFile(certName)
	if errors.Is(err, fs.ErrNotExist) {
		return newAuthority(dir, certName, keyName)
	}
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(keyName)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(block(certPEM))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFiles, certName, err)
	}
	k, err := x509.ParsePKCS8PrivateKey(block(keyPEM))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFiles, keyName, err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: %s is no ECDSA key, so not one of ours", ErrFiles, keyName)
	}
	return &authority{cert, key, certPEM}, nil
}

func newAuthority(dir, certName, keyName string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Chorale development authority"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if err := stampLife(t, authorityLife); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a := &authority{cert, key, encode("CERTIFICATE", der)}
	if err := writeKey(keyName, key); err != nil {
		return nil, err
	}
	return a, replace(certName, a.pem, 0o644)
}

// issue writes a folder with a certificate like t, its key and the authority's.
func (a *authority) issue(folder string, t *x509.Certificate) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if err := stampLife(t, leafLife); err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	f := Folder(folder)
	if err := writeKey(f.Key, key); err != nil {
		return err
	}
	if err := replace(f.Cert, encode("CERTIFICATE", der), 0o644); err != nil {
		return err
	}
	return replace(f.CA, a.pem, 0o644)
}

func stampLife(t *x509.Certificate, life time.Duration) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	t.SerialNumber = serial
	t.NotBefore, t.NotAfter = time.Now().Add(-clockSlack), time.Now().Add(life)
	return nil
}

func writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return replace(name, encode("PRIVATE KEY", der), 0o600)
}

func encode(kind string, der []byte) []byte {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}) // a Buffer takes everything
	return b.Bytes()
}

// block is the first PEM block's content.
func block(raw []byte) []byte {
	if b, _ := pem.Decode(raw); b != nil {
		return b.Bytes
	}
	return nil
}

// replace writes a file whole.
func replace(name string, data []byte, mode fs.FileMode) error {
	tmp := name + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
