package product

import (
	"bytes"
	"os"
	"strconv"
)

// RSS is a process's resident memory in bytes, PSS its proportional share of
// it; 0 where there is no /proc, or no such process.
func RSS(pid int) int64 { return procBytes(pid, "status", "VmRSS:") }

// PSS is a process's proportional set size in bytes; 0 as for RSS.
func PSS(pid int) int64 { return procBytes(pid, "smaps_rollup", "Pss:") }

func procBytes(pid int, file, key string) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + file)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(key)); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseInt(string(f[0]), 10, 64)
				return n << 10
			}
		}
	}
	return 0
}
