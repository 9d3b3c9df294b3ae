package judge

import (
	"fmt"
	"time"
)

// The promises that a replay asks about, by the numbers of the product's list.
const (
	lossless  = "1"
	isolated  = "2"
	stopped   = "3"
	apart     = "6"
	bounded   = "7"
	recovered = "8"
)

var names = map[string]string{
	lossless: "nothing accepted is lost", isolated: "one source cannot harm another", stopped: "a switch is proven and fast",
	apart: "sockets and jobs cannot take each other down", bounded: "memory is bounded", recovered: "it comes back by itself",
}

const (
	// holdLimit is what a hold may take at most, in ms.
	holdLimit = 1000
	// Of the flooder's jobs half of what the ramp's rate is must start in RampTime after the resume, and may no more than a twentieth beyond it.
	rampLeast = int(Ramp*(RampTime/time.Second)) / 2
	rampLimit = int(Ramp*(RampTime/time.Second)) * 21 / 20
	// throughput is the part of the tenants' jobs that must be done.
	throughput = 0.95
)

// waitLimit is what the tenants' p99 wait may be beside a flood, postLimit what
// their notifications' may.
func waitLimit(quiet float64) float64 { return max(1.5*quiet, quiet+10) }
func postLimit(quiet float64) float64 { return max(1.1*quiet, quiet+5) }

// Judge fills in promises and verdict from the figures.
func (r *Report) Judge() {
	r.Promises, r.Unmeasured = []Promise{}, nil
	r.lossless()
	r.isolated()
	r.stopped()
	r.apart()
	r.bounded()
	r.recovered()
	r.Verdict = Kept
	for _, p := range r.Promises {
		if !p.Held {
			r.Verdict = Broken
		}
	}
}

func (r *Report) found(id string, held bool, format string, args ...any) {
	r.Promises = append(r.Promises, Promise{ID: id, Name: names[id], Held: held, Figure: fmt.Sprintf(format, args...)})
}

func (r *Report) unmeasured(id, format string, args ...any) {
	r.Unmeasured = append(r.Unmeasured, Unmeasured{ID: id, Name: names[id], Why: fmt.Sprintf(format, args...)})
}

func (r *Report) lossless() {
	l := r.Ledger
	if l.Accepted == 0 {
		r.found(lossless, false, "no job was accepted")
		return
	}
	outcomes := l.Succeeded + l.Dead + l.Expired + l.Purged + l.Cancelled + l.Superseded
	// Jobs of unknown fate may have run: they are outcomes beyond the accepted.
	held := l.Lost == 0 && l.Unexpected == 0 && l.Remaining == 0 && outcomes >= l.Accepted && outcomes <= l.Accepted+l.Unknown
	text := fmt.Sprintf("%d accepted, %d outcomes, %d lost, %d ran twice", l.Accepted, outcomes, l.Lost, l.Duplicates)
	if l.Remaining > 0 {
		text += fmt.Sprintf(", %d still waiting when the time to drain was over", l.Remaining)
	}
	if l.Unknown > 0 {
		text += fmt.Sprintf(", %d of unknown fate", l.Unknown)
	}
	if l.Unexpected > 0 {
		text += fmt.Sprintf(", %d ran although refused", l.Unexpected)
	}
	r.found(lossless, held, "%s", text)
}

func (r *Report) isolated() {
	quiet, flood := r.Victims.Quiet, r.Victims.Flood
	if quiet.Jobs == 0 || flood.Jobs == 0 {
		r.found(isolated, false, "no tenant's job was due in the quiet time or in the flood")
		return
	}
	limit := waitLimit(quiet.P99)
	held := flood.P99 <= limit && float64(flood.Finished) >= throughput*float64(flood.Jobs)
	text := fmt.Sprintf("p99 %s quiet, %s in the flood (at most %s), %d of %d jobs done", ms(quiet.P99), ms(flood.P99), ms(limit), flood.Finished, flood.Jobs)
	// The flood's backlog is no smaller a danger while it waits, and while it is worked off.
	for _, part := range []struct {
		name string
		of   *Spread
	}{{"held", r.Victims.Held}, {"drained", r.Victims.Drain}} {
		if part.of != nil && part.of.Jobs > 0 {
			held = held && part.of.P99 <= limit
			text += fmt.Sprintf(", %s while it was %s", ms(part.of.P99), part.name)
		}
	}
	r.found(isolated, held, "%s", text)
}

func (r *Report) stopped() {
	switch s := r.Switch; {
	case r.Without:
		r.unmeasured(stopped, "there is no switch: an operator can wait, deploy other code, or delete the topic with everybody's jobs")
	case r.Flood.NamedAfter == nil:
		r.found(stopped, false, "nobody was named, so nobody could be held")
	case r.Flood.Source != r.Flood.True:
		r.found(stopped, false, "%s was named, and it was %s", r.Flood.Source, r.Flood.True)
	case s == nil:
		r.found(stopped, false, "%s was named after %s; the hold did not succeed", r.Flood.Source, ms(*r.Flood.NamedAfter))
	case s.ResumeMS == nil:
		r.found(stopped, false, "%s was held after %s; the resume did not succeed", r.Flood.Source, ms(s.HoldMS))
	default:
		held := s.HoldMS <= holdLimit && s.StartedAfterHold == 0
		text := fmt.Sprintf("%s named after %s, held after %s (at most %s), %d started after the answer",
			r.Flood.Source, ms(*r.Flood.NamedAfter), ms(s.HoldMS), ms(holdLimit), s.StartedAfterHold)
		if n := s.StartedInRamp; n != nil {
			held = held && *n >= rampLeast && *n <= rampLimit
			text += fmt.Sprintf("; %d within %v of the resume at %d/s", *n, RampTime, Ramp)
		}
		r.found(stopped, held, "%s", text)
	}
}

func (r *Report) apart() {
	n := r.Notifications
	if n.Quiet.Jobs == 0 {
		r.found(apart, false, "no reader got a notification in the quiet time")
		return
	}
	limit := postLimit(n.Quiet.P99)
	// No notification in the flood at all is no good p99; and who reads all the time misses nothing, told or not.
	held := n.Flood.Jobs > 0 && n.Flood.P99 <= limit && n.Missing == 0
	text := fmt.Sprintf("notifications p99 %s quiet, %s in the flood (at most %s), %d of %d clients stalled", ms(n.Quiet.P99), ms(n.Flood.P99), ms(limit), n.Stalled, n.Clients)
	if n.Missing > 0 {
		text += fmt.Sprintf(", %d of %d missing and %d gaps told", n.Missing, n.Expected, n.Gaps)
	}
	r.found(apart, held, "%s", text)
}

func (r *Report) bounded() {
	var worst *Memory
	held, measured := true, false
	restarts := 0
	for i := range r.Memory {
		m := &r.Memory[i]
		if m.Ceiling == 0 {
			continue
		}
		measured = true
		restarts += m.Restarts
		if m.Peak > m.Ceiling || m.Restarts > 0 {
			held = false
		}
		if worst == nil || float64(m.Peak)/float64(m.Ceiling) > float64(worst.Peak)/float64(worst.Ceiling) {
			worst = m
		}
	}
	switch {
	case !measured && r.Without:
		r.unmeasured(bounded, "nobody bounds the worker's memory")
	case !measured:
		r.unmeasured(bounded, "the memory of processes cannot be read here")
	default:
		r.found(bounded, held, "%d processes, the fullest is %s with %d of %d MiB, %d restarts", len(r.Memory), worst.Process, worst.Peak>>20, worst.Ceiling>>20, restarts)
	}
}

func (r *Report) recovered() {
	after, post := r.Victims.After, r.Notifications.After
	switch {
	case r.Flood.Drained == nil:
		r.found(recovered, false, "the flood's backlog was not gone when the time to drain was over")
	case after == nil || after.Jobs == 0 || post == nil:
		r.found(recovered, false, "nothing was sent when the backlog was gone")
	default:
		waits, posts := waitLimit(r.Victims.Quiet.P99), postLimit(r.Notifications.Quiet.P99)
		held := after.P99 <= waits && post.Jobs > 0 && post.P99 <= posts
		r.found(recovered, held, "backlog gone after %s; then p99 %s (at most %s), notifications %s (at most %s)", ms(*r.Flood.Drained), ms(after.P99), ms(waits), ms(post.P99), ms(posts))
	}
}

// ms prints milliseconds in the unit that fits.
func ms(v float64) string {
	switch {
	case v >= 10_000:
		return fmt.Sprintf("%.0f s", v/1000)
	case v >= 1_000:
		return fmt.Sprintf("%.1f s", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.1f ms", v)
}
