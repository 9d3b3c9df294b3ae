package shard

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spillway/spillway/pkg/kafka"
)

// rule names the way in which the group's leader assigns. It carries P: members
// that do not agree on it cannot join the same group.
func rule(shards int) string { return fmt.Sprintf("spillway-shards-1-%d", shards) }

// claim is what a member says of itself when it joins: its replica's name, and
// the shards that it had in the last generation it was part of.
type claim struct {
	Replica    string `json:"replica"`
	Generation int32  `json:"generation,omitempty"`
	Shards     []int  `json:"shards,omitempty"`
}

func (c claim) encode() []byte {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // a string and numbers: it cannot fail
	}
	return text
}

// decodeClaim takes what is no claim for a name.
func decodeClaim(text []byte) claim {
	var c claim
	if json.Unmarshal(text, &c) != nil {
		return claim{Replica: string(text)}
	}
	return c
}

// share is what the leader tells each member beside its partitions.
type share struct {
	// Replicas are the names of all members.
	Replicas []string `json:"replicas"`
}

func (s share) encode() []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings: it cannot fail
	}
	return text
}

// decodeShare takes what is none for an empty one: only waiting for others
// depends on it.
func decodeShare(text []byte) share {
	var s share
	if json.Unmarshal(text, &s) != nil {
		return share{}
	}
	return s
}

// deal gives each shard to a member: as evenly as can be, and as few away from
// the member that had them as that allows, since every move costs a handover. It
// returns the shards of each claim, ascending.
//
// Of the shards that nobody had, or that a member must give up, shard s goes to
// the member at place s mod n in the order of the replicas' names if that is
// possible: a group that forms anew is dealt like any other of those names.
func deal(claims []claim, shards int) [][]int {
	n := len(claims)
	dealt := make([][]int, n)
	if n == 0 {
		return dealt
	}
	place := make([]int, n) // order of names → index in claims
	for i := range place {
		place[i] = i
	}
	slices.SortStableFunc(place, func(x, y int) int { return cmp.Compare(claims[x].Replica, claims[y].Replica) })

	// Two may claim the same: who had it last is right.
	had := make([]int, shards) // shard → index in claims, -1: nobody
	for s := range had {
		had[s] = -1
	}
	for _, i := range place {
		for _, s := range claims[i].Shards {
			if s >= 0 && s < shards && (had[s] < 0 || claims[i].Generation > claims[had[s]].Generation) {
				had[s] = i
			}
		}
	}
	claimed := make([]int, n)
	for _, i := range had {
		if i >= 0 {
			claimed[i]++
		}
	}
	// shards mod n members have one more: first those that had as many.
	quota := make([]int, n)
	more := shards % n
	for _, enough := range []bool{true, false} {
		for _, i := range place {
			if (claimed[i] > shards/n) == enough {
				quota[i] = shards / n
				if more > 0 {
					quota[i]++
					more--
				}
			}
		}
	}
	given := make([]bool, shards)
	give := func(i, s int) {
		if !given[s] && len(dealt[i]) < quota[i] {
			dealt[i], given[s] = append(dealt[i], s), true
		}
	}
	for s := range shards { // what stays, and is where it would be dealt
		if i := place[s%n]; had[s] == i {
			give(i, s)
		}
	}
	for s := range shards { // what stays
		if had[s] >= 0 {
			give(had[s], s)
		}
	}
	for s := range shards {
		give(place[s%n], s)
	}
	for s := range shards {
		for _, i := range place {
			give(i, s)
		}
	}
	for i := range dealt {
		slices.Sort(dealt[i])
	}
	return dealt
}

// assign is the leader's work: partitions of every topic follow their shard.
func assign(members []kafka.Applicant, shards int, counts map[string]int) map[string]kafka.Assignment {
	members = slices.Clone(members)
	slices.SortFunc(members, func(x, y kafka.Applicant) int { return cmp.Compare(x.ID, y.ID) })
	claims := make([]claim, len(members))
	all := share{Replicas: make([]string, len(members))}
	for i, m := range members {
		claims[i] = decodeClaim(m.UserData)
		all.Replicas[i] = claims[i].Replica
	}
	slices.Sort(all.Replicas)
	told := all.encode()
	assigned := make(map[string]kafka.Assignment, len(members))
	for i, dealt := range deal(claims, shards) {
		a := kafka.Assignment{Partitions: make(map[string][]int, len(counts)), UserData: told}
		for topic, n := range counts {
			for _, s := range dealt {
				a.Partitions[topic] = append(a.Partitions[topic], kafka.Owned(s, shards, n)...)
			}
			slices.Sort(a.Partitions[topic])
		}
		assigned[members[i].ID] = a
	}
	return assigned
}

// shardsOf reads an assignment as the sorted set of its shards.
func shardsOf(partitions map[string][]int, shards int) []int {
	owned := make([]bool, shards)
	for _, list := range partitions {
		for _, p := range list {
			owned[kafka.ShardOf(p, shards)] = true
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
