package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/pkg/telemetry"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

const (
	// tickEvery is how often the engine does what time demands (scheduling.md §6: the moving averages of need count it).
	tickEvery = 10 * time.Millisecond
	// batch is how many decisions are taken before others get at the engine: about 100 µs of its lock.
	batch = 256
	// auditEvery is how often sessions are looked at for age and slowness.
	auditEvery = time.Second
	// maxMissed is how many looks of the watchdog the pump may spend on one turn, which normally takes microseconds.
	maxMissed = 60
)

// Config sizes the room. The zero value of a field means its default; Replica is required.
type Config struct {
	Replica string
	// TTL is how long a lease is valid without renewal; RenewEvery is how often a worker renews. 20 s and 5 s; they belong
	// to the one profile of times that every service checks at start (architecture.md §6).
	TTL, RenewEvery time.Duration
	// MaxAge is how old a stream gets before its worker is asked to open another one. 29 min: the server closes
	// connections that are 30 min old.
	MaxAge time.Duration
	// SlotsPerCaller bounds the slots of all workers of one caller (S18). 20,000.
	SlotsPerCaller int32
}

func (c *Config) setDefaults() {
	c.TTL = orDefault(c.TTL, 20*time.Second)
	c.RenewEvery = orDefault(c.RenewEvery, 5*time.Second)
	c.MaxAge = orDefault(c.MaxAge, 29*time.Minute)
	c.SlotsPerCaller = orDefault(c.SlotsPerCaller, 20_000)
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// Deps are the rooms around. Ports that need the Loop themselves are set by Connect, before Run.
type Deps struct {
	Log       *slog.Logger
	Engine    *core.Engine         // the loop owns it from New on
	Telemetry *telemetry.Telemetry // nil: nothing is metered
}

// Ports are the other rooms, as this one needs them. All are required.
type Ports struct {
	Settler Settler
	Mover   Mover
	Reader  Reader
	Gate    Gate
	Beat    Beat
}

// Loop owns the engine and the sessions of all workers.
type Loop struct {
	cfg   Config
	log   *slog.Logger
	ports Ports
	meter *meter
	wake  chan struct{} // 1-deep: the engine was told something

	mu       sync.Mutex // guards the engine and all that follows; nothing blocks while it is held
	engine   *core.Engine
	sessions map[string]*Session // by worker
	bindings map[string]binding  // by worker: whose it is
	slots    map[string]int32    // by caller: of open sessions
	shards   map[int32]int64     // owned, with their epochs
	topology []frame.Replica
	leaving  *frame.Farewell // set: no new session
	holds    []hold          // applied and not acknowledged, oldest first
	applied  int64           // sequence of the last control state
	touched  []*Session      // room for pump
	waiting  []waiting       // in order of time; one for each first answer in an outbox within 50 ms

	acknowledged atomic.Int64
}

// binding says to which caller a worker's id belongs while it may hold leases.
type binding struct {
	who   frame.Identity
	until time.Time // zero: a session is open
}

// New makes a loop. Before Run, Connect must be called.
func New(cfg Config, deps Deps) *Loop {
	cfg.setDefaults()
	l := &Loop{
		cfg: cfg, log: deps.Log, engine: deps.Engine, meter: newMeter(deps.Telemetry, deps.Log), wake: make(chan struct{}, 1),
		sessions: map[string]*Session{}, bindings: map[string]binding{}, slots: map[string]int32{}, shards: map[int32]int64{},
		applied: -1,
	}
	l.acknowledged.Store(-1)
	return l
}

// Connect sets the ports: rooms that need the loop are made after it. It must be called before Run and the first session.
func (l *Loop) Connect(p Ports) { l.ports = p }

// Do runs f with the engine, alone, and wakes the pump. f must not block, keep the engine or call the loop.
func (l *Loop) Do(f func(now time.Time, e *core.Engine)) {
	l.mu.Lock()
	f(time.Now(), l.engine)
	l.mu.Unlock()
	wake(l.wake)
}

// Run grants, and does what time demands, until ctx ends. Then it ends every session. It fails when the pump has been stuck for 60 s: a
// replica that heartbeats and grants nothing has to go (H16).
func (l *Loop) Run(ctx context.Context) error {
	var turns atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, &turns)
	}()
	look := time.NewTicker(auditEvery)
	defer look.Stop()
	last, missed := int64(0), 0
	for {
		select {
		case <-done:
			return nil
		case <-look.C:
			// Looks are counted, not time: a process that was stopped for an hour has missed one.
			if n := turns.Load(); n != last {
				last, missed = n, 0
			} else if missed++; missed > maxMissed {
				return fmt.Errorf("dispatch: the pump has been stuck for %s", maxMissed*auditEvery)
			}
		}
	}
}

// run is the pump.
func (l *Loop) run(ctx context.Context, turns *atomic.Int64) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	next := time.NewTimer(time.Hour)
	defer next.Stop()
	audit := time.Now().Add(auditEvery)
	for {
		select {
		case <-ctx.Done():
			l.close()
			return
		case <-l.wake:
		case <-next.C:
		case now := <-tick.C:
			turns.Add(1)
			l.tick()
			if now.After(audit) {
				audit = now.Add(auditEvery)
				l.audit(now)
			}
		}
		if until := l.pump(); !until.IsZero() {
			next.Reset(max(0, time.Until(until)))
		}
	}
}

// pump carries out decisions until the engine is idle or the gate shuts. It returns when the engine wants to be asked again; zero: when
// it is told something.
func (l *Loop) pump() time.Time {
	for {
		until, more := l.decide()
		for i, s := range l.touched {
			wake(s.ready)
			l.touched[i] = nil
		}
		l.touched = l.touched[:0]
		if !more {
			return until
		}
	}
}

// decide takes one batch of decisions. Sessions that got something are in touched, woken by the caller without the lock.
func (l *Loop) decide() (until time.Time, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.leaving != nil || !l.ports.Gate.Open(now, l.applied) {
		return time.Time{}, false // the next tick asks again
	}
	for range batch {
		a := l.engine.Next(now)
		if a.Kind == core.Idle {
			return a.Until, false
		}
		s := l.sessions[a.Worker]
		if s == nil {
			// The engine knows only workers with a session: Open and Close tell it under the same lock.
			l.log.Error("a decision for a worker without a stream", "worker_id", a.Worker)
			continue
		}
		s.mu.Lock()
		s.out.act(now, a)
		s.out.urgent = true
		slow := s.out.full()
		s.mu.Unlock()
		if slow {
			s.fail(frame.ErrSlow)
		}
		if !slices.Contains(l.touched, s) {
			l.touched = append(l.touched, s)
		}
	}
	return time.Time{}, true
}

// tick does the engine's chores.
func (l *Loop) tick() {
	l.mu.Lock()
	now := time.Now()
	chores := l.engine.Tick(now)
	settlements, reads := slices.Clone(chores.Settlements), slices.Clone(chores.Reads)
	moves, from := slices.Clone(chores.Moves), slices.Clone(chores.From)
	for _, r := range chores.Revokes {
		if s := l.sessions[r.Worker]; s != nil && l.owns(r.Token) { // the leases of a shard that is handed over are the next owner's
			s.put(now, func(o *outbox) { f := o.last(now); f.Revokes = append(f.Revokes, r) })
		}
	}
	var summary []core.Summary
	if chores.SummaryDue {
		summary = l.engine.Summary(now)
	}
	acknowledged := l.decideHolds(now)
	l.flush(now)
	l.mu.Unlock()

	for _, s := range settlements {
		l.ports.Settler.Settle(s)
	}
	if len(moves) > 0 {
		l.ports.Mover.Move(moves, from)
	}
	if len(reads) > 0 {
		l.ports.Reader.Read(reads)
	}
	if chores.SummaryDue {
		l.ports.Beat.Summarise(summary)
	}
	if chores.MarksDue || acknowledged {
		l.ports.Beat.Poke()
	}
}

// audit ends what has lasted too long: slow sessions, old streams, bindings without leases.
func (l *Loop) audit(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sessions {
		s.mu.Lock()
		slow := s.out.over(now)
		s.mu.Unlock()
		switch {
		case slow:
			s.fail(frame.ErrSlow)
		case !s.told && now.After(s.end):
			s.told = true
			s.Farewell(frame.Farewell{Reason: "the stream is old", Within: time.Minute})
		}
	}
	maps.DeleteFunc(l.bindings, func(_ string, b binding) bool { return !b.until.IsZero() && now.After(b.until) })
}

// close ends all sessions.
func (l *Loop) close() {
	l.mu.Lock()
	open := slices.Collect(maps.Values(l.sessions))
	l.mu.Unlock()
	for _, s := range open {
		s.fail(frame.ErrStopping)
	}
}

// Settled tells a worker that the result of a lease is durable, within 50 ms.
func (l *Loop) Settled(worker string, t core.Token) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sessions[worker]; s != nil {
		if now := time.Now(); s.settled(now, t) {
			l.waiting = append(l.waiting, waiting{s, now.Add(settledWait)})
		}
	}
}

// waiting is a session whose outbox may hold nothing but answers that can wait until a time.
type waiting struct {
	session *Session
	until   time.Time
}

// flush wakes the writers of sessions whose answers have waited long enough. It is called with the engine locked.
func (l *Loop) flush(now time.Time) {
	n := 0
	for n < len(l.waiting) && !now.Before(l.waiting[n].until) {
		wake(l.waiting[n].session.ready)
		n++
	}
	l.waiting = slices.Delete(l.waiting, 0, n)
}

// SetTopology tells every worker which replicas there are, if that has changed. The order of replicas does not matter.
func (l *Loop) SetTopology(replicas []frame.Replica) {
	replicas = slices.Clone(replicas)
	slices.SortFunc(replicas, func(a, b frame.Replica) int { return compare(a.ID, b.ID) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(replicas) == 0 || slices.EqualFunc(l.topology, replicas, sameReplica) {
		return
	}
	l.topology = replicas
	now := time.Now()
	for _, s := range l.sessions {
		s.put(now, func(o *outbox) { o.last(now).Topology = replicas })
	}
}

// Drain grants no more, asks every worker to go elsewhere and refuses new sessions. Open sessions take results until Run's context ends.
// It is the first step of a stop.
func (l *Loop) Drain(reason string, within time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaving = &frame.Farewell{Reason: reason, Within: within}
	now := time.Now()
	for _, s := range l.sessions {
		s.told = true
		s.put(now, func(o *outbox) { o.last(now).Farewell = l.leaving })
	}
}

// Sessions is the number of open sessions: the replica joins the group at once when a worker is connected.
func (l *Loop) Sessions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sessions)
}

// Heard takes another replica's summaries.
func (l *Loop) Heard(replica string, s []core.Summary) {
	if replica == l.cfg.Replica {
		return
	}
	l.Do(func(now time.Time, e *core.Engine) { e.Heard(now, replica, s) })
}

func sameReplica(a, b frame.Replica) bool {
	return a.ID == b.ID && a.Address == b.Address && slices.Equal(a.Shards, b.Shards)
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
