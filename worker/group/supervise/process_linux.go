package supervise

import "syscall"

// attributes give a rank a process group of its own, lest a terminal's signals
// reach it beside its supervisor's orders, and end it with the supervisor.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
