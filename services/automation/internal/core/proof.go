package core

import (
	"slices"
	"time"
)

// Service is the kind of a replica.
type Service uint8

// The services whose replicas acknowledge switches.
const (
	Scheduler Service = iota + 1
	Enqueue
	Automation
)

// Replica is what is known of a live replica.
type Replica struct {
	Name    string
	Service Service
	// Applied is the control sequence that it acts on.
	Applied int64
	// Running are the jobs of held scopes that ran on it when it acknowledged.
	Running int64
	// Seen is when that was read.
	Seen time.Time
}

// View is what automation sees of the others.
type View struct {
	// Replicas are the live ones of all services.
	Replicas []Replica
	// Self is this replica's name in Replicas.
	Self string
	// Since is when an unbroken view of status began; Broken says that there is none now.
	Since  time.Time
	Broken bool
}

// Ack says that a replica acts on a change.
type Ack struct {
	Replica string
	At      time.Time
	running int64
}

// Proof shows that a change is in force everywhere.
type Proof struct {
	Sequence int64
	Acks     []Ack
	Silent   []string
	Took     Duration
	Running  int64
}

const (
	// GrantsEnd is how long after a record no scheduler can grant any more that has not folded it: the freshness of the control log
	// that every grant needs.
	GrantsEnd = 500 * time.Millisecond
	// Settled is how long a view of status must have lasted before every live replica can be in it: the time for which a beat makes live.
	settled = time.Second
)

// Ledger collects acknowledgements of one sequence while they come in. The first that a replica gave counts.
type Ledger struct {
	sequence int64
	verb     Verb
	since    time.Time // the record was read back
	acks     []Ack
	waiting  map[string]Service // live ones that have not acknowledged; at most a fleet
}

// NewLedger begins a proof for the record at sequence, which was read back at since. verb is that of a switch; 0 is a change of the
// registry, for which other automation replicas are waited for too, so that whoever has the answer finds the change at any of them.
func NewLedger(sequence int64, verb Verb, since time.Time) *Ledger {
	return &Ledger{sequence: sequence, verb: verb, since: since, waiting: map[string]Service{}}
}

// Prove takes a new view. done: the proof is complete. Else look again when the view changes, and at again at the latest. refusal: enough
// time has passed to know that it cannot be had.
//
// The view counts as complete once this replica's own acknowledgement is in it: beats are in one order, so everybody who was
// live when the record was written is seen by then. Where that cannot be relied on, and for whoever does not answer, GrantsEnd has to pass: after it no
// scheduler grants on what was before. A silent enqueue replica does no harm except to a block, because intake decides again.
func (l *Ledger) Prove(now time.Time, v View) (p Proof, done bool, again time.Time, refusal *Refusal) {
	complete := !v.Broken && now.Sub(v.Since) >= settled
	self := false
	for _, r := range v.Replicas {
		switch {
		case r.Applied >= l.sequence:
			self = self || r.Name == v.Self
			l.ack(r)
		case !l.acked(r.Name) && (r.Service != Automation || l.verb == 0): // a beat out of the past takes no answer back
			l.waiting[r.Name] = r.Service
		}
	}
	// Whoever was live and then fell silent is waited for too: it may be about to grant.
	var silent, refusing []string
	for name, service := range l.waiting {
		if service == Scheduler {
			silent = append(silent, name)
		} else {
			refusing = append(refusing, name)
		}
	}
	deadline := l.since.Add(GrantsEnd)
	late := !now.Before(deadline)
	if !late && (!complete || !self || len(silent)+len(refusing) > 0) {
		return Proof{}, false, deadline, nil
	}
	if len(refusing) > 0 && l.verb == Block {
		return Proof{}, false, now, &Refusal{
			Reason: Unconfirmed, Message: "the switch is in the log; enqueue replicas have not acknowledged it", Retry: soon,
			Metadata: map[string]string{"replicas": join(refusing)},
		}
	}
	p = Proof{Sequence: l.sequence, Acks: slices.Clone(l.acks), Silent: append(silent, refusing...)}
	slices.SortFunc(p.Acks, func(a, b Ack) int { return a.At.Compare(b.At) })
	slices.Sort(p.Silent)
	for _, a := range l.acks {
		p.Running += a.running
	}
	return p, true, now, nil
}

func (l *Ledger) ack(r Replica) {
	delete(l.waiting, r.Name)
	if r.Service != Automation && !l.acked(r.Name) {
		l.acks = append(l.acks, Ack{Replica: r.Name, At: r.Seen, running: r.Running})
	}
}

func (l *Ledger) acked(name string) bool {
	return slices.ContainsFunc(l.acks, func(a Ack) bool { return a.Replica == name })
}

func join(names []string) string {
	slices.Sort(names)
	var b []byte
	for i, n := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, n...)
	}
	return string(b)
}
