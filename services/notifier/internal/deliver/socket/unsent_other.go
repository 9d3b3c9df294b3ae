//go:build !linux

package socket

import "syscall"

// setUnsent has no portable form; the send buffer bounds what waits.
func setUnsent(syscall.RawConn, int) {}
