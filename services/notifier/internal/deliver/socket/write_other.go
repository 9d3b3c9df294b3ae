//go:build !unix

package socket

import (
	"errors"
	"syscall"
)

// tryWrite has no form on systems without Unix's file descriptors: Accept refuses there.
func tryWrite(syscall.RawConn, []byte) (int, error) { return 0, errors.ErrUnsupported }
