package guard

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, a := range []string{
		"127.0.0.1", "127.255.0.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.8", "192.0.2.1", "198.18.0.1", "203.0.113.9",
		"224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1",
		"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
		"2002:7f00:1::", "2002:c0a8:101::1", "2001::1",
	} {
		if err := Check(netip.MustParseAddr(a)); !errors.Is(err, ErrPrivate) {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, a := range []string{
		"8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "198.20.0.1", "223.255.255.1",
		"2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
	} {
		if err := Check(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	if err := Check(netip.Addr{}); !errors.Is(err, ErrPrivate) {
		t.Errorf("no address: %v", err)
	}
	for _, a := range []string{"", "localhost:80", "[::1]:80", "10.1.1.1:443"} {
		if err := Control("tcp", a, nil); !errors.Is(err, ErrPrivate) {
			t.Errorf("Control(%q): %v", a, err)
		}
	}
}

// TestTransport: the address that is connected to counts, however it was
// spelled, and a proxy of the environment does not help.
func TestTransport(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	t.Setenv("HTTP_PROXY", s.URL)
	guarded, open := Transport(Control), Transport(nil)
	if guarded.Proxy != nil || open.Proxy == nil {
		t.Error("proxies of the environment")
	}
	for _, host := range []string{"127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"} {
		u := "http://" + host + s.URL[len("http://127.0.0.1"):]
		resp, err := (&http.Client{Transport: guarded}).Get(u)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s was reached", u)
		} else if host == "127.0.0.1" && !errors.Is(err, ErrPrivate) {
			t.Errorf("%s: %v", u, err)
		}
	}
	resp, err := (&http.Client{Transport: open}).Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	open.CloseIdleConnections()
}
