package failover

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// parked is what an idle scheduler of 8 shards has under way: a fetch for each
	// of five priorities, and one each of the control log and status.
	parked = 8*5 + 2
	// mostConnections leaves room for what the four clients keep beside: metadata,
	// produce, heartbeats, commits, and what a start has needed at once.
	mostConnections = parked + 40
	idleFor         = 10 * time.Second
)

// TestApacheConnections counts what an idle scheduler with all shards of 8, 16 lanes
// each, costs a broker: a parked fetch owns a connection (ADR 1), a lane that is not
// in use none.
func TestApacheConnections(t *testing.T) {
	b, _ := onApache(t, 1, 0)
	w := newWorld(t, b.addresses[0], b.durability, 1)
	pid := w.schedulers[0].PID()
	time.Sleep(5 * time.Second)
	before := cpu(t, pid)
	time.Sleep(idleFor)
	busy := cpu(t, pid) - before
	n := connections(t, pid, b.addresses[0])
	t.Logf("an idle scheduler: %d connections to the broker, %.1f %% of a core", n, 100*busy.Seconds()/idleFor.Seconds())
	if n > mostConnections {
		t.Errorf("%d connections to the broker, more than %d", n, mostConnections)
	}
}

// connections counts a process's established TCP connections to an address.
func connections(t *testing.T, pid int, address string) int {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	ip := net.ParseIP(host).To4()
	remote := strings.ToUpper(fmt.Sprintf("%s:%04x", hex.EncodeToString([]byte{ip[3], ip[2], ip[1], ip[0]}), number))
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Skipf("not run: it needs /proc: %v", err)
	}
	inodes := make(map[string]bool)
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 9 && f[2] == remote && f[3] == "01" { // established
			inodes["socket:["+f[9]+"]"] = true
		}
	}
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range open {
		if to, err := os.Readlink(fd); err == nil && inodes[to] {
			n++
		}
	}
	return n
}

// cpu is the time that a process has spent on cores.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	ticks := 0
	for _, i := range []int{11, 12} { // utime, stime
		n, err := strconv.Atoi(f[i])
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every Linux
}
