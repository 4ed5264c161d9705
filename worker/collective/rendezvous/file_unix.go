//go:build unix

package rendezvous

import (
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// welcome sends w, and the file beside it.
func welcome(c net.Conn, w *Welcome, f *os.File) error {
	b, err := encode(kindWelcome, w)
	if err != nil {
		return err
	}
	u, ok := c.(*net.UnixConn)
	if f == nil {
		_, err := c.Write(b)
		return err
	}
	if !ok {
		return fmt.Errorf("a file cannot go over %s: %w", c.LocalAddr().Network(), ErrProtocol)
	}
	n, _, err := u.WriteMsgUnix(b, unix.UnixRights(int(f.Fd())), nil)
	if err == nil && n < len(b) {
		_, err = u.Write(b[n:])
	}
	return err
}

// filed reads from a unix socket and keeps a file that comes along.
type filed struct {
	u *net.UnixConn
	f *os.File
}

func (r *filed) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := r.u.ReadMsgUnix(b, oob)
	if err != nil {
		return n, err
	}
	if n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // another kind of message
		}
		for _, fd := range fds {
			if r.f != nil {
				r.f.Close()
			}
			unix.CloseOnExec(fd)
			r.f = os.NewFile(uintptr(fd), "group")
		}
	}
	return n, nil
}

func readWithFile(c net.Conn) (kind, []byte, *os.File, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		k, body, err := read(c)
		return k, body, nil, err
	}
	r := &filed{u: u}
	k, body, err := read(r)
	if err != nil && r.f != nil {
		r.f.Close()
		r.f = nil
	}
	return k, body, r.f, err
}
