package broker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// maxSocketPath is what fits in a sockaddr_un, on the narrowest system.
const maxSocketPath = 103

// ErrLocked: another broker has the directory open.
var ErrLocked = errors.New("broker: another process has the data directory open")

// lock takes the directory's lock, which the kernel gives back when the
// process ends, however it ends.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "broker.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("broker: lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
		}
		return nil, fmt.Errorf("broker: lock %s: %w", dir, err)
	}
	return f, nil
}

// private makes sure that dir exists and is the owner's alone.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	if open := info.Mode().Perm() &^ 0o700; open != 0 {
		return fmt.Errorf("broker: directory %s has mode %#o, want 0700: whoever reaches the socket reads and writes everything", dir, info.Mode().Perm())
	}
	return nil
}

// listen opens the socket. The caller holds the directory's lock, so a socket
// file that is still there is left from a process that was killed.
func listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("broker: socket path %s is longer than %d bytes", path, maxSocketPath)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("broker: %s is in the way and no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("broker: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("broker: %w", err)
	}
	return l, nil
}
