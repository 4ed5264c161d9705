package main

import (
	"net"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// TestAdminListen: an address of its own has a key of its own wherever clients
// have one.
func TestAdminListen(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    faceFlags
		want string
	}{
		{"none", faceFlags{APIKey: "k"}, ""},
		{"open", faceFlags{AdminListen: "127.0.0.1:0"}, ""},
		{"both keys", faceFlags{AdminListen: "127.0.0.1:0", APIKey: "k", AdminAPIKey: "a"}, ""},
		{"admin key", faceFlags{AdminListen: "127.0.0.1:0", AdminAPIKey: "a"}, ""},
		{"one key", faceFlags{AdminListen: "127.0.0.1:0", APIKey: "k"}, "needs --admin-api-key"},
		{"the same key", faceFlags{AdminListen: "127.0.0.1:0", APIKey: "k", AdminAPIKey: "k"}, "another key"},
		{"no port", faceFlags{AdminListen: "127.0.0.1"}, "want HOST:PORT"},
		{"no number", faceFlags{AdminListen: "127.0.0.1:http"}, "want HOST:PORT"},
	} {
		tt.f.Host = "127.0.0.1"
		d, err := openDoors(&tt.f, &sslFlags{}, zap.NewNop())
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if fronts := d.fronts(&tt.f); (len(fronts) == 2) != (tt.f.AdminListen != "") {
			t.Errorf("%s: %d fronts", tt.name, len(fronts))
		}
		d.shut()
	}
}

// TestAdminListenInUse: a taken port is told, and the others are free again.
func TestAdminListenInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := openDoors(&faceFlags{Host: "127.0.0.1", AdminListen: l.Addr().String()}, &sslFlags{}, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "--admin-listen") {
		t.Error(err)
	}
}
