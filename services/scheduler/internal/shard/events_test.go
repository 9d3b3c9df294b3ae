package shard

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/spillway/spillway/pkg/offsets"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// TestEventsAgainstASet checks that the position to commit never passes an event that is still needed, and that the counts are exactly
// those of the terminal events below it.
func TestEventsAgainstASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 100).Draw(t, "start")
		l := events{next: start}
		type known struct {
			outcome jobv1.Outcome
			done    bool
		}
		model, next := map[int64]known{}, start
		var fences []int64
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				next += rapid.Int64Range(0, 3).Draw(t, "gap") // others' events lie in between
				outcome := jobv1.Outcome(rapid.IntRange(0, 6).Draw(t, "outcome"))
				l.add(next, outcome)
				model[next] = known{outcome: outcome}
				next++
			},
			"fence": func(t *rapid.T) {
				l.add(next, jobv1.Outcome_OUTCOME_UNSPECIFIED)
				l.done(next)
				l.fenced(next)
				model[next] = known{done: true}
				fences = append(fences, next)
				next++
			},
			"done": func(t *rapid.T) {
				offset := rapid.Int64Range(start, max(start, next)).Draw(t, "offset")
				l.done(offset)
				if k, has := model[offset]; has {
					k.done = true
					model[offset] = k
				}
			},
			"": func(t *rapid.T) {
				low, want := l.low(), offsets.Counts{}
				for offset, k := range model {
					if !k.done && offset < low {
						t.Fatalf("low is %d, above the event at %d", low, offset)
					}
					if offset < low {
						count(&want, k.outcome)
					}
				}
				for _, f := range fences {
					if f < low {
						want.Fence = f
					}
				}
				if got := l.account(); got != want {
					t.Fatalf("counts %v below %d, want %v", got, low, want)
				}
				needed := 0
				for _, k := range model {
					if !k.done {
						needed++
					}
				}
				if len(l.list) > 2*needed {
					t.Fatalf("%d entries for %d events that are needed", len(l.list), needed)
				}
			},
		})
	})
}
