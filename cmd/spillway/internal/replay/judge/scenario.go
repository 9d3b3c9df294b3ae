package judge

import (
	"fmt"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
)

// Avochato is the name of the one scenario: the outage of November 2020 that
// this product was made after.
const Avochato = "avochato-2020"

// The traffic of the scenario. The rates are those of benchmark B1
// (docs/promises.md), so that figures compare.
const (
	// Tenants is how many there are, each with a source of its own at VictimRate jobs/s.
	Tenants    = 20
	VictimRate = 10
	// Flooder is the source that nobody watches. Only the traffic knows it: who
	// is held is whom the product names.
	Flooder   = "conversation-management"
	FloodRate = 10_000
	// Type is that of all jobs: one pool, Slots slots, Work for each job.
	Type  = "conversation"
	Slots = 64
	Work  = 20 * time.Millisecond
	// Clients is how many websocket clients each tenant has; the first Readers
	// of them read, the others never do once they are connected.
	Clients = 2
	Readers = 1
	// TextBytes pads a notification to the size of a message with a name and a
	// few lines of text.
	TextBytes = 400
	// Ramp is the rate at which the flooder is asked to come back, which it is for RampTime: then the product doubles it.
	Ramp     = 2_000
	RampTime = 10 * time.Second
)

// Times are the parts of a run.
type Times struct {
	// Quiet is how long the tenants run alone, Flood how long the flood runs
	// before somebody acts, Held how long its source then stays held. The flood
	// goes on arriving while it is held.
	Quiet, Flood, Held time.Duration
	// Drain is how long the backlog may take after that, After how long the
	// tenants run on when it is gone.
	Drain, After time.Duration
}

// Check says what is wrong with t.
func (t Times) Check() error {
	for _, d := range []struct {
		name      string
		is        time.Duration
		low, high time.Duration
	}{
		{"quiet", t.Quiet, time.Second, 10 * time.Minute}, {"flood", t.Flood, time.Second, 5 * time.Minute},
		{"held", t.Held, time.Second, 5 * time.Minute}, {"drain", t.Drain, 0, time.Hour}, {"after", t.After, time.Second, 10 * time.Minute},
	} {
		if d.is < d.low || d.is > d.high {
			return fmt.Errorf("--%s: want %v to %v", d.name, d.low, d.high)
		}
	}
	return nil
}

// Plan is the traffic: the tenants' flows first, the flooder's last.
func Plan(seed uint64, t Times) plan.Run {
	var flows []plan.Flow
	for i := range Tenants {
		flows = append(flows, plan.Flow{
			Name: fmt.Sprintf("tenant-%02d", i+1), Rate: VictimRate, Work: Work, Tenants: 1, FirstTenant: i, Type: Type, Payload: plan.DefaultPayload,
		})
	}
	flows = append(flows, plan.Flow{Name: Flooder, Rate: FloodRate, Work: Work, Tenants: Tenants, Type: Type, Payload: plan.DefaultPayload})
	run := plan.NewRun(seed, flows, t.Quiet, t.Flood+t.Held+t.Drain+t.After)
	flood := &run.Schedules[Tenants]
	flood.Start, flood.End = t.Quiet, t.Quiet+t.Flood+t.Held
	return run
}

// Channel is where notifications of a tenant go.
func Channel(tenant string) string { return "tenant:" + tenant }
