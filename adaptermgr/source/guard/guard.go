// Package guard keeps requests that clients bring about away from the
// server's own network. It looks at the address that a name resolved to, at
// the moment of the connection, so that neither a redirect nor a name that
// resolves differently the second time gets around it.
package guard

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// ErrPrivate marks an address that is not on the public Internet.
var ErrPrivate = errors.New("not a public address")

// reserved are ranges that no public server has, beside those that netip
// knows (private, loopback, link-local, multicast). IANA's special-purpose
// registries, RFC 6890 and its successors.
var reserved = prefixes(
	"0.0.0.0/8",       // this network
	"100.64.0.0/10",   // carrier-grade NAT; metadata services of some clouds
	"192.0.0.0/24",    // protocol assignments
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relays
	"198.18.0.0/15",   // benchmarking
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"240.0.0.0/4",     // reserved, broadcast
	"::/96",           // IPv4-compatible
	"64:ff9b:1::/48",  // local NAT64
	"100::/64",        // discard
	"2001::/23",       // protocol assignments, Teredo
	"2001:db8::/32",   // documentation
	"3fff::/20",       // documentation
	"5f00::/16",       // segment routing
	"fec0::/10",       // site-local
)

// Ranges that carry an IPv4 address, and at which byte.
var (
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
	sixTo = netip.MustParsePrefix("2002::/16")
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// Check returns ErrPrivate unless a is an address of the public Internet.
func Check(a netip.Addr) error {
	a = a.WithZone("").Unmap()
	if !public(a) {
		return fmt.Errorf("%w: %s", ErrPrivate, a)
	}
	return nil
}

func public(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range reserved {
		if p.Contains(a) {
			return false
		}
	}
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return public(netip.AddrFrom4([4]byte(b[12:16])))
	case sixTo.Contains(a):
		return public(netip.AddrFrom4([4]byte(b[2:6])))
	}
	return true
}

// Control is a net.Dialer's Control that lets only public addresses through.
func Control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrPrivate, address)
	}
	return Check(ap.Addr())
}

// Transport returns a transport whose connections control allows; nil allows
// all, and then the environment's proxies are used. With control they are not:
// a proxy would connect in its place, and look at nothing.
func Transport(control func(network, address string, c syscall.RawConn) error) *http.Transport {
	d := &net.Dialer{Timeout: 15 * time.Second, Control: control}
	t := &http.Transport{
		DialContext:           d.DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       30 * time.Second,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		// A header is a few lines; what says more is no file server.
		MaxResponseHeaderBytes: 256 << 10,
	}
	if control == nil {
		t.Proxy = http.ProxyFromEnvironment
	}
	return t
}
