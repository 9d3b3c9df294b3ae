package worker

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/share"
)

type (
	wireToken = jobv1.Token
	replica   = schedulerv1.Replica
)

// What holds of a lease that does not say.
const (
	defaultTTL        = 20 * time.Second
	defaultRunTimeout = 5 * time.Minute
)

// apply does what a frame of a replica says, part by part in the order of the contract.
func (w *Worker) apply(l *link, f *schedulerv1.WorkResponse) {
	leases := make([]*lease, 0, len(f.GetLeases()))
	for _, wire := range f.GetLeases() {
		leases = append(leases, w.decode(l, wire)) // outside the lock: it is most of the work
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.closed {
		return
	}
	now := time.Now()
	if f.Welcome != nil {
		w.welcome(now, l, f.Welcome)
	}
	if f.Ownership != nil {
		w.ownership(l, f.Ownership)
	}
	if f.Topology != nil {
		w.topology = f.Topology.GetReplicas()
		w.reconnect()
	}
	if d := f.Demand; d != nil {
		w.slots.Bid(now, l.key, share.Bid{N: int(d.GetN()), Rank: int(d.GetRank()), Priority: priorityOf(d.GetPriority()), Tag: d.GetTag()})
	}
	if f.Pass != nil {
		w.slots.Pass(now, l.key, int(f.Pass.GetN()))
	}
	for i, wire := range f.GetLeases() {
		w.grantTo(now, l, leases[i], wire)
	}
	if f.Renewed != nil {
		w.renewed(f.Renewed)
	}
	for _, t := range f.GetSettled().GetTokens() {
		w.settled(now, tokenOf(t))
	}
	if refused := f.GetSettled().GetRefused(); len(refused) > 0 {
		for _, t := range refused {
			w.settled(now, tokenOf(t))
		}
		w.log.Warn("results refused: the leases had ended", "replica", l.replica, "count", len(refused), "reason", rpc.ReasonStaleLease)
	}
	for _, r := range f.GetRevokes() {
		w.revoke(now, l, r)
	}
	if f.Drain != nil {
		// It takes results until it ends, or until the replica has welcomed another stream.
		l.drained = true
		w.slots.Close(now, l.key)
		w.reconnect()
	}
	w.flush(now)
	w.quiet()
}

func (w *Worker) decode(l *link, wire *schedulerv1.Lease) *lease {
	held := &lease{token: tokenOf(wire.GetToken()), wire: wire.GetToken(), from: l, waits: wire.GetWaits(), ttl: wire.GetTtl().AsDuration()}
	if held.ttl <= 0 {
		held.ttl = defaultTTL
	}
	held.parent = creation{wire.GetTraceparent(), wire.GetTracestate(), wire.GetGrantedAt()}
	var j jobv1.Job
	if err := proto.Unmarshal(wire.GetJob(), &j); err != nil {
		held.bad = Permanent(err)
	}
	held.job = newJob(&j, wire.GetAttempt(), held.token)
	return held
}

// grantTo takes a job into a slot or gives it back.
func (w *Worker) grantTo(now time.Time, l *link, held *lease, wire *schedulerv1.Lease) {
	if w.leases[held.token] != nil || w.unsettled[held.token] != nil {
		return // the same lease again
	}
	granted := w.slots.Grant(now, l.key, share.Grant{Ticket: wire.GetTicket(), Priority: priorityOf(wire.GetPriority()), Tag: wire.GetTag()})
	if granted && (l.drained || held.token.Epoch < w.owners[held.token.Shard].epoch) {
		// On a stream whose place another one takes, or of an owner that has lost the shard: the other stream, or the next owner, was told, or
		// will be, that this worker does not have it.
		w.slots.Freed(now, 1)
		granted = false
	}
	if !granted {
		if w.draining {
			l.refused = append(l.refused, held.wire)
		} else {
			l.returned = append(l.returned, held.wire)
		}
		return
	}
	timeout := wire.GetRunTimeout().AsDuration()
	if timeout <= 0 {
		timeout = defaultRunTimeout
	}
	w.accept(now, held, timeout)
	w.jobs.Add(1)
	go w.run(held)
}

func (w *Worker) welcome(now time.Time, l *link, m *schedulerv1.Welcome) {
	for _, other := range w.links {
		if other != l && other.replica == m.GetReplica() && other.open && !other.closed {
			other.cancel(errDuplicate) // the replica keeps the newest stream of a worker
		}
	}
	l.replica, l.welcomed = m.GetReplica(), now
	if every := m.GetRenewEvery().AsDuration(); every > 0 {
		w.renewEvery = every
	}
	if next := now.Add(w.renewEvery); next.Before(w.nextRenew) {
		w.nextRenew = next
	}
	w.need(w.nextRenew)
	w.log.Info("scheduler connected", "replica", l.replica, "address", l.address)
	w.reconnect()
}

// ownership learns which shards a replica owns. A shard that it gave up belongs to nobody until somebody claims it.
func (w *Worker) ownership(l *link, m *schedulerv1.Ownership) {
	for shard, o := range w.owners {
		if o.link == l {
			w.owners[shard] = owner{epoch: o.epoch}
		}
	}
	l.shards = make(map[int32]int64, len(m.GetShards()))
	for i, shard := range m.GetShards() {
		var epoch int64
		if i < len(m.GetEpochs()) {
			epoch = m.GetEpochs()[i]
		}
		if o, ok := w.owners[shard]; ok && epoch < o.epoch {
			continue // an owner that does not know yet that it lost the shard
		}
		w.owners[shard] = owner{epoch: epoch, link: l}
		l.shards[shard] = epoch
	}
	claims := func(shard int32) bool { _, ok := l.shards[shard]; return ok }
	for _, held := range w.leases {
		if claims(held.token.Shard) {
			held.renewSent = time.Time{}
			l.renew = true // at once: the last renewal may be as old as the former owner's trouble
		}
	}
	for _, other := range w.links {
		if other != l {
			other.results = slices.DeleteFunc(other.results, func(r *report) bool {
				moved := claims(r.token.Shard)
				if moved {
					r.queued = false
				}
				return moved
			})
		}
	}
	for _, r := range w.unsettled {
		if claims(r.token.Shard) {
			w.queue(r)
		}
	}
	if len(l.shards) == 0 {
		l.shards = nil // nothing to answer
	}
}

func (w *Worker) renewed(m *schedulerv1.Renewed) {
	for _, wire := range m.GetTokens() {
		if held := w.leases[tokenOf(wire)]; held != nil && !held.renewSent.IsZero() {
			held.extend(held.renewSent)
			held.renewSent = time.Time{}
		}
	}
	for _, wire := range m.GetLost() {
		if held := w.leases[tokenOf(wire)]; held != nil {
			held.cancel(ErrLeaseLost)
		}
	}
}

// frame collects what has to be written to a replica; nil: nothing. more says that not all of it had room.
func (w *Worker) frame(l *link, now time.Time) (f *schedulerv1.WorkRequest, more bool) {
	if due := w.slots.Due(l.key); l.closed || !l.pending(now) && (due.IsZero() || now.Before(due)) {
		return nil, false
	}
	f = &schedulerv1.WorkRequest{}
	if l.hello || l.shards != nil {
		f.Hello = w.hello(l)
		l.hello, l.shards = false, nil
	}
	size := 0
	for len(l.results) > 0 && size < maxFrame {
		r := l.results[0]
		l.results = l.results[1:]
		r.queued = false
		if _, ok := w.unsettled[r.token]; !ok {
			continue
		}
		r.sent = now
		f.Results = append(f.Results, r.result)
		size += 128 + len(r.result.GetError()) + len(r.result.GetErrorType())
	}
	if len(l.results) == 0 {
		l.results = nil
	}
	for _, b := range []struct {
		tokens *[]*wireToken
		reason schedulerv1.ReturnReason
	}{{&l.returned, schedulerv1.ReturnReason_RETURN_REASON_NOT_STARTED}, {&l.refused, schedulerv1.ReturnReason_RETURN_REASON_DRAIN}} {
		if len(*b.tokens) > 0 {
			c := w.slots.Tell(l.key)
			f.Returns = append(f.Returns, &schedulerv1.Return{Tokens: *b.tokens, Reason: b.reason, Free: int32(c.Free), Seen: c.Seen})
			*b.tokens = nil
		}
	}
	w.credit(l, f)
	for _, held := range l.started {
		if !held.told && w.leases[held.token] == held {
			held.told = true
			f.Started = append(f.Started, held.wire)
		}
	}
	clear(l.started)
	l.started, l.urgent = l.started[:0], false
	if l.renew {
		l.renew = false
		for _, held := range w.leases {
			if w.route(held.token.Shard, held.from) == l {
				if held.renewSent.IsZero() {
					held.renewSent = now
				}
				f.Renew = append(f.Renew, held.wire)
			}
		}
	}
	if l.draining {
		l.draining = false
		f.Draining = &schedulerv1.Draining{}
	}
	if f.Hello == nil && f.Credit == nil && f.Ticket == nil && f.Draining == nil && len(f.V)+len(f.Results)+len(f.Returns)+len(f.Started)+len(f.Renew) == 0 {
		return nil, false // all of it has become obsolete
	}
	return f, len(l.results) > 0
}

// credit puts tickets, credit and tags on a frame that is written anyway.
func (w *Worker) credit(l *link, f *schedulerv1.WorkRequest) {
	part := w.slots.Take(l.key, w.tags[:0])
	if part.Tickets > 0 {
		f.Ticket = &schedulerv1.Ticket{N: int32(part.Tickets)}
	}
	if part.HasCredit {
		f.Credit = &schedulerv1.Credit{Free: int32(part.Credit.Free), Seen: part.Credit.Seen}
	}
	for _, t := range part.Tags {
		f.V = append(f.V, &schedulerv1.Tag{Priority: priorities[t.Priority], Tag: t.Value})
	}
}

// hello introduces the worker and names the leases that the replica may be asked about: of the shards it has just
// claimed, and of those that nobody else is known to own. A job whose result is not settled is named too, so that the
// replica does not take its lease for one that never arrived.
func (w *Worker) hello(l *link) *schedulerv1.Hello {
	h := &schedulerv1.Hello{WorkerId: w.id, Version: w.cfg.Version, Types: w.types, Concurrency: int32(w.cfg.Concurrency)}
	if l.shards != nil && !l.hello {
		h.Answers = &schedulerv1.Ownership{Shards: slices.Sorted(maps.Keys(l.shards))}
		for _, shard := range h.Answers.Shards {
			h.Answers.Epochs = append(h.Answers.Epochs, l.shards[shard])
		}
	}
	mine := func(t Token, from *link) bool {
		if h.Answers != nil {
			_, claimed := l.shards[t.Shard]
			return claimed
		}
		to := w.route(t.Shard, from)
		return to == nil || to == l || to.drained // this one may take the place of to
	}
	for t, held := range w.leases {
		if mine(t, held.from) {
			h.Held = append(h.Held, &schedulerv1.HeldLease{JobId: held.job.ID, Source: held.job.Source, Token: held.wire, StartedAt: timestamppb.New(held.arrived)})
		}
	}
	for t, r := range w.unsettled {
		if mine(t, r.from) {
			h.Held = append(h.Held, &schedulerv1.HeldLease{JobId: r.result.GetJobId(), Source: r.source, Token: r.result.GetToken(), StartedAt: timestamppb.New(r.start)})
		}
	}
	return h
}

var priorities = [share.Priorities]jobv1.Priority{
	jobv1.Priority_PRIORITY_BULK, jobv1.Priority_PRIORITY_LOW, jobv1.Priority_PRIORITY_DEFAULT, jobv1.Priority_PRIORITY_HIGH, jobv1.Priority_PRIORITY_CRITICAL,
}

// priorityOf is the place of a priority in the order; one that is unknown counts as the default.
func priorityOf(p jobv1.Priority) share.Priority {
	if i := slices.Index(priorities[:], p); i >= 0 {
		return share.Priority(i)
	}
	return share.Priority(slices.Index(priorities[:], jobv1.Priority_PRIORITY_DEFAULT))
}

func newDuration(d time.Duration) *durationpb.Duration { return durationpb.New(d) }
