package rpc

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

func newGate(t testing.TB) *gate {
	v, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	return &gate{validator: v}
}

// TestRefusalCostsLittle: what it costs to refuse a message does not grow with the number of its violations. A frame of 80,000 invalid tokens once
// cost the scheduler 100 MiB.
func TestRefusalCostsLittle(t *testing.T) {
	tokens := make([]*jobv1.Token, 80_000)
	for i := range tokens {
		tokens[i] = &jobv1.Token{Shard: -1 << 31, Epoch: -1 << 63}
	}
	labels := map[string]string{strings.Repeat("\n", 100_000): "v"}
	for i := range 20_000 {
		labels[fmt.Sprint("\n", i)] = "\n"
	}
	g := newGate(t)
	for name, c := range map[string]struct {
		m   proto.Message
		all bool
	}{
		"frame":   {&schedulerv1.WorkRequest{Returns: []*schedulerv1.Return{{Tokens: tokens}}}, false},
		"labels":  {&enqueuev1.EnqueueRequest{Job: &jobv1.JobSpec{Labels: labels}}, true},
		"one key": {&enqueuev1.EnqueueRequest{Job: &jobv1.JobSpec{Labels: map[string]string{strings.Repeat("\n", 100_000): "v"}}}, true},
		"types":   {&automationv1.RegisterSourceRequest{Source: &automationv1.Source{Types: make([]string, 80_000)}}, true},
	} {
		g.validate(c.m, c.all) // compiles the rules
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := g.validate(c.m, c.all)
		runtime.ReadMemStats(&after)
		e := FromError(err)
		if e == nil || e.Reason != ReasonInvalid || len(e.Violations) == 0 {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if cost := after.TotalAlloc - before.TotalAlloc; cost > uint64(proto.Size(c.m))*2+1<<20 {
			t.Errorf("%s: a message of %d bytes cost %d", name, proto.Size(c.m), cost)
		}
		if n := len(e.Message); n > maxViolations*(maxField+10) {
			t.Errorf("%s: the message is %d bytes long", name, n)
		}
	}
}

// TestRefusalNamesSome: a request with many violations is told of the first ones and how many there are.
func TestRefusalNamesSome(t *testing.T) {
	e := FromError(newGate(t).validate(&automationv1.RegisterSourceRequest{Source: &automationv1.Source{Name: "a", Types: make([]string, 1000)}}, true))
	if e == nil || len(e.Violations) != maxViolations || !strings.Contains(e.Message, " more") {
		t.Errorf("%+v", e)
	}
}
