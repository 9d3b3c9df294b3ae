package kafka

import "slices"

// ShardOf is the one rule of ownership: partition q of any scheduler topic
// belongs to shard q mod P.
func ShardOf(partition, shards int) int { return partition % shards }

// Owned returns the partitions, of a topic that has n of them, that belong to
// the shard: shard, shard+P, shard+2P, … below n.
func Owned(shard, shards, n int) []int {
	owned := make([]int, 0, (n+shards-1)/shards)
	for q := shard; q < n; q += shards {
		owned = append(owned, q)
	}
	return owned
}

// Topics names the topics of an installation. Prefix ends with its separator
// ("spillway.").
type Topics struct{ Prefix string }

// DefaultPrefix is the prefix of an installation that chose none.
const DefaultPrefix = "spillway."

var (
	priorities = []string{"critical", "high", "default", "low", "bulk"}
	tiers      = []string{"15s", "1m", "4m", "16m", "1h", "4h", "16h"}
)

// Priorities returns the names of the priorities, the highest first.
func (t Topics) Priorities() []string { return slices.Clone(priorities) }

// Jobs is the topic of a priority: critical, high, default, low or bulk.
func (t Topics) Jobs(priority string) string { return t.Prefix + "jobs." + priority }

// Spill is the topic of the lanes, P × L partitions.
func (t Topics) Spill() string { return t.Prefix + "spill" }

// Tiers returns the names of the delay tiers, the shortest first.
func (t Topics) Tiers() []string { return slices.Clone(tiers) }

// Delay is the topic of a delay tier.
func (t Topics) Delay(tier string) string { return t.Prefix + "delay." + tier }

// Outcomes is the topic of events: fences, attempts, settlements.
func (t Topics) Outcomes() string { return t.Prefix + "outcomes" }

// Dead is the topic of dead letters.
func (t Topics) Dead() string { return t.Prefix + "dead" }

// Control is the control log, one partition.
func (t Topics) Control() string { return t.Prefix + "control" }

// Status is the topic of beats and summaries, one partition.
func (t Topics) Status() string { return t.Prefix + "status" }

// Notifications is the topic of notifications.
func (t Topics) Notifications() string { return t.Prefix + "notifications" }

// Group is the schedulers' consumer group.
func (t Topics) Group() string { return t.Prefix + "scheduler" }

// Scheduled returns the topics whose partitions the schedulers own by shard
// and hold commits in: priorities, spill, delays, outcomes, dead letters.
func (t Topics) Scheduled() []string {
	var names []string
	for _, p := range priorities {
		names = append(names, t.Jobs(p))
	}
	names = append(names, t.Spill())
	for _, tier := range tiers {
		names = append(names, t.Delay(tier))
	}
	return append(names, t.Outcomes(), t.Dead())
}

// All returns every topic of the installation.
func (t Topics) All() []string {
	return append(t.Scheduled(), t.Control(), t.Status(), t.Notifications())
}
