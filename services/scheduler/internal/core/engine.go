package core

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core/dedupe"
	"github.com/spillway/spillway/services/scheduler/internal/core/heap"
)

// Config sizes an engine. The zero value of a field means its default.
type Config struct {
	Seed        uint64        // of the backoff's jitter and the choice of workers
	Memory      int           // bytes of queued jobs in all; 0 = 64 MiB
	Remembered  int           // bytes of remembered ids of all shards and sources, 2 min of 10,000 jobs a second; 0 = 80 MiB
	DedupeBytes int           // of remembered ids that callers chose, per source; 0 = 4 MiB
	TTL         time.Duration // of a lease; 0 = 20 s
	Reserve     float64       // the part of others' need that is never lent; 0 = 0.7
	Default     Policy        // of sources that Control does not name
}

// Engine decides what runs next. One goroutine owns it.
type Engine struct {
	cfg   Config
	rng   *rand.Rand
	start time.Time // the first now: moment 0
	last  moment    // the latest; time does not go back

	control   effects
	untilNext moment // when the first switch expires

	shards  map[int32]*shard
	sources map[string]*source
	jobs    map[JobID]*Job // every job the engine has, and no other (TestModel)
	bytes   int            // Σ size of queued and waiting jobs, overhead included; ≤ cfg.Memory but for lanes' jobs and retries
	timers  heap.Heap[*timer]

	leases     map[Token]*Job // granted or settling; one token a job
	running    []*Job         // leased, in no order
	firstLease *Job           // leased, by expiry
	lastLease  *Job
	sweepRun   int
	renewed    []Token // results of Renew
	lost       []Token

	workers map[string]*worker
	groups  map[string]*group
	kinds   map[string]*kind
	pools   map[string]*pool
	heard   map[string]heard
	dirty   []*pool // something changed since Next found nothing to do
	out     []Action
	outAt   int

	eldest, youngest *Job // not from a lane, by the time of their Offer
	expiring         []*Job
	sweepExp         int
	idle             []*flow // by idleAt
	idleAt           int
	lanes            []*pair // with a backlog
	toRead           []LaneRead
	evicted          int64              // ids that gave way before their window was over
	told             int                // ids remembered since evict looked
	marked           map[*pair]struct{} // whole, or with strands that spill
	marks            bool               // Spilling changed

	settlements, settled []Settlement // to hand out, handed out last
	moves, movesOut      []*Job
	from, fromOut        []Home // of moves
	revokes, revoked     []Revoke
}

// shard is what the engine has of one owned shard.
type shard struct {
	epoch   int64
	counter int64         // of the last token in this epoch
	ids     dedupe.Window // settled ids made by the SDK or without a key
	claims  map[JobID]*claim
	claimed map[Token]*claim // the same, by token
}

// New returns an engine without shards, workers or jobs. It reads no clock: every method takes now, which never goes
// back.
func New(cfg Config) *Engine {
	if cfg.Memory <= 0 {
		cfg.Memory = 64 << 20
	}
	if cfg.Remembered <= 0 {
		cfg.Remembered = 80 << 20
	}
	if cfg.DedupeBytes <= 0 {
		cfg.DedupeBytes = 4 << 20
	}
	if cfg.TTL <= 0 {
		cfg.TTL = 20 * time.Second
	}
	if cfg.Reserve <= 0 {
		cfg.Reserve = 0.7
	}
	return &Engine{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x5911)), untilNext: never,
		shards: make(map[int32]*shard), sources: make(map[string]*source), jobs: make(map[JobID]*Job),
		leases: make(map[Token]*Job), workers: make(map[string]*worker), groups: make(map[string]*group),
		kinds: make(map[string]*kind), pools: make(map[string]*pool), heard: make(map[string]heard),
		marked: make(map[*pair]struct{}),
	}
}

// at is a wall or monotonic time as a moment.
func (e *Engine) at(t time.Time) moment { return t.Sub(e.start) }

func (e *Engine) wall(t moment) time.Time { return e.start.Add(t) }

// advance takes the time in and does what was due by it.
func (e *Engine) advance(now time.Time) moment {
	if e.start.IsZero() {
		e.start = now
	}
	t := max(e.last, now.Sub(e.start))
	e.last = t
	for e.timers.Len() > 0 && e.timers.Top().at <= t {
		x := e.timers.Top()
		e.timers.Remove(x)
		switch {
		case x.src != nil:
			e.checkSource(t, x.src)
		case x.flow != nil:
			e.check(t, x.flow)
		default:
			j := x.job
			j.waits[j.cause] += t - j.since
			e.enqueue(t, j, false)
		}
	}
	return t
}

// wake is when Next should be called again though nothing is told; zero = not before.
func (e *Engine) wake() time.Time {
	if e.timers.Len() == 0 {
		return time.Time{}
	}
	return e.wall(e.timers.Top().at)
}

// Attach makes the engine the owner of a shard under an epoch: its jobs may be offered. Attaching it again under
// a higher epoch keeps queued jobs and running leases (resumed without a foreign fence); new tokens have the new epoch.
func (e *Engine) Attach(now time.Time, id int32, epoch int64) {
	e.advance(now)
	sh := e.shards[id]
	if sh == nil {
		sh = &shard{epoch: epoch, claims: make(map[JobID]*claim), claimed: make(map[Token]*claim)}
		e.shards[id] = sh
	}
	if epoch > sh.epoch {
		sh.epoch, sh.counter = epoch, 0
	}
}

// Detach forgets a shard: its jobs, leases, settled ids, lanes. Reports about them are refused from then on.
func (e *Engine) Detach(id int32) {
	if e.shards[id] == nil {
		return
	}
	t := e.last
	for _, j := range e.jobs {
		if j.Shard != id {
			continue
		}
		switch j.state {
		case queued:
			e.dequeue(t, j)
		case leased:
			e.end(t, j)
		}
		delete(e.leases, j.lease.token)
		e.forget(t, j)
	}
	for name, s := range e.sources {
		if s.shard == id {
			e.discard(t, name, s)
		}
	}
	e.settlements = keep(e.settlements, func(s Settlement) bool { return s.Job.Shard != id })
	moves, from := e.moves[:0], e.from[:0]
	for i, j := range e.moves {
		if j.Shard != id {
			moves, from = append(moves, j), append(from, e.from[i])
		}
	}
	clear(e.moves[len(moves):])
	e.moves, e.from = moves, from
	delete(e.shards, id)
	e.marks = true
}

// Leases is the number of leases that are running or being settled: none when the replica may stop without leaving work behind.
func (e *Engine) Leases() int { return len(e.leases) }

// discard forgets a source that has no jobs.
func (e *Engine) discard(t moment, name string, s *source) {
	e.arm(&s.timer, never)
	for _, f := range s.flows {
		e.arm(&f.timer, never)
	}
	s.flows = nil
	for _, l := range s.lines {
		l.lane = 0
		l.lend(t, false)
		if l.active != 0 {
			l.pool.deactivate(l)
		}
	}
	for _, p := range s.pairs {
		p.lane, p.laneLine = LaneState{}, nil
		delete(e.marked, p)
	}
	delete(e.sources, name)
}

// forget lets go of a job in no queue and without a lease.
func (e *Engine) forget(t moment, j *Job) {
	e.arm(&j.timer, never)
	e.uncount(j)
	e.unlink(j)
	e.unlist(j)
	delete(e.jobs, j.ID)
	f := j.strand.flow
	j.state = gone
	if f.jobs--; f.jobs == 0 {
		e.retire(t, f)
	}
}

// link puts a job at the young end of the list by age.
func (e *Engine) link(j *Job) {
	if j.aged || j.FromLane {
		return
	}
	j.aged, j.older, j.younger = true, e.youngest, nil
	if e.youngest != nil {
		e.youngest.younger = j
	} else {
		e.eldest = j
	}
	e.youngest = j
}

func (e *Engine) unlink(j *Job) {
	if !j.aged {
		return
	}
	if j.older != nil {
		j.older.younger = j.younger
	} else {
		e.eldest = j.younger
	}
	if j.younger != nil {
		j.younger.older = j.older
	} else {
		e.youngest = j.older
	}
	j.aged, j.older, j.younger = false, nil, nil
}

// unlist takes a job off the list of those with an expiry.
func (e *Engine) unlist(j *Job) {
	if j.expireIdx != 0 {
		e.expiring = toggle(e.expiring, j, &j.expireIdx, func(o *Job) *int { return &o.expireIdx })
	}
}

// toggle adds x to a list without order, or takes it out by moving the last one to its place.
func toggle[T any](list []*T, x *T, at *int, place func(*T) *int) []*T {
	if *at == 0 {
		list = append(list, x)
		*at = len(list)
		return list
	}
	last := len(list) - 1
	moved := list[last]
	list[*at-1] = moved
	*place(moved) = *at
	*at = 0
	list[last] = nil
	return list[:last]
}

// keep filters in place.
func keep[T any](list []T, ok func(T) bool) []T {
	kept := list[:0]
	for _, x := range list {
		if ok(x) {
			kept = append(kept, x)
		}
	}
	clear(list[len(kept):])
	return kept
}

// moment is engine time: since the first now the engine was told. It never goes back.
type moment = time.Duration

// never is later than every moment.
const never moment = 1<<63 - 1

// timer wakes one job, source or flow; exactly one of the three is set.
type timer struct {
	at   moment
	idx  int32
	job  *Job
	src  *source
	flow *flow
}

func (t *timer) Before(u *timer) bool { return t.at < u.at }
func (t *timer) Slot() *int32         { return &t.idx }

// arm sets the timer, whether or not it was set; never disarms it.
func (e *Engine) arm(t *timer, at moment) {
	switch {
	case at == never:
		if t.idx != 0 {
			e.timers.Remove(t)
		}
	case t.idx != 0:
		t.at = at
		e.timers.Fix(t)
	default:
		t.at = at
		e.timers.Push(t)
	}
}

// Dump describes the engine for people; its text is not an interface.
func (e *Engine) Dump(now time.Time) string {
	t := e.advance(now)
	var b strings.Builder
	fmt.Fprintf(&b, "jobs %d, leases %d, bytes %d, shards %d, sources %d, evicted ids %d\n",
		len(e.jobs), len(e.leases), e.bytes, len(e.shards), len(e.sources), e.evicted)
	for _, name := range sortedKeys(e.pools) {
		p := e.pools[name]
		fmt.Fprintf(&b, "pool %s: slots %g open %g running %d borrowed %d back %.2f\n",
			name, p.slots, p.open(), p.run, p.borrowed, p.back())
		for q := len(p.bands) - 1; q >= 0; q-- {
			x := &p.bands[q]
			fmt.Fprintf(&b, "  %-8s floor %g running %g need %.2f keep %.2f v %.3f\n",
				Priority(q), x.floor, x.running(), x.n, p.k(Priority(q)), x.v)
		}
	}
	for _, name := range sortedKeys(e.sources) {
		s := e.sources[name]
		fmt.Fprintf(&b, "source %s: shard %d queued %d running %d off %v held %v\n",
			name, s.shard, s.queued, s.limit.running, s.off, s.held)
		for _, l := range s.lines {
			if l.active > 0 {
				fmt.Fprintf(&b, "  %s in %s: tag %.3f running %d queued %d lane %d borrower %v for %v\n", l.prio, l.pool.name,
					l.f, l.run, l.queued, l.lane, l.borrower, max(0, l.borrowEnd-t).Round(time.Millisecond))
			}
		}
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
