//go:build !linux

package rendezvous

import "net"

// sameUser: here the socket's file has permissions.
func sameUser(net.Conn) error { return nil }
