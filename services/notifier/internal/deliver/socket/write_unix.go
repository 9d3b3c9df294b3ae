//go:build unix

package socket

import (
	"errors"
	"sync"
	"syscall"
)

// attempt is one try to write, reused so that a write allocates nothing.
type attempt struct {
	b   []byte
	n   int
	err error
	try func(fd uintptr) bool
}

var attempts = sync.Pool{New: func() any {
	a := new(attempt)
	a.try = a.write
	return a
}}

// write offers what is left until the kernel takes no more. It always says that it is done, so the goroutine is never parked by the poller.
func (a *attempt) write(fd uintptr) bool {
	for a.n < len(a.b) {
		took, err := syscall.Write(int(fd), a.b[a.n:])
		if took > 0 {
			a.n += took
		}
		switch {
		case err == nil && took > 0, errors.Is(err, syscall.EINTR):
		case err == nil, errors.Is(err, syscall.EAGAIN):
			return true
		default:
			a.err = err
			return true
		}
	}
	return true
}

// tryWrite writes what the kernel takes at once.
func tryWrite(raw syscall.RawConn, b []byte) (n int, err error) {
	a := attempts.Get().(*attempt)
	a.b, a.n, a.err = b, 0, nil
	err = raw.Write(a.try)
	if err == nil {
		err = a.err
	}
	n, a.b = a.n, nil
	attempts.Put(a)
	return n, err
}
