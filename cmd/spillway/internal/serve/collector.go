package serve

import (
	"math"
	"os"
	"runtime/debug"
)

// seldom is GOGC of the notifier and the embedded broker, for whose answers
// somebody waits and whose memory limit is far (docs/adr/0012-the-collector-runs-seldom.md).
const seldom = 300

// collectSeldom makes the collector run seldom where GOMEMLIMIT bounds what that
// costs and GOGC says nothing else.
func collectSeldom() {
	if os.Getenv("GOGC") == "" && debug.SetMemoryLimit(-1) < math.MaxInt64 {
		debug.SetGCPercent(seldom)
	}
}
