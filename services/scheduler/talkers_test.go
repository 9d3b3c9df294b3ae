package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// A source that floods comes first within two counts; what a source brings along from elsewhere is no flood.
func TestTalkersNameTheFlood(t *testing.T) {
	var k talkers
	now := time.Unix(1_700_000_000, 0)
	counts := func(flood, brought int64) func([]core.Talk) []core.Talk {
		return func(to []core.Talk) []core.Talk {
			for i := range 20 {
				to = append(to, core.Talk{Source: fmt.Sprintf("tenant-%02d", i), Arrived: 5 * now.Unix()})
			}
			if flood > 0 {
				to = append(to, core.Talk{Source: "flood", Arrived: flood, Running: 60, Waiting: flood})
			}
			if brought > 0 {
				to = append(to, core.Talk{Source: "taken-over", Arrived: brought, Waiting: brought})
			}
			return to
		}
	}
	k.look(now, counts(1, 0))
	now = now.Add(talkEvery / 2)
	k.look(now, counts(999_999, 0)) // too early: not counted
	if len(k.top()) > maxTalkers || k.top()[0].GetArrivalsPerS() != 0 {
		t.Fatalf("%v", k.top())
	}
	now = now.Add(talkEvery)
	k.look(now, counts(7501, 100_000))
	top := k.top()
	if len(top) != 2 || top[0].GetSource() != "flood" || top[0].GetArrivalsPerS() != 10_000 || top[0].GetWorkerSecondsPerS() != 60 || top[0].GetBacklogJobs() != 7501 {
		t.Errorf("%v", top)
	}
	if top[1].GetSource() != "taken-over" || top[1].GetArrivalsPerS() != 0 || top[1].GetBacklogJobs() != 100_000 {
		t.Errorf("%v", top)
	}
}
