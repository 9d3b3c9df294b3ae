package readyfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const lockName = "dev.lock"

// Lock is the right to run in a data directory. The kernel gives it back when
// its process ends, however it ends.
type Lock struct{ file *os.File }

// RunningError is returned by Acquire while another process holds the lock.
type RunningError struct {
	// Dir is the data directory, PID its holder's process id.
	Dir string
	PID int
}

// Error names the directory and the process.
func (e *RunningError) Error() string {
	return fmt.Sprintf("spillway dev already runs in %s (pid %d)", e.Dir, e.PID)
}

// Acquire takes the lock of a data directory without waiting, or returns a
// *RunningError.
func Acquire(dir string) (*Lock, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock data directory: %w", err)
		}
		var b [20]byte
		n, _ := f.ReadAt(b[:], 0)
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
		return nil, &RunningError{Dir: dir, PID: pid}
	}
	if err := errors.Join(f.Truncate(0), writeAll(f, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	return &Lock{file: f}, nil
}

func writeAll(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// Release gives the lock back. The file stays: removing it would let two
// processes lock two files of one name.
func (l *Lock) Release() error { return l.file.Close() }

// Running reads the ready file of a data directory, "" for the default one,
// whose dev is alive. A file left behind by one that was killed counts as
// absent.
func Running(dir string) (File, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return File{}, err
		}
	}
	f, err := Read(filepath.Join(dir, Name))
	if err != nil {
		return File{}, err
	}
	lock, err := Acquire(dir)
	if _, running := errors.AsType[*RunningError](err); running {
		return f, nil
	}
	if err != nil {
		return File{}, err
	}
	lock.Release()
	return File{}, fmt.Errorf("%s: %w", dir, ErrAbsent)
}
