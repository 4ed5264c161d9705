package testkit

import "syscall"

// attributes end the process when the test dies without cleaning up.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
