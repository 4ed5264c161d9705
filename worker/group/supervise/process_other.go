//go:build unix && !linux

package supervise

import "syscall"

// attributes give a rank a process group of its own. It ends with its
// supervisor's socket.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
