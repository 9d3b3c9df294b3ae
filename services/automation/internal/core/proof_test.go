package core

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestProve(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	long := start.Add(-time.Minute) // an established view
	self := Replica{Name: "self", Service: Automation, Applied: 10}
	replica := func(name string, s Service, applied int64) Replica {
		return Replica{Name: name, Service: s, Applied: applied}
	}
	for _, c := range []struct {
		name   string
		verb   Verb
		after  Duration
		view   View
		done   bool
		acks   int
		silent []string
		reason Reason
	}{
		{name: "nobody lives, own beat not seen", view: View{Since: long}},
		{name: "nobody lives", view: View{Since: long, Replicas: []Replica{self}}, done: true},
		{name: "all answered", view: View{Since: long, Replicas: []Replica{self, replica("s", Scheduler, 10), replica("e", Enqueue, 11)}}, done: true, acks: 2},
		{name: "all answered, own beat not seen", view: View{Since: long, Replicas: []Replica{replica("s", Scheduler, 10)}}},
		{name: "a scheduler has not", view: View{Since: long, Replicas: []Replica{self, replica("s", Scheduler, 9)}}},
		{name: "a scheduler has not, late", after: GrantsEnd, view: View{Since: long, Replicas: []Replica{self, replica("s", Scheduler, 9)}}, done: true, silent: []string{"s"}},
		{name: "an enqueue has not", view: View{Since: long, Replicas: []Replica{self, replica("e", Enqueue, 9)}}},
		{name: "an enqueue has not, late", after: GrantsEnd, view: View{Since: long, Replicas: []Replica{self, replica("e", Enqueue, 9)}}, done: true, silent: []string{"e"}},
		{name: "an enqueue has not, block, late", verb: Block, after: GrantsEnd, view: View{Since: long, Replicas: []Replica{self, replica("e", Enqueue, 9)}}, reason: Unconfirmed},
		{name: "a scheduler has not, block, late", verb: Block, after: GrantsEnd, view: View{Since: long, Replicas: []Replica{self, replica("s", Scheduler, 9)}}, done: true, silent: []string{"s"}},
		{name: "another automation replica does not count", view: View{Since: long, Replicas: []Replica{self, replica("a", Automation, 9)}}, done: true},
		{name: "young view", view: View{Since: start.Add(-settled + 1), Replicas: []Replica{self, replica("s", Scheduler, 10)}}},
		{name: "young view, late", after: GrantsEnd, view: View{Since: start.Add(-settled + 1), Replicas: []Replica{self, replica("s", Scheduler, 10)}}, done: true, acks: 1},
		{name: "broken view", view: View{Since: long, Broken: true, Replicas: []Replica{self, replica("s", Scheduler, 10)}}},
		{name: "broken view, late", after: GrantsEnd, view: View{Broken: true}, done: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.view.Self = "self"
			if c.verb == 0 {
				c.verb = Hold
			}
			p, done, again, refusal := NewLedger(10, c.verb, start).Prove(start.Add(c.after), c.view)
			if c.reason != "" {
				if refusal == nil || refusal.Reason != c.reason || refusal.Metadata["replicas"] == "" {
					t.Errorf("got %v", refusal)
				}
				return
			}
			if done != c.done || refusal != nil || len(p.Acks) != c.acks || !slices.Equal(p.Silent, c.silent) {
				t.Errorf("got %+v, %v, %v", p, done, refusal)
			}
			if !done && !again.Equal(start.Add(GrantsEnd)) {
				t.Errorf("again at %v", again)
			}
		})
	}
}

// TestVanishedIsWaitedFor: a scheduler that was live when the proof began and then fell silent may still be about to grant.
func TestVanishedIsWaitedFor(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	l := NewLedger(10, Hold, start)
	v := View{Self: "self", Since: start.Add(-time.Minute), Replicas: []Replica{{Name: "self", Service: Automation, Applied: 10}, {Name: "s", Service: Scheduler, Applied: 9}}}
	if _, done, _, _ := l.Prove(start, v); done {
		t.Fatal("proven without it")
	}
	v.Replicas = v.Replicas[:1]
	if _, done, _, _ := l.Prove(start.Add(time.Millisecond), v); done {
		t.Error("proven because it vanished")
	}
	if p, done, _, _ := l.Prove(start.Add(GrantsEnd), v); !done || !slices.Equal(p.Silent, []string{"s"}) {
		t.Errorf("got %+v, %v", p, done)
	}
}

// TestRegistryWaitsForOtherReplicas: a change of the registry is found at every automation replica by whoever has the answer. Without it
// a client that went on to another replica was told UNKNOWN_SOURCE.
func TestRegistryWaitsForOtherReplicas(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	l := NewLedger(10, 0, start)
	v := View{Self: "self", Since: start.Add(-time.Minute), Replicas: []Replica{{Name: "self", Service: Automation, Applied: 10}, {Name: "a", Service: Automation, Applied: 9}}}
	if _, done, _, _ := l.Prove(start, v); done {
		t.Error("done without the other replica")
	}
	v.Replicas[1].Applied = 10
	if p, done, _, _ := l.Prove(start, v); !done || len(p.Acks) > 0 {
		t.Errorf("got %+v, %v", p, done)
	}
}

// TestNeverProvenTooEarly: in any sequence of views, before GrantsEnd nothing is called proven while a scheduler that was ever seen has not
// acknowledged; from then on everything is, but a block that enqueue does not know of.
func TestNeverProvenTooEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := time.Unix(1_700_000_000, 0)
		verb := rapid.SampledFrom([]Verb{Hold, Block, Resume}).Draw(t, "verb")
		l := NewLedger(10, verb, start)
		best := map[string]int64{}
		services := map[string]Service{"s0": Scheduler, "s1": Scheduler, "e0": Enqueue, "self": Automation}
		now := start
		for range rapid.IntRange(1, 12).Draw(t, "views") {
			now = now.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "ms")) * time.Millisecond)
			v := View{Self: "self", Since: start.Add(-time.Minute)}
			for _, name := range []string{"s0", "s1", "e0", "self"} {
				if rapid.Bool().Draw(t, name) {
					applied := rapid.Int64Range(8, 11).Draw(t, name+" at")
					v.Replicas = append(v.Replicas, Replica{Name: name, Service: services[name], Applied: applied})
					best[name] = max(best[name], applied)
				}
			}
			p, done, _, refusal := l.Prove(now, v)
			late := now.Sub(start) >= GrantsEnd
			if late != (done || refusal != nil) && late {
				t.Fatal("not decided in time")
			}
			if refusal != nil && (verb != Block || !late) {
				t.Fatalf("refused: %v", refusal)
			}
			if done && !late {
				for name, applied := range best {
					if applied < 10 && services[name] != Automation {
						t.Fatalf("proven while %s is at %d", name, applied)
					}
				}
				if best["self"] < 10 {
					t.Fatal("proven without seeing everybody")
				}
			}
			if done || refusal != nil {
				for _, a := range p.Acks {
					if best[a.Replica] < 10 {
						t.Fatalf("%s has not acknowledged", a.Replica)
					}
				}
				return
			}
		}
	})
}
