package dispatch

import (
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

const (
	// maxFrame is how many bytes of jobs go into one frame, but always one job: a worker reads up to 4 MiB.
	maxFrame = 1 << 20
	// maxOutbox is how many bytes of jobs may wait for a worker that is slow to read. Its slots bound them too, but 10,000
	// slots of the largest jobs would be 9 GB.
	maxOutbox = 16 << 20
	// maxBurst is how many may be decided before the writer has had its turn: 64 slots of the largest jobs at once are no slow worker.
	maxBurst = 64 << 20
	// maxWait is how long a grant may wait to be written: as long as the control log may be unconfirmed. A process that was stopped must not hand
	// out what it decided before: meanwhile a hold may have been acknowledged without it, and its shards may be others' (I10, I5).
	maxWait = 500 * time.Millisecond
	// maxStall is how long a frame may wait for a worker: half of a lease.
	maxStall = 10 * time.Second
	// settledWait is how long an answer that nobody waits for may wait for a frame to ride on: a frame costs more than a job. A worker that
	// is busy gets one every few milliseconds; one that drains waits for it.
	settledWait = 50 * time.Millisecond
	// maxAnswers is how many tokens may wait in answers, beside answersPerSlot for each slot of the worker: the largest part of a frame, and what it
	// can be told of three renewals of all that it holds, which come within maxStall. A token is 24 bytes, so a worker that never reads holds a few
	// hundred kilobytes.
	maxAnswers     = 20_000
	answersPerSlot = 8
	// maxFrames is how many frames may wait: each is begun by a bid that follows a pass, and a pass needs a ticket of the worker's.
	maxFrames = 1_000
	// maxTokens is how many tokens of a kind go into one frame: 20 bytes each at most.
	maxTokens = 10_000
)

// outbox is what waits to be written to one worker: frames in order, of which only the last still grows. Its owner is the session's
// mutex.
type outbox struct {
	frames []*frame.ToWorker
	slots  int32     // of the worker
	bytes  int       // Σ size of the leases in frames
	since  time.Time // when the oldest frame began to wait; zero: none waits
	urgent bool      // there is more in frames than answers that may wait
}

// last is the frame that still grows.
func (o *outbox) last(now time.Time) *frame.ToWorker {
	if len(o.frames) == 0 {
		o.frames, o.since = append(o.frames, &frame.ToWorker{}), now
	}
	return o.frames[len(o.frames)-1]
}

// bid replaces the standing bid. A worker applies a frame's bid before its passes, and a pass clears the bid: so a bid that was decided
// after a pass begins a frame.
func (o *outbox) bid(now time.Time, b core.Bid) {
	f := o.last(now)
	if f.Pass > 0 {
		f = &frame.ToWorker{}
		o.frames = append(o.frames, f)
	}
	f.Bid = &b
}

// act adds a decision of the engine.
func (o *outbox) act(now time.Time, a core.Action) {
	switch a.Kind {
	case core.Demand:
		o.bid(now, a.Bid)
	case core.Pass:
		o.last(now).Pass += a.N
	case core.Grant:
		o.bid(now, a.Bid)
		f := o.last(now)
		f.Leases = append(f.Leases, frame.Granted{Lease: a.Lease, At: now})
		o.bytes += a.Lease.Job.Size
	}
}

// remove takes grants out.
func (o *outbox) remove(which func(*frame.Granted) bool) (gone []frame.Granted) {
	for _, f := range o.frames {
		kept := f.Leases[:0]
		for i := range f.Leases {
			if g := &f.Leases[i]; which(g) {
				gone = append(gone, *g)
				o.bytes -= g.Job.Size
			} else {
				kept = append(kept, *g)
			}
		}
		clear(f.Leases[len(kept):])
		f.Leases = kept
	}
	return gone
}

// stale cuts the grants off a frame that are too old to be sent: the first ones, if any.
func stale(f *frame.ToWorker, now time.Time) (old []frame.Granted) {
	n := 0
	for n < len(f.Leases) && now.Sub(f.Leases[n].At) > maxWait {
		n++
	}
	old, f.Leases = f.Leases[:n:n], f.Leases[n:]
	return old
}

// answers is how many tokens wait in answers and revocations.
func (o *outbox) answers() (n int) {
	for _, f := range o.frames {
		n += len(f.Renewed) + len(f.Lost) + len(f.Settled) + len(f.Refused) + len(f.Revokes)
	}
	return n
}

// full reports whether too much waits for the worker to be granted more.
func (o *outbox) full() bool { return o.bytes > maxBurst || len(o.frames) > maxFrames }

// over reports whether the worker is too slow to be kept.
func (o *outbox) over(now time.Time) bool {
	return o.bytes > maxOutbox || o.full() || !o.since.IsZero() && now.Sub(o.since) > maxStall ||
		o.answers() > maxAnswers+answersPerSlot*int(o.slots)
}

// take returns the next frame to write, nil if there is none that must be written now.
func (o *outbox) take(now time.Time) *frame.ToWorker {
	if len(o.frames) == 0 || !o.urgent && now.Sub(o.since) < settledWait {
		return nil
	}
	f := o.frames[0]
	if rest := split(f); rest != nil {
		o.frames[0] = rest
	} else {
		o.frames[0] = nil
		o.frames = o.frames[1:]
	}
	for _, l := range f.Leases {
		o.bytes -= l.Job.Size
	}
	o.since = time.Time{}
	if len(o.frames) > 0 {
		o.since = now
	} else {
		o.frames, o.urgent = nil, false
	}
	return f
}

// split cuts what does not fit one frame off f; nil: all of it fits. What comes first in a frame stays in front.
func split(f *frame.ToWorker) *frame.ToWorker {
	var rest frame.ToWorker
	cut := false
	size := 0
	for i, l := range f.Leases {
		if size += l.Job.Size; i > 0 && size > maxFrame {
			rest.Leases, f.Leases, cut = f.Leases[i:], f.Leases[:i:i], true
			break
		}
	}
	for _, part := range []struct{ from, to *[]core.Token }{
		{&f.Renewed, &rest.Renewed}, {&f.Lost, &rest.Lost}, {&f.Settled, &rest.Settled}, {&f.Refused, &rest.Refused},
	} {
		if len(*part.from) > maxTokens {
			*part.to, *part.from, cut = (*part.from)[maxTokens:], (*part.from)[:maxTokens:maxTokens], true
		}
	}
	if !cut {
		return nil
	}
	// A revocation must not overtake the lease that it revokes, nor a farewell anything.
	rest.Revokes, f.Revokes = f.Revokes, nil
	rest.Farewell, f.Farewell = f.Farewell, nil
	return &rest
}
