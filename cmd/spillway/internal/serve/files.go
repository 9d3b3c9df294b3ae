package serve

import (
	"log/slog"
	"math"
	"syscall"
)

// reserve is how many files are kept for what is no websocket: 2,048 connections that want to be one (services/notifier), callers, Kafka and files.
const reserve = 2048 + 512

// fitting is how many of the wanted websockets the process has files for; a limit that is small is shared by half.
func fitting(wanted int, log *slog.Logger) int {
	var files syscall.Rlimit // Go has raised it as far as it may
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil {
		return wanted
	}
	fit := fit(wanted, uint64(files.Cur)) // signed on some systems
	if fit < wanted {
		log.Warn("fewer websockets than SPILLWAY_NOTIFIER_SESSIONS: each takes a file", "wanted", wanted, "sessions", fit, "files", files.Cur)
	}
	return fit
}

func fit(wanted int, files uint64) int {
	n := int(min(files, math.MaxInt32))
	return min(wanted, max(n-reserve, n/2, 1))
}
