package lane

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestTableAgainstAMap checks that no two owners ever share a lane, that an owner keeps its lane until it is freed, and that the common
// lane is the answer exactly when no other is free.
func TestTableAgainstAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lanes := rapid.IntRange(1, 5).Draw(t, "lanes")
		table, model := New(lanes), map[Key]int{}
		now := time.Unix(0, 0)
		owner := rapid.Custom(func(t *rapid.T) Key {
			return Key{rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "source"), rapid.SampledFrom([]string{"x", "y"}).Draw(t, "type")}
		})
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				key := owner.Draw(t, "key")
				number, fresh := table.Take(key)
				was, had := model[key]
				switch {
				case had && (number != was || fresh):
					t.Fatalf("%v had lane %d, got %d (fresh %v)", key, was, number, fresh)
				case !had && number == Common && len(model) < lanes-1:
					t.Fatalf("%v got the common lane with %d of %d taken", key, len(model), lanes-1)
				case !had && number != Common:
					if !fresh {
						t.Fatalf("%v got lane %d, not as fresh", key, number)
					}
					for other, n := range model {
						if n == number {
							t.Fatalf("lane %d belongs to %v and %v", number, other, key)
						}
					}
					model[key] = number
				}
			},
			"drain": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "s")) * time.Second)
				for key, number := range model {
					if table.Drained(now, number, rapid.Bool().Draw(t, "empty")) {
						table.Free(number)
						delete(model, key)
					}
				}
			},
			"": func(t *rapid.T) {
				taken, free := table.Count()
				if taken != len(model) || taken+free != lanes-1 {
					t.Fatalf("%d taken, %d free; want %d of %d", taken, free, len(model), lanes-1)
				}
				for key, number := range model {
					if got, ok := table.Owner(number); !ok || got != key {
						t.Fatalf("lane %d belongs to %v, want %v", number, got, key)
					}
				}
			},
		})
	})
}

func TestDrainedLaneLingersBeforeItIsFreed(t *testing.T) {
	table, start := New(2), time.Unix(100, 0)
	number, _ := table.Take(Key{"s", "t"})
	if table.Drained(start, number, true) || table.Drained(start.Add(Linger-1), number, true) {
		t.Fatal("freed too early")
	}
	if _, fresh := table.Take(Key{"s", "t"}); fresh {
		t.Fatal("taken twice")
	}
	if table.Drained(start.Add(Linger), number, true) {
		t.Fatal("a lane that was written to again is not drained")
	}
	if !table.Drained(start.Add(2*Linger), number, true) {
		t.Fatal("not freed after lingering")
	}
}

func TestRestoreRefusesASecondLane(t *testing.T) {
	table := New(4)
	if !table.Restore(2, Key{"s", "t"}) || table.Restore(3, Key{"s", "t"}) || table.Restore(2, Key{"o", "t"}) || table.Restore(Common, Key{"o", "t"}) {
		t.Fatal("Restore")
	}
	if number, fresh := table.Take(Key{"s", "t"}); number != 2 || fresh {
		t.Fatalf("got %d, %v", number, fresh)
	}
}
