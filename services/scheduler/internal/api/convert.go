package api

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

// maxText is the longest error text that is kept of an attempt (H24).
const maxText = 2 << 10

var resultKinds = map[schedulerv1.ResultKind]core.ResultKind{
	schedulerv1.ResultKind_RESULT_KIND_SUCCESS:   core.Success,
	schedulerv1.ResultKind_RESULT_KIND_RETRY:     core.Retry,
	schedulerv1.ResultKind_RESULT_KIND_PERMANENT: core.Permanent,
	schedulerv1.ResultKind_RESULT_KIND_SNOOZE:    core.Snooze,
}

var returnReasons = map[schedulerv1.ReturnReason]core.ReturnReason{
	schedulerv1.ReturnReason_RETURN_REASON_NOT_STARTED: core.NotStarted,
	schedulerv1.ReturnReason_RETURN_REASON_DRAIN:       core.Draining,
}

var revokeReasons = map[core.RevokeReason]schedulerv1.RevokeReason{
	core.RevokeHeld:    schedulerv1.RevokeReason_REVOKE_REASON_HELD,
	core.RevokeTimeout: schedulerv1.RevokeReason_REVOKE_REASON_TIMEOUT,
	core.RevokeExpired: schedulerv1.RevokeReason_REVOKE_REASON_EXPIRED,
}

// fromWire translates a frame of a worker. It fails, with a status, on what the rules of the proto cannot say.
func fromWire(m *schedulerv1.WorkRequest) (frame.FromWorker, error) {
	f := frame.FromWorker{Tickets: m.GetTicket().GetN(), Draining: m.Draining != nil, Started: tokens(m.GetStarted()), Renew: tokens(m.GetRenew())}
	for _, v := range m.GetV() {
		if p, ok := priority(v.GetPriority()); ok {
			f.Latest = append(f.Latest, frame.Tag{Priority: p, Tag: v.GetTag()})
		}
	}
	if h := m.GetHello(); h != nil {
		f.Hello = &frame.Hello{
			Worker:  core.Worker{ID: h.GetWorkerId(), Types: h.GetTypes(), Concurrency: h.GetConcurrency()},
			Version: h.GetVersion(),
		}
		for _, held := range h.GetHeld() {
			id, err := envelope.ParseJobID(held.GetJobId())
			if err != nil {
				return f, invalid("hello.held.job_id", "not a job id")
			}
			f.Hello.Held = append(f.Hello.Held, frame.HeldLease{
				JobID: core.JobID(id), Source: held.GetSource(), Token: token(held.GetToken()), StartedAt: instant(held.GetStartedAt()),
			})
		}
		if a := h.GetAnswers(); a != nil {
			f.Hello.Answers = &frame.Owned{Shards: a.GetShards(), Epochs: a.GetEpochs()}
		}
	}
	for _, r := range m.GetResults() {
		// An id that is none is no job's, so the engine refuses the result as one of a stale lease. One bad result must not cost a worker its stream.
		id, err := envelope.ParseJobID(r.GetJobId())
		if err != nil {
			id = envelope.JobID{}
		}
		f.Results = append(f.Results, core.Result{
			Token: token(r.GetToken()), JobID: core.JobID(id), Kind: resultKinds[r.GetKind()], Delay: r.GetDelay().AsDuration(),
			Error: cut(r.GetError()), ErrorType: r.GetErrorType(), Ran: r.GetRan().AsDuration(),
		})
	}
	for _, r := range m.GetReturns() {
		f.Returns = append(f.Returns, frame.Returned{Tokens: tokens(r.GetTokens()), Reason: returnReasons[r.GetReason()], Free: r.GetFree(), Seen: r.GetSeen()})
	}
	if c := m.GetCredit(); c != nil {
		f.Credit = &frame.Credit{Free: c.GetFree(), Seen: c.GetSeen()}
	}
	return f, nil
}

// toWire translates a frame to a worker.
func toWire(f *frame.ToWorker) *schedulerv1.WorkResponse {
	m := &schedulerv1.WorkResponse{}
	if w := f.Welcome; w != nil {
		m.Welcome = &schedulerv1.Welcome{Replica: w.Replica, Ttl: durationpb.New(w.TTL), RenewEvery: durationpb.New(w.RenewEvery)}
	}
	if o := f.Owned; o != nil {
		m.Ownership = &schedulerv1.Ownership{Shards: o.Shards, Epochs: o.Epochs}
	}
	if f.Topology != nil {
		m.Topology = &schedulerv1.Topology{}
		for _, r := range f.Topology {
			m.Topology.Replicas = append(m.Topology.Replicas, &schedulerv1.Replica{Id: r.ID, Address: r.Address, Shards: r.Shards})
		}
	}
	if b := f.Bid; b != nil {
		m.Demand = &schedulerv1.Demand{N: b.N, Rank: int32(b.Rank), Priority: wirePriority(b.Priority), Tag: b.Tag}
	}
	if f.Pass > 0 {
		m.Pass = &schedulerv1.Pass{N: f.Pass}
	}
	for i := range f.Leases {
		m.Leases = append(m.Leases, lease(&f.Leases[i]))
	}
	if len(f.Renewed)+len(f.Lost) > 0 {
		m.Renewed = &schedulerv1.Renewed{Tokens: wireTokens(f.Renewed), Lost: wireTokens(f.Lost)}
	}
	if len(f.Settled)+len(f.Refused) > 0 {
		m.Settled = &schedulerv1.Settled{Tokens: wireTokens(f.Settled), Refused: wireTokens(f.Refused)}
	}
	for _, r := range f.Revokes {
		m.Revokes = append(m.Revokes, &schedulerv1.Revoke{
			Tokens: []*jobv1.Token{wireToken(r.Token)}, Reason: revokeReasons[r.Reason], OnlyIfNotStarted: r.OnlyIfNotStarted,
		})
	}
	if d := f.Farewell; d != nil {
		m.Drain = &schedulerv1.Drain{Reason: d.Reason, Within: durationpb.New(d.Within)}
	}
	return m
}

// lease carries the record's bytes as they are in the log. What it has waited for its frame is no part of its time to live any more: the worker
// counts from its arrival (I5).
func lease(g *frame.Granted) *schedulerv1.Lease {
	r := g.Job.Record.(*core.Record) // the intake room's promise, see core.Record
	ttl := max(time.Millisecond, g.TTL-time.Since(g.At))
	l := &schedulerv1.Lease{
		Job: r.Value, Token: wireToken(g.Token), Attempt: g.Attempt, Ttl: durationpb.New(ttl), RunTimeout: durationpb.New(g.RunTimeout),
		Traceparent: r.Traceparent, Tracestate: r.Tracestate, GrantedAt: timestamppb.New(g.At), Tag: g.Tag, Ticket: g.Ticket,
		Priority: wirePriority(g.Priority),
	}
	for cause, d := range g.Waits {
		if d > 0 {
			l.Waits = append(l.Waits, &jobv1.Wait{Cause: jobv1.WaitCause(cause), Duration: durationpb.New(d)})
		}
	}
	return l
}

func token(t *jobv1.Token) core.Token {
	return core.Token{Shard: t.GetShard(), Epoch: t.GetEpoch(), Counter: t.GetCounter()}
}

func tokens(list []*jobv1.Token) []core.Token {
	if len(list) == 0 {
		return nil
	}
	out := make([]core.Token, len(list))
	for i, t := range list {
		out[i] = token(t)
	}
	return out
}

func wireToken(t core.Token) *jobv1.Token {
	return &jobv1.Token{Shard: t.Shard, Epoch: t.Epoch, Counter: t.Counter}
}

func wireTokens(list []core.Token) []*jobv1.Token {
	if len(list) == 0 {
		return nil
	}
	out := make([]*jobv1.Token, len(list))
	for i, t := range list {
		out[i] = wireToken(t)
	}
	return out
}

// priority and wirePriority: the wire leaves room between its values.
func priority(p jobv1.Priority) (core.Priority, bool) {
	q := core.Priority(p/10 - 1)
	return q, p > 0 && p%10 == 0 && q < core.Priorities
}

func wirePriority(p core.Priority) jobv1.Priority { return jobv1.Priority((int32(p) + 1) * 10) }

func instant(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// cut shortens text to maxText bytes of valid UTF-8.
func cut(text string) string {
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	return text
}
