package tally

import (
	"slices"
	"time"
)

// Quantiles are exact, by nearest rank, in milliseconds. All are 0 without a
// single value.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Flow is what became of one flow, or of several pooled.
type Flow struct {
	Name     string `json:"name"`
	Sent     int    `json:"sent"`
	Accepted int    `json:"accepted"`
	Refused  int    `json:"refused"`
	Unknown  int    `json:"unknown"`
	// Started and Finished are distinct jobs.
	Started  int `json:"started"`
	Finished int `json:"finished"`
	// Wait runs from when a job was due to its first start. A job that was
	// accepted and never started counts as waiting until the end of the run.
	Wait Quantiles `json:"wait_ms"`
	// Accept runs from when a job was due to the answer that accepted it.
	Accept Quantiles `json:"accept_ms"`
	// Worst is, in a group, the flow with the highest p99 wait.
	Worst *Worst `json:"worst,omitempty"`
}

// Worst names the flow of a group that waited longest.
type Worst struct {
	Name string    `json:"name"`
	Wait Quantiles `json:"wait_ms"`
}

// Phase is the account of one part of a run.
type Phase struct {
	// Flows are in the order they were given.
	Flows []Flow `json:"flows"`
	// Groups pool the flows whose names differ only in the number at the end.
	Groups []Flow `json:"groups"`
}

// samples are a flow's counts with all its single times.
type samples struct {
	Flow
	waits, accepts []time.Duration
}

func (s *samples) add(o *samples) {
	s.Sent += o.Sent
	s.Accepted += o.Accepted
	s.Refused += o.Refused
	s.Unknown += o.Unknown
	s.Started += o.Started
	s.Finished += o.Finished
	s.waits = append(s.waits, o.waits...)
	s.accepts = append(s.accepts, o.accepts...)
}

func (s *samples) close() Flow {
	s.Wait, s.Accept = QuantilesOf(s.waits), QuantilesOf(s.accepts)
	return s.Flow
}

// Phase accounts for the jobs due from from on and before to, as seen at end.
// A flow that had nothing to send in that time is left out.
func (b *Book) Phase(from, to, end time.Duration) Phase {
	p := Phase{Flows: []Flow{}, Groups: []Flow{}}
	var order []string
	groups := make(map[string]*samples)
	for i := range b.flows {
		s := b.collect(i, from, to, end)
		if s.Sent == 0 {
			continue
		}
		flow := s.close()
		p.Flows = append(p.Flows, flow)
		name := b.run.Flows[i].Group()
		if name == "" {
			continue
		}
		g := groups[name]
		if g == nil {
			g = &samples{Flow: Flow{Name: name}}
			groups[name] = g
			order = append(order, name)
		}
		g.add(s)
		if g.Worst == nil || flow.Wait.P99 > g.Worst.Wait.P99 {
			g.Worst = &Worst{Name: flow.Name, Wait: flow.Wait}
		}
	}
	for _, name := range order {
		p.Groups = append(p.Groups, groups[name].close())
	}
	return p
}

func (b *Book) collect(i int, from, to, end time.Duration) *samples {
	f, schedule := b.flows[i], b.run.Schedules[i]
	s := &samples{Flow: Flow{Name: b.run.Flows[i].Name}}
	f.mu.Lock()
	defer f.mu.Unlock()
	last := min(schedule.Due(to), len(f.jobs))
	for k := min(schedule.Due(from), last); k < last; k++ {
		j, due := &f.jobs[k], schedule.At(k)
		if !j.sent {
			continue
		}
		s.Sent++
		switch j.answer {
		case Accepted:
			s.Accepted++
			s.accepts = append(s.accepts, j.answered-due)
		case Refused:
			s.Refused++
		default: // also: sent, and the run ended before the answer
			s.Unknown++
		}
		if j.finished {
			s.Finished++
		}
		switch {
		case j.starts > 0:
			s.Started++
			s.waits = append(s.waits, j.started-due)
		case j.answer == Accepted:
			s.waits = append(s.waits, max(0, end-due))
		}
	}
	return s
}

// QuantilesOf are those of single times.
func QuantilesOf(values []time.Duration) Quantiles {
	if len(values) == 0 {
		return Quantiles{}
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	rank := func(q float64) float64 {
		n := int(q*float64(len(sorted))+0.999999999) - 1
		return milliseconds(sorted[min(max(n, 0), len(sorted)-1)])
	}
	return Quantiles{P50: rank(0.50), P99: rank(0.99), Max: milliseconds(sorted[len(sorted)-1])}
}

// milliseconds rounds to a microsecond, below which no clock here is true.
func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond).Microseconds()) / 1000
}

// Ledger is the account of all ids of a run. Sent = Accepted + Refused +
// Unknown.
type Ledger struct {
	Sent     int `json:"sent"`
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
	Unknown  int `json:"unknown"`
	// The outcomes as the outcomes log records them.
	Succeeded  int `json:"succeeded"`
	Dead       int `json:"dead"`
	Expired    int `json:"expired"`
	Purged     int `json:"purged"`
	Cancelled  int `json:"cancelled"`
	Superseded int `json:"superseded"`
	// Remaining are accepted jobs without an outcome that still are in a log.
	Remaining int `json:"remaining"`
	// Lost are accepted jobs that are in no log and have no outcome, or have
	// one as succeeded although no handler ever started on them.
	Lost int `json:"lost"`
	// Duplicates are starts beyond the first of each job.
	Duplicates int `json:"duplicates"`
	// Unexpected are jobs that ran although they had been refused.
	Unexpected int `json:"unexpected"`
}

// Outcome is where the logs have a job in the end.
type Outcome uint8

// The places: not in any log, in a log without an outcome, and the outcomes.
const (
	Absent Outcome = iota
	Waiting
	Succeeded
	Dead
	Expired
	Purged
	Cancelled
	Superseded
)

// Ledger closes the account: place says where the logs have a job.
func (b *Book) Ledger(place func(Fate) Outcome) Ledger {
	var l Ledger
	b.Each(func(f Fate) {
		l.Sent++
		switch f.Answer {
		case Accepted:
			l.Accepted++
		case Refused:
			l.Refused++
			if f.Started {
				l.Unexpected++
			}
		default:
			l.Unknown++
		}
		switch p := place(f); p {
		case Succeeded:
			l.Succeeded++
			if !f.Started {
				l.Lost++
			}
		case Dead:
			l.Dead++
		case Expired:
			l.Expired++
		case Purged:
			l.Purged++
		case Cancelled:
			l.Cancelled++
		case Superseded:
			l.Superseded++
		case Waiting:
			if f.Answer == Accepted {
				l.Remaining++
			}
		case Absent:
			if f.Answer == Accepted {
				l.Lost++
			}
		}
	})
	for _, f := range b.flows {
		f.mu.Lock()
		l.Duplicates += len(f.agains)
		f.mu.Unlock()
	}
	return l
}
