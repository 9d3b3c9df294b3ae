package shard

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/spillway/spillway/pkg/kafka"
)

func TestDealsByNameAtFirst(t *testing.T) {
	got := deal([]claim{{Replica: "b"}, {Replica: "a"}, {Replica: "c"}}, 8)
	if want := [][]int{{1, 4, 7}, {0, 3, 6}, {2, 5}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A replica that is back under its name after everybody has moved up gets what
// the others must give, not what it had.
func TestDealMovesAsLittleAsItCan(t *testing.T) {
	for _, c := range []struct {
		what   string
		claims []claim
		want   [][]int
	}{
		{"one joins", []claim{{"a", 1, []int{0, 1, 2, 3}}, {"b", 0, nil}}, [][]int{{0, 2}, {1, 3}}},
		{"one leaves", []claim{{"a", 2, []int{0, 2}}, {"c", 2, []int{5}}}, [][]int{{0, 2, 4}, {1, 3, 5}}},
		{"one leaves, the last place", []claim{{"b", 2, []int{1, 4, 7}}, {"c", 2, []int{2, 5}}}, [][]int{{0, 1, 4, 7}, {2, 3, 5, 6}}},
		{"who had it last is right", []claim{{"a", 3, []int{0, 1}}, {"b", 4, []int{0, 1, 2, 3}}}, [][]int{{0, 2}, {1, 3}}},
		{"a claim of another installation", []claim{{"a", 3, []int{-1, 99}}}, [][]int{{0, 1, 2, 3}}},
	} {
		shards := 0
		for _, w := range c.want {
			shards += len(w)
		}
		if got := deal(c.claims, shards); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

func TestDealProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, 40).Draw(t, "shards")
		claims := make([]claim, rapid.IntRange(1, 9).Draw(t, "members"))
		for i := range claims {
			claims[i] = claim{
				Replica:    fmt.Sprint(rapid.IntRange(0, 20).Draw(t, "name")),
				Generation: rapid.Int32Range(0, 3).Draw(t, "generation"),
				Shards:     rapid.SliceOfDistinct(rapid.IntRange(0, shards-1), rapid.ID).Draw(t, "had"),
			}
		}
		dealt := deal(claims, shards)
		var all []int
		least, most := shards, 0
		for _, d := range dealt {
			all = append(all, d...)
			least, most = min(least, len(d)), max(most, len(d))
			if !slices.IsSorted(d) {
				t.Fatalf("unsorted: %v", dealt)
			}
		}
		slices.Sort(all)
		if len(all) != shards || len(slices.Compact(all)) != shards || most-least > 1 {
			t.Fatalf("%d shards dealt as %v", shards, dealt)
		}
		// Dealt again, nothing moves; without one of them, nobody gives anything away.
		for i := range claims {
			claims[i].Generation, claims[i].Shards = 9, dealt[i]
		}
		if again := deal(claims, shards); !reflect.DeepEqual(again, dealt) {
			t.Fatalf("dealt %v, and then %v", dealt, again)
		}
		if len(claims) > 1 {
			gone := rapid.IntRange(0, len(claims)-1).Draw(t, "gone")
			for i, d := range deal(slices.Delete(slices.Clone(claims), gone, gone+1), shards) {
				before := slices.Delete(slices.Clone(dealt), gone, gone+1)[i]
				for _, s := range before {
					if !slices.Contains(d, s) {
						t.Fatalf("without member %d of %v another lost shard %d: %v", gone, dealt, s, d)
					}
				}
			}
		}
		// One more, and no more moves than its part.
		more := deal(append(slices.Clone(claims), claim{Replica: "new"}), shards)
		moved := 0
		for i := range claims {
			for _, s := range dealt[i] {
				if !slices.Contains(more[i], s) {
					moved++
				}
			}
		}
		if moved != len(more[len(claims)]) {
			t.Fatalf("%d moved for a part of %v: %v → %v", moved, more[len(claims)], dealt, more)
		}
	})
}

func TestAssignmentsReachTheirMember(t *testing.T) {
	members := []kafka.Applicant{
		{ID: "m2", UserData: claim{Replica: "b", Generation: 7, Shards: []int{1}}.encode()},
		{ID: "m1", UserData: []byte("a")}, // no claim: a name
	}
	got := assign(members, 2, map[string]int{"jobs": 2, "spill": 6})
	for id, want := range map[string]map[string][]int{
		"m1": {"jobs": {0}, "spill": {0, 2, 4}},
		"m2": {"jobs": {1}, "spill": {1, 3, 5}},
	} {
		if !reflect.DeepEqual(got[id].Partitions, want) {
			t.Errorf("%s: %v", id, got[id].Partitions)
		}
		if s := decodeShare(got[id].UserData); !reflect.DeepEqual(s.Replicas, []string{"a", "b"}) {
			t.Errorf("%s is told of %v", id, s.Replicas)
		}
		if s := shardsOf(got[id].Partitions, 2); len(s) != 1 {
			t.Errorf("%s owns %v", id, s)
		}
	}
}
