package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	// unixScheme marks the path of a Unix socket, as gRPC's own targets do.
	unixScheme = "unix:"
	// socketMode lets every user connect who may reach the socket's directory,
	// as with a port on loopback: the directory guards it, and each call's token.
	socketMode = 0o666
	// probeTimeout bounds the look at a socket that is there already.
	probeTimeout = time.Second
)

// listen opens the listener of an address: host:port, or unix:PATH for callers
// in other containers of this machine, which a loopback port does not reach. A
// socket that a killed process left behind is replaced, one that somebody
// serves is not.
func listen(address string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, unixScheme)
	if !isUnix {
		return net.Listen("tcp", address)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeStale removes the socket at path if nobody listens on it. Whatever else
// is there stays and is an error.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is no socket", path)
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("another process serves %s", path), conn.Close())
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("who serves %s: %w", path, err)
	}
	return os.Remove(path)
}
