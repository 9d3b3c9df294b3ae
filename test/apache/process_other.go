//go:build !linux

package apache

import "syscall"

// attributes keep Ctrl-C from the brokers, so that they are stopped in order.
// A process that is killed leaves its brokers behind: only Linux can help that.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
