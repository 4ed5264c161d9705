//go:build !linux

package testkit

import "syscall"

// attributes has nothing to say where processes cannot follow their parents.
func attributes() *syscall.SysProcAttr { return nil }
