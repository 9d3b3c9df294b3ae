package history

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Waits are the longest times from a job's acceptance to its first start, of the jobs
// that a fault may have touched, by what the fault found them doing. How long the
// acceptance itself took is told apart, as Call.
type Waits struct {
	// Fresh are jobs that the shard's new owner met as new: accepted after its
	// fence, or of a shard that changed no hands.
	Fresh, FreshP99 time.Duration
	FreshJobs       int
	// Found are jobs that lay in the log when their shard changed hands, and had
	// not started.
	Found     time.Duration
	FoundJobs int
	// Flight is the longest time from the fault to the end of a job that ran when it
	// came, and FlightJobs their number.
	Flight     time.Duration
	FlightJobs int
	// Call is the longest time from the sending of a job to the answer OK.
	Call time.Duration
	// Gap is the longest time that a shard had no owner: from its handover, or the
	// fault when there was none, to its fence. Shards is how many changed hands.
	Gap    time.Duration
	Shards int
	// Worst tells of the job that waited longest, fresh or found.
	Worst string
}

// Waits measures the i-th fault: takeovers until the next one, but no longer than
// recovery after its heal, and the jobs that came until then or had just come. A job
// that waited through several faults is the first one's.
func (o *Verdict) Waits(i int, recovery time.Duration) Waits {
	f := o.view.faults[i]
	end := o.view.end
	if f.to != math.MaxInt64 {
		end = min(end, f.to+int64(recovery))
	}
	if i+1 < len(o.view.faults) {
		end = min(end, o.view.faults[i+1].Mono)
	}
	var w Waits
	fenced := map[int32]int64{} // the last takeover of each shard
	for _, e := range o.view.fences {
		if e.Mono <= f.Mono || e.Mono > end {
			continue
		}
		from := f.Mono
		for _, h := range o.view.hands {
			if h.Token.Shard == e.Token.Shard && h.Mono >= f.Mono && h.Mono <= e.Mono {
				from = h.Mono
			}
		}
		w.Gap = max(w.Gap, time.Duration(e.Mono-max(from, fenced[e.Token.Shard])))
		fenced[e.Token.Shard] = e.Mono
	}
	w.Shards = len(fenced)
	var fresh []time.Duration
	var worst time.Duration
	for _, j := range o.view.order {
		if j.invoke == nil || j.invoke.Due == 0 || len(j.runs) == 0 || j.ok == 0 {
			continue
		}
		first := j.runs[0]
		if first.start <= f.Mono && (first.end >= f.Mono || len(j.runs) > 1 && j.runs[1].start >= f.Mono) {
			w.FlightJobs++
			if last := j.runs[len(j.runs)-1].end; last != math.MaxInt64 {
				w.Flight = max(w.Flight, time.Duration(last-f.Mono))
			}
		}
		from := j.answered
		early := i > 0 && from < f.Mono-int64(o.rules.Jitter)
		if first.start <= f.Mono || from > end || early || o.view.heldWithin(j.source, from, first.start) {
			continue
		}
		w.Call = max(w.Call, time.Duration(j.answered-j.invoke.Mono))
		wait := time.Duration(max(first.start-j.answered, 0)) // the answer may come after the start
		if wait > worst {
			worst = wait
			w.Worst = fmt.Sprintf("%s of %s, shard %d, due at %s, accepted at %s, started at %s", j.key, j.source, first.event.Token.Shard, o.at(j.invoke.Due), o.at(j.answered), o.at(first.start))
		}
		if at, moved := fenced[first.event.Token.Shard]; moved && j.answered <= at {
			w.FoundJobs++
			w.Found = max(w.Found, wait)
			continue
		}
		fresh = append(fresh, wait)
	}
	slices.Sort(fresh)
	if n := len(fresh); n > 0 {
		w.FreshJobs, w.Fresh, w.FreshP99 = n, fresh[n-1], fresh[(n-1)*99/100]
	}
	return w
}

// QuietWait is the longest wait of jobs that started before the first fault: what
// the same load costs on the same machine when nothing is done to anybody.
func (o *Verdict) QuietWait() time.Duration {
	until := int64(math.MaxInt64)
	if len(o.view.faults) > 0 {
		until = o.view.faults[0].Mono
	}
	var longest time.Duration
	for _, j := range o.view.order {
		if j.invoke != nil && j.invoke.Due != 0 && j.ok > 0 && len(j.runs) > 0 && j.runs[0].start < until {
			longest = max(longest, time.Duration(j.runs[0].start-j.answered))
		}
	}
	return longest
}
