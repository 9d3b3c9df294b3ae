package shard

import (
	"cmp"
	"fmt"
	"slices"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/kafka"
)

// balancer deals shards to members in turn: shard s goes to the member at place
// s mod n. Members stand in the order of their replicas' names, so after a
// failover, when all of them come back under new member ids, every shard
// returns to the replica that still holds its state.
//
// The broker knows only partitions: each member gets the partitions of its
// shards in every topic. Only partition numbers count; the order in which the
// partitions are listed is a matter of luck.
type balancer struct {
	shards  int
	replica string
}

// ProtocolName implements kafkago.GroupBalancer. It carries P: members that do
// not agree on it cannot join the same group.
func (b balancer) ProtocolName() string { return fmt.Sprintf("spillway-shards-1-%d", b.shards) }

// UserData implements kafkago.GroupBalancer: the replica's name.
func (b balancer) UserData() ([]byte, error) { return []byte(b.replica), nil }

// AssignGroups implements kafkago.GroupBalancer; the group's leader calls it.
func (b balancer) AssignGroups(members []kafkago.GroupMember, partitions []kafkago.Partition) kafkago.GroupMemberAssignments {
	place := slices.Clone(members)
	slices.SortFunc(place, func(x, y kafkago.GroupMember) int {
		return cmp.Or(cmp.Compare(string(x.UserData), string(y.UserData)), cmp.Compare(x.ID, y.ID))
	})
	assigned := make(kafkago.GroupMemberAssignments, len(place))
	for _, m := range place {
		assigned[m.ID] = make(map[string][]int)
	}
	for _, p := range partitions {
		topics := assigned[place[kafka.ShardOf(p.ID, b.shards)%len(place)].ID]
		topics[p.Topic] = append(topics[p.Topic], p.ID)
	}
	return assigned
}

// shardsOf reads an assignment as the sorted set of its shards.
func shardsOf(assignments map[string][]kafkago.PartitionAssignment, shards int) []int {
	owned := make([]bool, shards)
	for _, partitions := range assignments {
		for _, p := range partitions {
			owned[kafka.ShardOf(p.ID, shards)] = true
		}
	}
	list := make([]int, 0, shards)
	for s, ours := range owned {
		if ours {
			list = append(list, s)
		}
	}
	return list
}
