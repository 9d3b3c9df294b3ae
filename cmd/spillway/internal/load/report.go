package load

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
)

// Report is what a run prints with -o json. The names are a contract: scripts
// parse them.
type Report struct {
	// Flows and Groups are of the sending time; the quiet phase is apart.
	tally.Phase
	Quiet   tally.Phase  `json:"quiet"`
	Switch  *Switch      `json:"switch,omitempty"`
	Workers []int        `json:"workers"` // pids of worker processes
	Ledger  tally.Ledger `json:"ledger"`
	// Reasons are why jobs were refused or their fate is unknown.
	Reasons map[string]int `json:"reasons,omitempty"`
	// Processes are the services' and the broker's, where they could be
	// measured.
	Processes []ProcessUse `json:"processes,omitempty"`
	Run       Conditions   `json:"run"`
}

// ProcessUse is what a process used from the first job to the end of the drain.
type ProcessUse struct {
	Name string `json:"name"`
	// CPUSeconds is on all cores. A process that was started again counts from
	// its last start.
	CPUSeconds   float64 `json:"cpu_s"`
	PeakRSSBytes int64   `json:"peak_rss_bytes"`
	Restarts     int     `json:"restarts"`
}

// Conditions are what a figure is worth nothing without.
type Conditions struct {
	Seed       uint64  `json:"seed"`
	Broker     string  `json:"broker"`
	Schedulers int     `json:"schedulers"`
	Enqueues   int     `json:"enqueues"`
	Cores      int     `json:"cores"`
	Slots      int     `json:"slots"`
	QuietS     float64 `json:"quiet_s"`
	SendingS   float64 `json:"sending_s"`
	DrainS     float64 `json:"drain_s"` // how long it took
	// Drained is false if jobs were left when the time to drain was over.
	Drained bool `json:"drained"`
	// OutcomesTrimmed tells that the outcomes log no longer held all outcomes
	// of the run; finished jobs without one then count as succeeded.
	OutcomesTrimmed bool `json:"outcomes_trimmed,omitempty"`
}

// WriteJSON prints the report as one object.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// WriteTable prints the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tsent\taccepted\trefused\tunknown\tstarted\tfinished\twait p50\tp99\tmax\taccept p99\t")
	if len(r.Quiet.Flows) > 0 {
		writePhase(t, "quiet", r.Quiet)
		writePhase(t, "then", r.Phase)
	} else {
		writePhase(t, "", r.Phase)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if s := r.Switch; s != nil {
		fmt.Fprintf(w, "\nhold answered after %s, %d started after that, resume after %s\n", ms(s.HoldMS), s.StartedAfterHold, ms(s.ResumeMS))
	}
	l := r.Ledger
	fmt.Fprintf(w, "\n%d sent = %d accepted + %d refused + %d unknown\n", l.Sent, l.Accepted, l.Refused, l.Unknown)
	fmt.Fprintf(w, "%d succeeded, %d dead, %d expired, %d remaining\n", l.Succeeded, l.Dead, l.Expired, l.Remaining)
	fmt.Fprintf(w, "%d lost, %d ran twice, %d ran although refused\n", l.Lost, l.Duplicates, l.Unexpected)
	for reason, n := range r.Reasons {
		fmt.Fprintf(w, "  %d not accepted: %s\n", n, reason)
	}
	if len(r.Processes) > 0 {
		fmt.Fprintln(w)
		t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "process\tCPU\tpeak memory\trestarts\t")
		for _, p := range r.Processes {
			fmt.Fprintf(t, "%s\t%.1f s\t%d MiB\t%d\t\n", p.Name, p.CPUSeconds, p.PeakRSSBytes>>20, p.Restarts)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	c := r.Run
	_, err := fmt.Fprintf(w, "\n%s broker, %d scheduler(s), %d slots, %d cores, seed %d; drained in %.1f s: %v\n",
		c.Broker, c.Schedulers, c.Slots, c.Cores, c.Seed, c.DrainS, c.Drained)
	return err
}

// maxRows is up to how many flows a table shows singly; above it, only groups
// and what is in none.
const maxRows = 12

func writePhase(w io.Writer, title string, p tally.Phase) {
	if title != "" {
		fmt.Fprintf(w, "%s:\t\t\t\t\t\t\t\t\t\t\t\n", title)
	}
	row := func(name string, f tally.Flow) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t\n", name, f.Sent, f.Accepted, f.Refused, f.Unknown, f.Started, f.Finished,
			ms(f.Wait.P50), ms(f.Wait.P99), ms(f.Wait.Max), ms(f.Accept.P99))
	}
	grouped := make(map[string]bool)
	for _, g := range p.Groups {
		row(g.Name+" (all)", g)
		if g.Worst != nil {
			fmt.Fprintf(w, "worst: %s\t\t\t\t\t\t\t%s\t%s\t%s\t\t\n", g.Worst.Name, ms(g.Worst.Wait.P50), ms(g.Worst.Wait.P99), ms(g.Worst.Wait.Max))
		}
		grouped[g.Name] = true
	}
	for _, f := range p.Flows {
		if len(p.Flows) > maxRows && grouped[(plan.Flow{Name: f.Name}).Group()] {
			continue
		}
		row(f.Name, f)
	}
}

// ms prints milliseconds in the unit that fits.
func ms(v float64) string {
	switch {
	case v >= 100_000:
		return fmt.Sprintf("%.0f s", v/1000)
	case v >= 1_000:
		return fmt.Sprintf("%.1f s", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.1f ms", v)
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
