package serve

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSocketOfAKilledProcessIsReplaced: a container that was killed starts again on the volume with its socket in it.
func TestSocketOfAKilledProcessIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false) // as SIGKILL leaves it
	dead.Close()

	l, err := listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listen("unix:" + path); err == nil || !strings.Contains(err.Error(), "another process serves") {
		t.Errorf("a socket that is served was taken: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != socketMode {
		t.Errorf("%v, %v: containers run as other users", info, err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the socket that is served: %v", err)
	}
	conn.Close()
	l.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("after the end: %v", err)
	}
}

func TestOnlySocketsAreReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen("unix:" + path); err == nil {
		t.Error("a file was taken for a socket")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "data" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestListenOnAPort(t *testing.T) {
	l, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
