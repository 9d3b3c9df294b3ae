package core

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// place is where the model says a job is.
type place uint8

const (
	inEngine place = iota + 1
	inLane
	settled
	dropped // expired when it was offered: the engine never had it
)

// model is a map beside the engine: where each job is, who holds it, what each source may do.
type model struct {
	t       *rapid.T
	e       *Engine
	now     time.Time
	jobs    map[JobID]*modelJob
	order   []JobID
	leases  map[Token]*modelLease
	tokens  []Token
	lanes   map[[2]string][]*modelJob
	pending []Settlement // durable later
	moving  []*Job
	control Control
	grants  map[string][]time.Time // since the source's quota changed last
	next    uint64
	offset  int64
	shards  map[int32]int64
	sent    map[string]int64
	last    map[int32]Token
}

type modelJob struct {
	id                   JobID
	shard                int32
	source, tenant, typ  string
	prio                 Priority
	size                 int
	home                 Home
	where                place
	attempts             int32
	expires, ready, seen time.Time
}

type modelLease struct {
	job    *modelJob
	worker string
	until  time.Time
	over   bool // settling or lost
}

var (
	modelSources = []string{"a", "b", "c", "d"} // of shards 0, 1, 0, 1
	modelTenants = []string{"", "x", "y"}
	modelTypes   = []string{"t", "u", "z"} // nobody runs z but w3
	modelWorkers = []Worker{
		{ID: "w0", Types: []string{"t", "u"}, Concurrency: 4}, {ID: "w1", Types: []string{"t"}, Concurrency: 3},
		{ID: "w2", Types: []string{"u"}, Concurrency: 1}, {ID: "w3", Types: []string{"z"}, Concurrency: 2},
	}
)

func newModel(t *rapid.T) *model {
	m := &model{
		t: t, now: origin, e: New(Config{Seed: 1, Memory: 64 << 10}), jobs: map[JobID]*modelJob{}, leases: map[Token]*modelLease{},
		lanes: map[[2]string][]*modelJob{}, grants: map[string][]time.Time{}, shards: map[int32]int64{}, sent: map[string]int64{},
		last: map[int32]Token{},
	}
	m.control.Sources = map[string]Policy{}
	for _, s := range modelSources {
		m.control.Sources[s] = Policy{MaxPriority: Critical}
	}
	m.apply()
	m.attach(0)
	m.attach(1)
	return m
}

func (m *model) attach(shard int32) {
	m.offset++
	m.shards[shard] = m.offset
	m.e.Attach(m.now, shard, m.offset)
}

func (m *model) apply() {
	m.control.Sequence++
	if _, err := m.e.Apply(m.now, m.control); err != nil {
		m.t.Fatalf("apply: %v", err)
	}
}

func (m *model) held(source, tenant string) bool {
	for _, s := range m.control.Switches {
		if s.Verb == Demote || s.Verb == Resume || !s.Until.IsZero() && !s.Until.After(m.now) {
			continue
		}
		if s.Scope.Kind == ScopeSource && s.Scope.Source == source || tenant != "" && s.Scope.Kind == ScopeTenant && s.Scope.Tenant == tenant ||
			s.Scope.Kind == ScopeFlow && s.Scope.Source == source && s.Scope.Tenant == tenant {
			return true
		}
	}
	return false
}

func (m *model) offer(x *modelJob, lane bool) {
	j := &Job{
		ID: x.id, Shard: x.shard, Source: x.source, Tenant: x.tenant, Type: x.typ, Priority: x.prio, Home: x.home, Size: x.size,
		Attempts: x.attempts, MaxAttempts: 3, ExpiresAt: x.expires, ReadyAt: x.ready, FromLane: lane,
	}
	v := m.e.Offer(m.now, j)
	switch v.Kind {
	case Queue:
		x.where = inEngine
		if m.e.bytes > m.e.cfg.Memory && !lane {
			m.t.Fatalf("memory: %d bytes", m.e.bytes)
		}
	case Spill:
		m.toLane(x, x.attempts)
	case Expire:
		if x.expires.IsZero() || x.expires.After(m.now) {
			m.t.Fatalf("expired before its time")
		}
		x.where = dropped
	default:
		m.t.Fatalf("offer: %+v", v)
	}
}

func (m *model) toLane(x *modelJob, attempts int32) {
	m.offset++
	x.where, x.home, x.attempts = inLane, Home{Topic: TopicSpill, Offset: m.offset}, attempts
	k := [2]string{x.source, x.typ}
	m.lanes[k] = append(m.lanes[k], x)
	m.laneState(k)
}

func (m *model) laneState(k [2]string) {
	shard := int32(0)
	if k[0] == "b" || k[0] == "d" {
		shard = 1
	}
	m.e.Lane(m.now, LaneState{Shard: shard, Source: k[0], Type: k[1], BacklogJobs: int64(len(m.lanes[k]))})
}

func (m *model) arrive(t *rapid.T) {
	n := rapid.IntRange(1, 12).Draw(t, "n")
	i := rapid.IntRange(0, 3).Draw(t, "source")
	tenant := rapid.SampledFrom(modelTenants).Draw(t, "tenant")
	typ := rapid.SampledFrom(modelTypes).Draw(t, "type")
	prio := Priority(rapid.IntRange(0, 4).Draw(t, "priority"))
	size := rapid.SampledFrom([]int{1, 300, 2000}).Draw(t, "size")
	expires := rapid.SampledFrom([]time.Duration{0, 0, 0, time.Second, time.Minute}).Draw(t, "expires")
	ready := rapid.SampledFrom([]time.Duration{0, 0, 0, 2 * time.Second}).Draw(t, "ready")
	if m.shards[int32(i%2)] == 0 {
		return
	}
	for range n {
		m.next++
		m.offset++
		x := &modelJob{
			shard: int32(i % 2), source: modelSources[i], tenant: tenant, typ: typ, prio: prio, size: size,
			home: Home{Topic: Topic(prio), Partition: int32(i % 2), Offset: m.offset},
		}
		binary.BigEndian.PutUint64(x.id[8:], m.next)
		x.id[6] = 7 << 4
		if expires > 0 {
			x.expires = m.now.Add(expires)
		}
		if ready > 0 {
			x.ready = m.now.Add(ready)
		}
		m.jobs[x.id] = x
		m.order = append(m.order, x.id)
		m.offer(x, false)
	}
}

func (m *model) drain(most int) {
	for range most {
		a := m.e.Next(m.now)
		if a.Kind == Idle {
			return
		}
		if a.Kind != Grant {
			continue
		}
		l := a.Lease
		x := m.jobs[l.Job.ID]
		switch {
		case x == nil || x.where != inEngine:
			m.t.Fatalf("granted a job that is not in the engine: %+v", x)
		case m.held(x.source, x.tenant):
			m.t.Fatalf("granted a job of a held flow")
		case !x.expires.IsZero() && !x.expires.After(m.now):
			m.t.Fatalf("granted an expired job")
		case x.ready.After(m.now):
			m.t.Fatalf("granted before it was ready")
		case !m.last[l.Token.Shard].Before(l.Token):
			m.t.Fatalf("token %v after %v", l.Token, m.last[l.Token.Shard])
		case l.Attempt != x.attempts+1:
			m.t.Fatalf("attempt %d after %d", l.Attempt, x.attempts)
		}
		m.last[l.Token.Shard] = l.Token
		for tok, o := range m.leases {
			if o.job == x {
				m.t.Fatalf("two leases of one job: %v and %v", tok, l.Token)
			}
		}
		runs := false
		for _, w := range modelWorkers {
			if w.ID == a.Worker {
				for _, typ := range w.Types {
					runs = runs || typ == x.typ
				}
			}
		}
		if !runs {
			m.t.Fatalf("%s cannot run %s", a.Worker, x.typ)
		}
		if !l.Ticket {
			m.sent[a.Worker]++
		}
		m.leases[l.Token] = &modelLease{job: x, worker: a.Worker, until: m.now.Add(20 * time.Second)}
		m.tokens = append(m.tokens, l.Token)
		m.grants[x.source] = append(m.grants[x.source], m.now)
		m.quota(x.source)
	}
	m.t.Fatalf("Next does not come to rest")
}

func (s Summary) list() []Summary { return []Summary{s} }

// quota checks every window that ends now: grants ≤ burst + rate × window; leases ≤ concurrency.
func (m *model) quota(source string) {
	q := m.control.Sources[source].Quota
	if q.Rate != nil {
		g := m.grants[source]
		for i, at := range g {
			if n, most := float64(len(g)-i), float64(*q.Burst)+*q.Rate*m.now.Sub(at).Seconds(); n > most+1e-6 {
				m.t.Fatalf("%s: %g grants in %v, want ≤ %g", source, n, m.now.Sub(at), most)
			}
		}
	}
	if q.Concurrency != nil {
		n := 0
		for _, l := range m.leases {
			if l.job.source == source && !l.over {
				n++
			}
		}
		// A limit that was lowered below what runs lets nothing start.
		if n > int(*q.Concurrency) {
			m.t.Fatalf("%s: %d leases, want ≤ %d", source, n, *q.Concurrency)
		}
	}
}

func (m *model) live() []Token {
	var live []Token
	for _, tok := range m.tokens {
		if l := m.leases[tok]; l != nil && !l.over {
			live = append(live, tok)
		}
	}
	m.tokens = append(m.tokens[:0], live...)
	return live
}

func (m *model) settle(s Settlement) {
	x := m.jobs[s.Job.ID]
	if s.Token != (Token{}) {
		m.leases[s.Token].over = true
	}
	if s.Attempt.Counted {
		x.attempts++
	}
	if s.Kind == Dead && x.attempts < 3 && s.Reason != ReasonPermanent {
		m.t.Fatalf("dead after %d attempts: %s", x.attempts, s.Reason)
	}
	x.ready = s.RetryAt
	m.pending = append(m.pending, s)
}

func (m *model) flush() {
	for _, s := range m.pending {
		m.e.Settled(m.now, s.Job.ID, s.Token)
		delete(m.leases, s.Token)
		if s.Kind.Terminal() {
			m.jobs[s.Job.ID].where, m.jobs[s.Job.ID].seen = settled, m.now
		}
	}
	m.pending = nil
	for i, j := range m.moving {
		x := m.jobs[j.ID]
		m.offset++
		if i%3 == 0 && m.e.jobs[j.ID] != nil && m.e.jobs[j.ID].state == leased { // its copy is read before Moved is told
			v := m.e.Offer(m.now, &Job{ID: x.id, Shard: x.shard, Source: x.source, Tenant: x.tenant, Type: x.typ, FromLane: true,
				Home: Home{Topic: TopicSpill, Offset: m.offset}})
			if v.Kind != Known {
				m.t.Fatalf("the copy of a running job: %+v", v)
			}
		}
		home := Home{Topic: TopicSpill, Offset: m.offset}
		m.e.Moved(m.now, j.ID, home)
		if x.where == inEngine && m.e.jobs[j.ID] == nil {
			m.toLane(x, x.attempts)
		} else {
			x.home = home
		}
	}
	m.moving = nil
}

func (m *model) tick() {
	c := m.e.Tick(m.now)
	for _, s := range append([]Settlement(nil), c.Settlements...) {
		m.settle(s)
	}
	m.moving = append(m.moving, c.Moves...)
	for _, r := range append([]LaneRead(nil), c.Reads...) {
		k := [2]string{r.Source, r.Type}
		list := m.lanes[k]
		n := min(int(r.N), len(list))
		m.lanes[k] = append([]*modelJob(nil), list[n:]...)
		for _, x := range list[:n] {
			m.offer(x, true)
		}
		m.laneState(k)
		if len(m.lanes[k]) == 0 {
			m.e.LaneDrained(m.now, k[0], k[1])
		}
	}
}

func (m *model) detach(shard int32) {
	if m.shards[shard] == 0 {
		return
	}
	m.e.Detach(shard)
	delete(m.shards, shard)
	var pending []Settlement
	for _, s := range m.pending {
		if s.Job.Shard != shard {
			pending = append(pending, s)
		}
	}
	m.pending = pending
	var moving []*Job
	for _, j := range m.moving {
		if j.Shard != shard {
			moving = append(moving, j)
		}
	}
	m.moving = moving
	for tok := range m.leases {
		if tok.Shard == shard {
			delete(m.leases, tok)
		}
	}
	for k := range m.lanes {
		if s := k[0]; (s == "b" || s == "d") == (shard == 1) {
			delete(m.lanes, k)
		}
	}
	for _, id := range m.order { // the next owner reads what is not settled again
		if m.jobs[id].shard == shard {
			delete(m.jobs, id)
		}
	}
	var order []JobID
	for _, id := range m.order {
		if m.jobs[id] != nil {
			order = append(order, id)
		}
	}
	m.order = order
}

func TestModel(t *testing.T) { rapid.Check(t, program) }

func FuzzModel(f *testing.F) { f.Fuzz(rapid.MakeFuzz(program)) }

// program is a random program of commands, each answer held against the model and each count against an audit.
func program(t *rapid.T) {
	m := newModel(t)
	t.Repeat(map[string]func(*rapid.T){
		"arrive": func(t *rapid.T) { m.t = t; m.arrive(t) },
		"again": func(t *rapid.T) {
			m.t = t
			if len(m.order) == 0 {
				return
			}
			x := m.jobs[rapid.SampledFrom(m.order).Draw(t, "job")]
			if x.where == inLane || x.where == dropped || m.shards[x.shard] == 0 || x.where == settled && m.now.Sub(x.seen) > 2*time.Minute {
				return
			}
			other := x.home
			other.Offset += 1 << 40
			other.Topic = Topic(x.prio)
			for _, home := range []Home{x.home, other} {
				v := m.e.Offer(m.now, &Job{ID: x.id, Shard: x.shard, Source: x.source, Tenant: x.tenant, Type: x.typ, Home: home})
				want := Duplicate
				if home == x.home && x.where == inEngine {
					want = Known
				}
				if v.Kind != want {
					t.Fatalf("offered again: %+v, want %d; %+v", v, want, x)
				}
			}
		},
		"join": func(t *rapid.T) {
			w := rapid.SampledFrom(modelWorkers).Draw(t, "worker")
			m.e.Join(m.now, w)
			m.sent[w.ID] = 0
		},
		"leave":       func(t *rapid.T) { m.e.Leave(m.now, rapid.SampledFrom(modelWorkers).Draw(t, "worker").ID) },
		"drainWorker": func(t *rapid.T) { m.e.Drain(m.now, rapid.SampledFrom(modelWorkers).Draw(t, "worker").ID) },
		"credit": func(t *rapid.T) {
			w := rapid.SampledFrom(modelWorkers).Draw(t, "worker")
			m.e.Credit(m.now, w.ID, rapid.Int32Range(0, 5).Draw(t, "free"), rapid.Int64Range(0, m.sent[w.ID]).Draw(t, "seen"))
		},
		"ticket": func(t *rapid.T) {
			m.e.Ticket(m.now, rapid.SampledFrom(modelWorkers).Draw(t, "worker").ID, rapid.Int32Range(1, 3).Draw(t, "n"))
		},
		"next": func(t *rapid.T) { m.t = t; m.drain(10000) },
		"done": func(t *rapid.T) {
			m.t = t
			live := m.live()
			if len(live) == 0 {
				return
			}
			tok := rapid.SampledFrom(live).Draw(t, "token")
			l := m.leases[tok]
			kind := ResultKind(rapid.IntRange(1, 4).Draw(t, "kind"))
			r := Result{Token: tok, JobID: l.job.id, Kind: kind, Delay: rapid.SampledFrom([]time.Duration{0, time.Second}).Draw(t, "delay")}
			if s := m.e.Done(m.now, "nobody", r); s.Kind != Refused {
				t.Fatalf("another worker's report was taken: %+v", s)
			}
			s := m.e.Done(m.now, l.worker, r)
			if s.Kind == Refused || s.Kind == Repeated {
				t.Fatalf("report of a live lease: %+v", s)
			}
			m.settle(s)
			if s := m.e.Done(m.now, l.worker, r); s.Kind != Repeated {
				t.Fatalf("report repeated: %+v", s)
			}
		},
		"settled": func(t *rapid.T) { m.t = t; m.flush() },
		"return": func(t *rapid.T) {
			live := m.live()
			if len(live) == 0 {
				return
			}
			tok := rapid.SampledFrom(live).Draw(t, "token")
			l := m.leases[tok]
			why := rapid.SampledFrom([]ReturnReason{NotStarted, Draining}).Draw(t, "why")
			m.e.Return(m.now, l.worker, tok, why, 0, 0)
			delete(m.leases, tok)
			if why == NotStarted { // as if it had never been granted
				g := m.grants[l.job.source]
				m.grants[l.job.source] = g[:max(0, len(g)-1)]
			}
		},
		"renew": func(t *rapid.T) {
			for _, tok := range m.live() {
				m.e.Started(m.now, m.leases[tok].worker, []Token{tok})
				m.e.Renew(m.now, m.leases[tok].worker, []Token{tok})
			}
		},
		"reconcile": func(t *rapid.T) {
			w := rapid.SampledFrom(modelWorkers).Draw(t, "worker")
			var held []Token
			for tok, l := range m.leases {
				if l.worker != w.ID {
					continue
				}
				if l.over || tok.Counter%2 == 0 {
					held = append(held, tok)
				} else {
					delete(m.leases, tok)
				}
			}
			m.grants = map[string][]time.Time{} // not started: as if never granted
			strange := Token{Shard: 0, Epoch: -1, Counter: 1}
			if lost := m.e.Reconcile(m.now, w.ID, append(held, strange), func(int32) bool { return true }); len(lost) != 1 || lost[0] != strange {
				t.Fatalf("lost %v", lost)
			}
		},
		"inherit": func(t *rapid.T) {
			m.t = t
			if len(m.order) == 0 {
				return
			}
			x := m.jobs[rapid.SampledFrom(m.order).Draw(t, "job")]
			m.offset++
			tok := Token{Shard: x.shard, Epoch: 0, Counter: m.offset}
			j := m.e.jobs[x.id]
			if j != nil && rapid.Bool().Draw(t, "quarantined") {
				j.Quarantine = m.now // over, but a former owner may have granted it
			}
			free := j != nil && (j.state == queued || j.state == waiting) && !j.Quarantine.IsZero()
			if m.shards[x.shard] == 0 || x.where != inEngine {
				return
			}
			if ok := m.e.Inherit(m.now, "w0", "s", x.id, tok, m.now); ok != free {
				t.Fatalf("inherited: %v, want %v", ok, free)
			}
			if free {
				x.ready = time.Time{} // it began elsewhere
				m.leases[tok] = &modelLease{job: x, worker: "w0"}
				m.tokens = append(m.tokens, tok)
			}
		},
		"heard": func(t *rapid.T) {
			s := Summary{Pool: "t", Borrowed: 2, C: .1, Borrowers: []Borrower{{Demand: 3, Weight: 1}}}
			s.Priorities[Default] = PriorityLoad{Mean: 1, Variance: 1, Running: 2, ActiveWeight: 2, Queued: true, LeastTag: 1}
			m.e.Heard(m.now, "other", s.list())
			m.e.Latest(m.now, "w0", Default, rapid.Float64Range(0, 10).Draw(t, "v"))
			m.e.Summary(m.now)
		},
		"hold": func(t *rapid.T) {
			var s Switch
			s.Scope.Kind = ScopeKind(rapid.IntRange(1, 3).Draw(t, "scope"))
			if s.Scope.Kind != ScopeTenant {
				s.Scope.Source = rapid.SampledFrom(modelSources).Draw(t, "source")
			}
			if s.Scope.Kind != ScopeSource {
				s.Scope.Tenant = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "tenant")
			}
			s.Verb = Verb(rapid.IntRange(1, 4).Draw(t, "verb"))
			s.Rate, s.At = 5, m.now
			s.To = Priority(rapid.IntRange(0, 4).Draw(t, "to"))
			if rapid.Bool().Draw(t, "until") {
				s.Until = m.now.Add(5 * time.Second)
			}
			var list []Switch
			for _, o := range m.control.Switches {
				if o.Scope != s.Scope {
					list = append(list, o)
				}
			}
			m.control.Switches = append(list, s)
			m.apply()
		},
		"resume": func(t *rapid.T) { m.control.Switches = nil; m.apply() },
		"policy": func(t *rapid.T) {
			name := rapid.SampledFrom(modelSources).Draw(t, "source")
			p := Policy{MaxPriority: Priority(rapid.IntRange(0, 4).Draw(t, "ceiling")), Weight: rapid.SampledFrom([]int32{0, 50, 300}).Draw(t, "weight")}
			if rapid.Bool().Draw(t, "rated") {
				rate, burst := rapid.SampledFrom([]float64{.5, 2, 20}).Draw(t, "rate"), rapid.Int32Range(1, 5).Draw(t, "burst")
				p.Quota.Rate, p.Quota.Burst = &rate, &burst
			}
			live := 0
			for _, l := range m.leases {
				if l.job.source == name && !l.over {
					live++
				}
			}
			if rapid.Bool().Draw(t, "capped") {
				c := rapid.Int32Range(0, 4).Draw(t, "concurrency")
				p.Quota.Concurrency = &c
			}
			sources := map[string]Policy{}
			for k, v := range m.control.Sources {
				sources[k] = v
			}
			sources[name] = p
			m.control.Sources = sources
			m.grants[name] = nil
			m.apply()
		},
		"pinned": func(t *rapid.T) { m.e.Pinned(m.now, append([]JobID(nil), m.order...)) },
		"time": func(t *rapid.T) {
			m.t = t
			m.now = m.now.Add(rapid.SampledFrom([]time.Duration{time.Millisecond, 15 * time.Millisecond, time.Second, 6 * time.Second, 25 * time.Second}).Draw(t, "d"))
			m.tick()
		},
		"detach": func(t *rapid.T) {
			if rapid.IntRange(0, 3).Draw(t, "dice") == 0 {
				m.detach(rapid.Int32Range(0, 1).Draw(t, "shard"))
			}
		},
		"attach": func(t *rapid.T) {
			m.last = map[int32]Token{}
			m.attach(rapid.Int32Range(0, 1).Draw(t, "shard"))
		},
		"": func(t *rapid.T) {
			if err := audit(m.e); err != nil {
				t.Fatalf("%v\n%s", err, m.e.Dump(m.now))
			}
			for _, id := range m.order {
				x := m.jobs[id]
				if has := m.e.jobs[id] != nil; has != (x.where == inEngine) {
					t.Fatalf("job %x: in the engine %v, want %v", id, has, x.where == inEngine)
				}
			}
		},
	})
	m.finish(t)
}

// finish gives everybody workers, quotas and time: every job must come to its end.
func (m *model) finish(t *rapid.T) {
	m.t = t
	m.flush()
	m.control.Switches = nil
	for _, s := range modelSources {
		m.control.Sources[s] = Policy{MaxPriority: Critical}
	}
	m.apply()
	for i := range int32(2) {
		if m.shards[i] == 0 {
			m.attach(i)
		}
	}
	for _, w := range modelWorkers {
		m.e.Join(m.now, w)
		m.sent[w.ID] = 0
	}
	for range 600 {
		left := 0
		for _, x := range m.jobs {
			if x.where < settled {
				left++
			}
		}
		if left == 0 {
			return
		}
		for _, tok := range m.live() {
			l := m.leases[tok]
			m.settle(m.e.Done(m.now, l.worker, Result{Token: tok, JobID: l.job.id, Kind: Success}))
		}
		m.flush()
		for _, w := range modelWorkers {
			m.e.Credit(m.now, w.ID, w.Concurrency, m.sent[w.ID])
		}
		m.drain(10000)
		m.now = m.now.Add(100 * time.Millisecond)
		m.tick()
		m.flush()
	}
	for _, x := range m.jobs {
		if x.where < settled {
			t.Fatalf("job %+v never came to its end: %s\n%s", x, fmt.Sprint(m.e.jobs[x.id]), m.e.Dump(m.now))
		}
	}
}
