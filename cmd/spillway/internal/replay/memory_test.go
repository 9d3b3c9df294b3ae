package replay

import (
	"testing"
	"time"
)

// What others took is only said of a time in which every process of the run was there.
func TestOthers(t *testing.T) {
	now := time.Now()
	at := func(after, busy time.Duration, own map[int]time.Duration) mark {
		return mark{at: now.Add(after), busy: busy, own: own, ok: true}
	}
	from := at(0, 50*time.Second, map[int]time.Duration{1: 5 * time.Second, 2: 9 * time.Second})
	if share := others(from, at(10*time.Second, 56*time.Second, map[int]time.Duration{1: 6 * time.Second, 2: 14 * time.Second})); share == nil || *share != 0 {
		t.Errorf("%v of others, want 0", share)
	}
	if share := others(from, at(10*time.Second, 56*time.Second, map[int]time.Duration{1: 6 * time.Second, 2: 9 * time.Second})); share == nil || *share <= 0 {
		t.Errorf("%v of others, want some", share)
	}
	for name, to := range map[string]mark{
		"started again": at(10*time.Second, 56*time.Second, map[int]time.Duration{1: 6 * time.Second, 3: 30 * time.Second}),
		"one is gone":   at(10*time.Second, 56*time.Second, map[int]time.Duration{1: 6 * time.Second}),
		"unreadable":    {at: now.Add(10 * time.Second)},
		"no time":       at(0, 56*time.Second, map[int]time.Duration{1: 6 * time.Second, 2: 14 * time.Second}),
	} {
		if share := others(from, to); share != nil {
			t.Errorf("%s: %v", name, *share)
		}
	}
}
