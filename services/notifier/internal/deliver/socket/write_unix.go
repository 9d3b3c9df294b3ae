//go:build unix

package socket

import (
	"errors"
	"syscall"
)

// tryWrite writes what the kernel takes at once. The function always says that it is done, so the goroutine is never parked by the poller.
func tryWrite(raw syscall.RawConn, b []byte) (n int, err error) {
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		for n < len(b) {
			took, err := syscall.Write(int(fd), b[n:])
			if took > 0 {
				n += took
			}
			switch {
			case err == nil && took > 0, errors.Is(err, syscall.EINTR):
			case err == nil, errors.Is(err, syscall.EAGAIN):
				return true
			default:
				failed = err
				return true
			}
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return n, err
}
