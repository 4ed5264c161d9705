package source

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"chorale/adaptermgr/source/guard"
)

// TestPrivateAddresses: clients cannot send the server into its own network,
// neither by name nor by redirect, whatever the scheme.
func TestPrivateAddresses(t *testing.T) {
	inside := newSite(t, voice("weights"))
	public := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := map[string]string{
			"/tls/": "https://localhost:1/", "/plain/": inside.URL + "/v/", "/metadata/": "https://169.254.169.254/latest/",
			"/file/": "file:///etc/", "/name/": "https://localhost:443/",
		}
		for prefix, target := range to {
			if strings.HasPrefix(r.URL.Path, prefix) {
				http.Redirect(w, r, target+strings.TrimPrefix(r.URL.Path, prefix), http.StatusFound)
				return
			}
		}
		inside.serve(w, r)
	}))
	t.Cleanup(func() { public.CloseClientConnections(); public.Close() })
	roots := x509.NewCertPool()
	roots.AddCert(public.Certificate())
	o := Options{tls: &tls.Config{RootCAs: roots}, Retries: -1}
	// The test's own server stands for one on the Internet.
	o.control = func(network, address string, c syscall.RawConn) error {
		if address == public.Listener.Addr().String() {
			return nil
		}
		return guard.Control(network, address, c)
	}
	r := fetcher(t, o)
	checkFetch(t, r, public.URL+"/v")
	inside.took()
	for source, want := range map[string]error{
		public.URL + "/tls/v": ErrPrivate, public.URL + "/metadata/v.zip": ErrPrivate, public.URL + "/name/v": ErrPrivate,
		public.URL + "/plain/v": ErrDenied, public.URL + "/file/v.tar": ErrDenied,
		inside.URL + "/v": ErrDenied, "https://127.0.0.1:1/v": ErrPrivate, "https://[::1]/v": ErrPrivate,
		"https://10.0.0.1/v": ErrPrivate, "https://169.254.169.254/latest/meta-data": ErrPrivate,
		"s3://bucket/v?endpoint=https://127.0.0.1:1": ErrPrivate, "s3://bucket/v?endpoint=" + inside.URL: ErrDenied,
		"https://user:pass@example.com/v": ErrUnsupported, "ftp://example.com/v": ErrUnsupported,
		"gopher://127.0.0.1:1/": ErrUnsupported, "https:///v": ErrNotFound,
	} {
		_, err := r.Fetch(t.Context(), source)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", source, err)
		} else if strings.Contains(err.Error(), ":pass@") {
			t.Errorf("tells a password: %v", err)
		}
	}
	if asked := inside.took(); len(asked) != 0 {
		t.Errorf("the server was sent inside: %v", asked)
	}
	// The operator may name what clients may not.
	o.Exact = []string{inside.URL + "/v"}
	r = fetcher(t, o)
	checkFetch(t, r, inside.URL+"/v")
	if _, err := r.Fetch(t.Context(), inside.URL+"/v/"); !errors.Is(err, ErrDenied) {
		t.Errorf("another string: %v", err)
	}
}

func TestUnreachableServers(t *testing.T) {
	s := newSite(t, nil)
	s.Close()
	r := fetcher(t, Options{AllowPrivate: true, Retries: 1})
	for _, source := range []string{s.URL + "/v?token=secret", "http://no-such-host.invalid/v", "s3://bucket/v?endpoint=" + s.URL} {
		_, err := r.Fetch(t.Context(), source)
		checkError(t, source, err, ErrUnavailable)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("tells a secret: %v", err)
		}
	}
	r = resolver(t, Options{})
	for _, source := range []string{"https://example.com/v", "s3://b/v", "upload://x"} {
		_, err := r.Fetch(t.Context(), source)
		checkError(t, source, err, ErrUnsupported)
	}
}

func TestShown(t *testing.T) {
	for in, want := range map[string]string{
		"team/a?x=1": "team/a?x=1", "./rel/../a": "./rel/../a", "https://h/p%20q?X-Sig=1#sha256=ab": "https://h/p%20q#sha256=ab", "https://h/a.zip#sha256=ab": "https://h/a.zip#sha256=ab", "HTTPS://u:p@h/p": "https://h/p",
		"http://h:8/a//b/": "http://h:8/a//b/", "s3://b/k?endpoint=https://h": "s3://b/k?endpoint=https://h", "https://h/%zz?x": "https://…",
		"hf://org/name@rev": "hf://org/name@rev",
	} {
		if got := Shown(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"team/a": "team/a", "org/name@rev": "org/name@rev", "https://h/p%20q?X-Sig=1": "https://h/p%20q?…",
		"https://u:p@h/p": "https://h/p", "s3://b/k?endpoint=https://h": "s3://b/k", "https://h/%zz?x": "https://…",
		"hf://org/name@rev": "hf://org/name@rev", "/a b": "/a b",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
