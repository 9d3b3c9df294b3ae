package judge

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
)

// busyOthers is what others must have taken of the cores, in percent, for a broken verdict to be put down to them, too.
const busyOthers = 5

// WriteTable prints the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	how := "with Spillway"
	if r.Without {
		how = "without Spillway: one topic, one consumer group, the sockets in the worker"
	}
	fmt.Fprintf(w, "%s %s, on the %s broker, %d cores", r.Scenario, how, r.Broker, r.Run.Cores)
	if r.Run.Others != nil {
		fmt.Fprintf(w, ", of which %s took %.0f %% in the flood", r.others(), *r.Run.Others)
	}
	fmt.Fprint(w, "\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tquiet\tin the flood\tafterwards\t")
	row := func(name string, of func(Spread) string, quiet, flood Spread, after *Spread) {
		last := "–"
		if after != nil {
			last = of(*after)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t\n", name, of(quiet), of(flood), last)
	}
	p50, p99, most := func(s Spread) string { return ms(s.P50) }, func(s Spread) string { return ms(s.P99) }, func(s Spread) string { return ms(s.Max) }
	count := func(s Spread) string { return fmt.Sprint(s.Jobs) }
	v, n := r.Victims, r.Notifications
	row("tenants' jobs due", count, v.Quiet, v.Flood, v.After)
	row("wait to start, median", p50, v.Quiet, v.Flood, v.After)
	row("p99", p99, v.Quiet, v.Flood, v.After)
	row("longest", most, v.Quiet, v.Flood, v.After)
	row("notifications published", count, n.Quiet, n.Flood, n.After)
	row("to the client, median", p50, n.Quiet, n.Flood, n.After)
	row("p99", p99, n.Quiet, n.Flood, n.After)
	row("longest", most, n.Quiet, n.Flood, n.After)
	e := r.Screens
	row("from due to the client, median", p50, e.Quiet, e.Flood, e.After)
	row("p99", p99, e.Quiet, e.Flood, e.After)
	if err := t.Flush(); err != nil {
		return err
	}

	f := r.Flood
	fmt.Fprintf(w, "\nthe flood: %d jobs accepted, %d done", f.Accepted, f.Finished)
	if f.Drained != nil {
		fmt.Fprintf(w, ", backlog gone %s after the %s", ms(*f.Drained), map[bool]string{true: "flood", false: "resume"}[r.Switch == nil])
	}
	fmt.Fprintln(w)
	if f.NamedAfter != nil {
		fmt.Fprintf(w, "named: %s, %s after its first job\n", f.Source, ms(*f.NamedAfter))
	}
	if s := r.Switch; s != nil {
		fmt.Fprintf(w, "held: answered after %s, %d handlers started after that", ms(s.HoldMS), s.StartedAfterHold)
		if s.ResumeMS != nil {
			fmt.Fprintf(w, "; resumed after %.0f s at %d jobs/s and rising, answered after %s", r.Run.HeldS, Ramp, ms(*s.ResumeMS))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "sockets: %d, %d never read; readers missed %d of %d notifications, got %d twice, were told of %d gaps, cut off %d times\n",
		n.Clients, n.Stalled, n.Missing, n.Expected, n.Again, n.Gaps, n.Cuts)
	l := r.Ledger
	fmt.Fprintf(w, "ledger: %d sent = %d accepted + %d refused + %d unknown; %d succeeded, %d dead, %d remaining, %d lost, %d ran twice\n",
		l.Sent, l.Accepted, l.Refused, l.Unknown, l.Succeeded, l.Dead, l.Remaining, l.Lost, l.Duplicates)
	for reason, n := range r.Reasons {
		fmt.Fprintf(w, "  %d not accepted: %s\n", n, reason)
	}
	fmt.Fprint(w, "memory:")
	for i, m := range r.Memory {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		fmt.Fprintf(w, " %s %d", m.Process, m.Peak>>20)
		if m.Ceiling > 0 {
			fmt.Fprintf(w, " of %d", m.Ceiling>>20)
		}
		fmt.Fprint(w, " MiB")
	}
	fmt.Fprintf(w, " (the replay itself: %d MiB)\n\n", r.Generator.Peak>>20)

	for _, p := range r.Promises {
		mark := "kept  "
		if !p.Held {
			mark = "BROKEN"
		}
		fmt.Fprintf(w, "%s  %s. %s: %s\n", mark, p.ID, p.Name, p.Figure)
	}
	for _, u := range r.Unmeasured {
		fmt.Fprintf(w, "–       %s. %s: not measured; %s\n", u.ID, u.Name, u.Why)
	}
	_, err := fmt.Fprintf(w, "\nverdict: %s\n", r.Verdict)
	if o := r.Run.Others; err == nil && r.Verdict == Broken && o != nil && *o >= busyOthers {
		_, err = fmt.Fprintf(w, "All waits have in them that %s took %.0f %% of the cores: repeat it when nothing else runs.\n", r.others(), *o)
	}
	return err
}

// others are the processes that are not the replay's own.
func (r *Report) others() string {
	if r.Broker == readyfile.Embedded {
		return "others"
	}
	return "others (Kafka, if it runs here)"
}
