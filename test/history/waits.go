package history

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Waits are the longest times from a job's acceptance to its first start, of the jobs
// that came with a fault or after it, by what the fault found them doing. How long
// the acceptance itself took is told apart, as Call. Sources with a quota are left
// out, because they wait for it, and sources that were held, because their jobs wait
// in a lane, in order, behind those that a takeover found there.
type Waits struct {
	// Fresh are jobs that one owner met and started: accepted after its fence, or of
	// a shard that changed no hands.
	Fresh, FreshP99 time.Duration
	FreshJobs       int
	// Found are jobs that lay in the log when their shard changed hands, and had
	// not started. Their time counts from the last fault that moved the shard.
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
	// Beyond is the longest that a job waited beyond the time in which its shard had
	// no owner; for a fresh one, beyond Gap, because the owners of shards that stay do
	// not grant either while the group rebalances.
	Beyond time.Duration
	// Worst tells of the jobs that waited longest, fresh and found.
	Worst [2]string
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
	o.gaps(&w, f, end)
	var fresh []time.Duration
	for _, j := range o.view.order {
		if !o.measured(j) {
			continue
		}
		first := j.runs[0]
		if first.start <= f.Mono && (first.end >= f.Mono || len(j.runs) > 1 && j.runs[1].start >= f.Mono) {
			w.FlightJobs++
			if last := j.runs[len(j.runs)-1].end; last != math.MaxInt64 {
				w.Flight = max(w.Flight, time.Duration(last-f.Mono))
			}
		}
		early := i > 0 && j.answered < f.Mono-int64(o.rules.Jitter)
		late := i+1 < len(o.view.faults) && j.answered >= end-int64(o.rules.Jitter) && first.start > end // the next fault's
		if first.start <= f.Mono || j.answered > end || early || late {
			continue
		}
		w.Call = max(w.Call, time.Duration(j.answered-j.invoke.Mono))
		if from, found := o.found(j); found {
			w.FoundJobs++
			if wait := time.Duration(first.start - from); wait > w.Found {
				w.Found, w.Worst[1] = wait, o.tell(j)
			}
			w.Beyond = max(w.Beyond, j.wait()-o.ownerless(first.event.Token.Shard, j.answered, first.start))
			continue
		}
		wait := j.wait()
		if fresh = append(fresh, wait); wait > w.Fresh {
			w.Fresh, w.Worst[0] = wait, o.tell(j)
		}
	}
	slices.Sort(fresh)
	if w.FreshJobs = len(fresh); w.FreshJobs > 0 {
		w.FreshP99 = fresh[(w.FreshJobs-1)*99/100]
	}
	w.Beyond = max(w.Beyond, w.Fresh-w.Gap)
	return w
}

// gaps looks at the takeovers between a fault and the end of its time.
func (o *Verdict) gaps(w *Waits, f fault, end int64) {
	shards := map[int32]bool{}
	for _, e := range o.view.fences {
		if e.Mono > f.Mono && e.Mono <= end {
			shards[e.Token.Shard] = true
			w.Gap = max(w.Gap, time.Duration(e.Mono-o.released(e)))
		}
	}
	w.Shards = len(shards)
}

// released is since when the shard of a fence had no owner: since the last handover
// of it, or the last fault if that was later. A handover may have come to nothing: an
// owner that gets its shard back writes no fence.
func (o *Verdict) released(fence *Event) int64 {
	var before, from int64
	for _, e := range o.view.fences {
		if e.Token.Shard == fence.Token.Shard && e.Mono < fence.Mono {
			before = max(before, e.Mono)
		}
	}
	for _, f := range o.view.faults {
		if f.Mono >= before && f.Mono <= fence.Mono {
			from = f.Mono
		}
	}
	for _, h := range o.view.hands {
		if h.Token.Shard == fence.Token.Shard && h.Mono >= before && h.Mono <= fence.Mono {
			from = max(from, h.Mono)
		}
	}
	if from == 0 {
		return fence.Mono // nobody had it, and nobody took it away
	}
	return from
}

// ownerless is how long a shard had no owner within a time.
func (o *Verdict) ownerless(shard int32, from, to int64) (sum time.Duration) {
	for _, e := range o.view.fences {
		if e.Token.Shard == shard && e.Mono >= from {
			sum += max(time.Duration(min(e.Mono, to)-max(o.released(e), from)), 0)
		}
	}
	return sum
}

// measured says whether a job's wait says something about its schedulers.
func (o *Verdict) measured(j *job) bool {
	return j.invoke != nil && j.invoke.Due != 0 && j.ok > 0 && len(j.runs) > 0 && o.rules.Limits[j.source] == Limit{} && len(o.view.held[j.source]) == 0
}

// wait is from the acceptance to the first start; the answer may come after it.
func (j *job) wait() time.Duration { return time.Duration(max(j.runs[0].start-j.answered, 0)) }

// found says whether a job lay in the log when its shard changed hands, and from
// when on it counts as waiting: its acceptance, or the last fault before that.
func (o *Verdict) found(j *job) (from int64, found bool) {
	start := j.runs[0].start
	from = j.answered
	for _, e := range o.view.fences {
		if e.Token.Shard != j.runs[0].event.Token.Shard || e.Mono < j.answered || e.Mono > start {
			continue
		}
		found = true
		for _, f := range o.view.faults {
			if f.Mono <= e.Mono {
				from = max(from, f.Mono)
			}
		}
	}
	return from, found
}

func (o *Verdict) tell(j *job) string {
	return fmt.Sprintf("%s of %s, shard %d, due at %s, accepted at %s, started at %s", j.key, j.source, j.runs[0].event.Token.Shard,
		o.at(j.invoke.Due), o.at(j.answered), o.at(j.runs[0].start))
}

// QuietWait is the longest wait at times when nothing was done to anybody and nothing
// recovered from it: what the same load costs on the same machine.
func (o *Verdict) QuietWait() time.Duration {
	var longest time.Duration
	for _, j := range o.view.order {
		if o.measured(j) && !o.disturbed(j.answered, j.runs[0].start) {
			longest = max(longest, j.wait())
		}
	}
	return longest
}
