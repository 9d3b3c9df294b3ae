package judge

import (
	"encoding/json"
	"io"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
)

// Verdicts of a report.
const (
	Kept   = "kept"
	Broken = "broken"
)

// Report is what a replay prints with -o json. The names are a contract:
// scripts parse them; fields may be added.
type Report struct {
	Scenario string `json:"scenario"`
	Broker   string `json:"broker"`
	// Without says that this was the opponent: a plain consumer group.
	Without bool   `json:"without_spillway,omitempty"`
	Verdict string `json:"verdict"`
	// Promises are those that were measured, Unmeasured the others.
	Promises   []Promise    `json:"promises"`
	Unmeasured []Unmeasured `json:"not_measured,omitempty"`

	Victims       Victims       `json:"victims"`
	Notifications Notifications `json:"notifications"`
	Screens       Screens       `json:"screens"`
	Flood         Flood         `json:"flood"`
	// Switch is nil where nothing was held.
	Switch *Switch  `json:"switch,omitempty"`
	Memory []Memory `json:"memory"`
	// Generator is what the replay itself took, clients and handlers included.
	Generator Memory       `json:"generator"`
	Ledger    tally.Ledger `json:"ledger"`
	// Reasons are why jobs were refused or their fate is unknown.
	Reasons map[string]int `json:"reasons,omitempty"`
	Run     Run            `json:"run"`
}

// Promise is one promise of the product with what was found.
type Promise struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Held   bool   `json:"held"`
	Figure string `json:"figure"`
}

// Unmeasured is a promise that this run says nothing about.
type Unmeasured struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Spread are exact quantiles, by nearest rank, in milliseconds.
type Spread struct {
	Jobs     int     `json:"jobs,omitempty"`
	Finished int     `json:"finished,omitempty"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
}

// NewSpread is that of single times.
func NewSpread(times []time.Duration) Spread {
	q := tally.QuantilesOf(times)
	return Spread{Jobs: len(times), P50: q.P50, P99: q.P99, Max: q.Max}
}

// Waits is the spread of a flow's waits.
func Waits(f tally.Flow) Spread {
	return Spread{Jobs: f.Sent, Finished: f.Finished, P50: f.Wait.P50, P99: f.Wait.P99, Max: f.Wait.Max}
}

// Victims is how long the tenants' jobs waited, from when they were due to
// their start. A job that never started waits until the end of the run.
type Victims struct {
	Quiet Spread `json:"quiet"`
	Flood Spread `json:"flood"`
	// Held is while the flooder was held, Drain from then until its backlog was
	// gone, or the time for that over; After is after it.
	Held  *Spread `json:"held,omitempty"`
	Drain *Spread `json:"drain,omitempty"`
	After *Spread `json:"after,omitempty"`
}

// Notifications is the way of the tenants' own notifications, from the
// handler's call to the frame at a client that reads; each spread counts them.
type Notifications struct {
	Quiet Spread  `json:"quiet"`
	Flood Spread  `json:"flood"`
	After *Spread `json:"after,omitempty"`
	// Expected is how many all readers should have got, of all sources; Missing
	// are those that they did not get, Again those that came twice.
	Expected int `json:"expected"`
	Missing  int `json:"missing"`
	Again    int `json:"again"`
	// Gaps is how often a reader was told that something may be missing, Cuts
	// how often it lost its connection.
	Gaps int `json:"gaps"`
	Cuts int `json:"cuts"`
	// Clients is how many there were, Stalled those of them that never read.
	Clients int `json:"clients"`
	Stalled int `json:"stalled"`
}

// Screens is what a customer sees: the time from when a tenant's job was due to
// its notification at a client that reads.
type Screens struct {
	Quiet Spread  `json:"quiet"`
	Flood Spread  `json:"flood"`
	After *Spread `json:"after,omitempty"`
}

// Flood is the source that flooded, as it was found.
type Flood struct {
	// Source is who was named, "" for nobody.
	Source   string `json:"source"`
	Accepted int    `json:"accepted"`
	Finished int    `json:"finished"`
	// NamedAfter runs from when its first job was due; nil: it was not named.
	NamedAfter *float64 `json:"named_after_ms,omitempty"`
	// Drained is how long its backlog took from the resume, or from the end of
	// the flood where nothing was held; nil: it was not gone in time.
	Drained *float64 `json:"drained_after_ms,omitempty"`

	// True is who it was. Only the judge knows.
	True string `json:"-"`
}

// Switch is what holding the flooder did.
type Switch struct {
	HoldMS float64 `json:"hold_ms"`
	// StartedAfterHold are its handlers that started after the answer and
	// before the resume, by the generator's clock.
	StartedAfterHold int      `json:"started_after_hold"`
	ResumeMS         *float64 `json:"resume_ms,omitempty"`
	// StartedInRamp are those that started within RampTime of the resume; nil where there was no such time.
	StartedInRamp *int `json:"started_in_ramp,omitempty"`
}

// Memory is one process's.
type Memory struct {
	Process string `json:"process"`
	Peak    int64  `json:"peak_rss_bytes"`
	// Ceiling is what the process may take; 0: nobody said.
	Ceiling int64 `json:"ceiling_bytes,omitempty"`
	// CPU is the time on all cores that it took, in seconds, since it started.
	CPU float64 `json:"cpu_s,omitempty"`
	// Restarts is how often it was started again.
	Restarts int `json:"restarts,omitempty"`
}

// Run is what the figures are worth nothing without.
type Run struct {
	Seed  uint64 `json:"seed"`
	Cores int    `json:"cores"`
	// Others is the part of all cores, in percent, that processes of others took while the flood ran; nil where that cannot be read.
	Others     *float64 `json:"others_cores_percent,omitempty"`
	Slots      int      `json:"slots"`
	Schedulers int      `json:"schedulers,omitempty"`
	QuietS     float64  `json:"quiet_s"`
	FloodS     float64  `json:"flood_s"`
	HeldS      float64  `json:"held_s"`
	TookS      float64  `json:"took_s"`
	// OutcomesTrimmed is that of `spillway load`.
	OutcomesTrimmed bool `json:"outcomes_trimmed,omitempty"`
}

// WriteJSON prints the report as one object.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}
