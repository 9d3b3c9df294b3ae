package census

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/offsets"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// Totals are distinct jobs by place. The names are a contract: scripts parse
// them.
type Totals struct {
	// Accepted is every job that the logs know of, from its record or from its
	// outcome.
	Accepted   int64 `json:"accepted"`
	Succeeded  int64 `json:"succeeded"`
	Dead       int64 `json:"dead"`
	Expired    int64 `json:"expired"`
	Purged     int64 `json:"purged"`
	Cancelled  int64 `json:"cancelled"`
	Superseded int64 `json:"superseded"`
	// Waiting, Delayed and Spilled are unsettled jobs by the topic that is
	// their home.
	Waiting int64 `json:"waiting"`
	Delayed int64 `json:"delayed"`
	Spilled int64 `json:"spilled"`
	// Leased are those of them that run, as the schedulers last said in the
	// status log; they are counted only here.
	Leased int64 `json:"leased"`
	// Parked are records that no scheduler of this release could read, of a
	// later version for instance, and that are kept among the dead letters.
	// Nobody can tell what jobs they are, so they are not in Accepted.
	Parked int64 `json:"parked"`
	// Difference is Accepted less everything else: jobs that are complete and
	// have neither an outcome nor another home; and records that nobody could
	// read, are complete and were not parked. Anything but 0 is a loss.
	Difference int64 `json:"difference"`
}

// Totals adds up what was read. leased is what Leased returned, or 0.
func (c *Census) Totals(leased int64) Totals {
	var n [places]int64
	for id, place := range c.jobs {
		if place == Vanished && c.settledBefore(id) {
			continue // its owner has counted it
		}
		n[place]++
	}
	if c.cfg.Only == nil && c.cfg.From.IsZero() {
		// Outcomes that were trimmed are known only from their owner's counts.
		for _, e := range c.events {
			if !e.trimmed {
				continue
			}
			for place := Succeeded; place < places; place++ {
				n[place] += max(0, e.counted[place]-e.below[place])
			}
		}
	}
	t := Totals{
		Succeeded: n[Succeeded], Dead: n[Dead], Expired: n[Expired], Purged: n[Purged], Cancelled: n[Cancelled], Superseded: n[Superseded],
		Waiting: n[Waiting], Delayed: n[Delayed], Spilled: n[Spilled], Difference: n[Vanished],
	}
	for _, count := range n {
		t.Accepted += count
	}
	t.Parked = int64(len(c.parked))
	for from := range c.passed {
		if !c.parked[from] && c.cfg.Only == nil && c.cfg.From.IsZero() {
			t.Difference++
		}
	}
	// A running job keeps its home, mostly a priority topic.
	for _, home := range []*int64{&t.Waiting, &t.Spilled} {
		moved := min(leased, *home)
		*home -= moved
		t.Leased += moved
		leased -= moved
	}
	return t
}

// byPlace lists an owner's running account by place.
func byPlace(c offsets.Counts) (counts [places]int64) {
	counts[Succeeded], counts[Dead], counts[Expired] = c.Succeeded, c.Dead, c.Expired
	counts[Purged], counts[Cancelled], counts[Superseded] = c.Purged, c.Cancelled, c.Superseded
	return counts
}

// statusAge is how far back the status log is read for what runs: schedulers
// say it every second at least.
const statusAge = 3 * time.Second

// Leased is how many jobs run, as each scheduler said last in the status log.
func Leased(ctx context.Context, client *kafka.Client, topics kafka.Topics) (int64, error) {
	from, err := client.OffsetAt(ctx, topics.Status(), 0, time.Now().Add(-statusAge))
	if err != nil {
		return 0, fmt.Errorf("count leases: %w", err)
	}
	ends, err := client.Ends(ctx, topics.Status(), []int{0})
	if err != nil {
		return 0, fmt.Errorf("count leases: %w", err)
	}
	running := make(map[string]int64)
	err = read(ctx, client, topics.Status(), 0, from, ends[0].Next, func(m *kafka.Message) {
		var status logv1.Status
		if proto.Unmarshal(m.Value, &status) != nil || len(status.GetSummaries()) == 0 {
			return
		}
		sum := int64(0)
		for _, pool := range status.GetSummaries() {
			for _, p := range pool.GetPriorities() {
				sum += int64(p.GetRunning())
			}
		}
		running[status.GetReplica()] = sum
	})
	if err != nil {
		return 0, fmt.Errorf("count leases: %w", err)
	}
	total := int64(0)
	for _, n := range running {
		total += n
	}
	return total, nil
}
