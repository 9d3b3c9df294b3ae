package process

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"
)

// Usage is what a process has used.
type Usage struct {
	// RSS and Peak are resident bytes, now and at most.
	RSS, Peak int64
	// CPU is the time on all cores, user and system.
	CPU time.Duration
}

// clockTick is USER_HZ, which Linux fixes at 100 for every architecture that Go
// runs on.
const clockTick = 10 * time.Millisecond

// Busy is the time that all processes of the machine have taken on all its cores, and that a host took from them. It reports false where there is
// no /proc, and where this process may not use all cores: then it says nothing about those that it may use.
func Busy() (time.Duration, bool) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	return parseBusy(stat, runtime.NumCPU())
}

// parseBusy adds user, nice, system and steal. Interrupts are nobody's: no process's usage has them.
func parseBusy(stat []byte, cores int) (time.Duration, bool) {
	line, rest, _ := bytes.Cut(stat, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) < 9 || string(f[0]) != "cpu" {
		return 0, false
	}
	for line := range bytes.Lines(rest) {
		if bytes.HasPrefix(line, []byte("cpu")) {
			cores--
		}
	}
	if cores != 0 {
		return 0, false
	}
	var busy time.Duration
	for _, i := range [...]int{1, 2, 3, 8} {
		n, err := strconv.ParseInt(string(f[i]), 10, 64)
		if err != nil {
			return 0, false
		}
		busy += time.Duration(n) * clockTick
	}
	return busy, true
}

// Measure reads a process's usage from /proc. It reports false where there is
// no /proc (ceilings are then only GOMEMLIMIT's) and for a process that is gone.
func Measure(pid int) (Usage, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return Usage{}, false
	}
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Usage{}, false
	}
	return parseUsage(status, stat)
}

func parseUsage(status, stat []byte) (Usage, bool) {
	var u Usage
	for line := range bytes.Lines(status) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		kib := func() int64 {
			f := bytes.Fields(value)
			if len(f) == 0 {
				return 0
			}
			n, _ := strconv.ParseInt(string(f[0]), 10, 64)
			return n << 10
		}
		switch string(key) {
		case "VmRSS":
			u.RSS = kib()
		case "VmHWM":
			u.Peak = kib()
		}
	}
	// The name, in parentheses, may hold spaces: the fields after it are fixed,
	// utime and stime the 12th and 13th of them.
	_, rest, ok := bytes.Cut(stat, []byte(") "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 13 || u.RSS == 0 {
		return Usage{}, false
	}
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return Usage{}, false
		}
		u.CPU += time.Duration(n) * clockTick
	}
	return u, true
}
