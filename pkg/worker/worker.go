package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/share"
)

// renewEvery is how often leases are renewed until a replica says otherwise: three tries within the 16 s of a context.
const renewEvery = 5 * time.Second

// renewHarder is how much more often leases are renewed while a replica does not answer: it has no contact with the log, and the contexts of jobs must
// not end because it came back just after a renewal.
const renewHarder = 5

// Worker runs jobs. Make it with New, tell it what it can do with Handle, then Run it once.
type Worker struct {
	cfg  Config
	id   string
	log  *slog.Logger
	jobs sync.WaitGroup // goroutines of running jobs

	clockWake chan struct{} // 1-deep: armed has become earlier
	changed   chan struct{} // 1-deep: the topology or the set of streams has changed
	empty     chan struct{} // 1-deep: while draining, no lease or no result is left

	mu         sync.Mutex // guards all that follows; nothing blocks while it is held
	ran        bool
	handlers   map[string]Handler
	middleware []Middleware
	types      []string

	slots      *share.Divider
	tags       []share.Tag       // room for Take
	leases     map[Token]*lease  // accepted, handler not returned: at most Concurrency
	unsettled  map[Token]*report // at most maxUnsettled, plus those of the jobs running when that was reached
	owed       int               // slots of ended jobs that stay taken until results are settled
	wheel      wheel
	armed      time.Time // when the clock will wake; zero: not decided yet
	awake      bool      // the clock holds mu and will look at armed
	renewEvery time.Duration
	nextRenew  time.Time

	links     []*link
	linkCount int
	topology  []*replica
	owners    map[int32]owner // by shard
	draining  bool
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Worker, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Drain == 0 {
		cfg.Drain = defaultDrain
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	id := newID()
	return &Worker{
		cfg: cfg, id: id, log: cfg.Log.With("worker_id", id),
		clockWake: make(chan struct{}, 1), changed: make(chan struct{}, 1), empty: make(chan struct{}, 1),
		handlers: map[string]Handler{}, leases: map[Token]*lease{}, unsettled: map[Token]*report{}, owners: map[int32]owner{},
		slots: share.New(cfg.Concurrency), tags: make([]share.Tag, 0, share.Priorities), renewEvery: renewEvery,
	}, nil
}

// newID is a random UUID, one for the life of the worker: a lease is bound to it.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// ID is the worker's identity: a UUID, new for each Worker.
func (w *Worker) ID() string { return w.id }

// Handle says what runs the jobs of a type. It panics when the type has a handler already, h is nil or Run was called.
func (w *Worker) Handle(typ string, h Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.ran:
		panic("worker: Handle after Run")
	case h == nil:
		panic("worker: nil handler for type " + typ)
	case w.handlers[typ] != nil:
		panic("worker: two handlers for type " + typ)
	}
	w.handlers[typ] = h
}

// Use adds middleware around all handlers, also those that were added before. It panics when Run was called.
func (w *Worker) Use(m ...Middleware) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ran {
		panic("worker: Use after Run")
	}
	w.middleware = append(w.middleware, m...)
}

// handlerOf is called without the lock: after Run has begun the map does not change.
func (w *Worker) handlerOf(typ string) Handler {
	if h := w.handlers[typ]; h != nil {
		return h
	}
	return func(context.Context, *Job) error {
		return &reasonError{rpc.ReasonNoHandler, "no handler for type " + typ}
	}
}

// Run connects and runs jobs until ctx ends. Then it takes no more, waits up to Config.Drain for those that are
// running, ends the contexts of the rest, and waits up to 10 s until every result is durable. It returns nil when
// nothing was left, else an error that says how much; what was left runs again on another worker. A handler that
// ignores the end of its context goes on after Run has returned. Run may be called once.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.start(); err != nil {
		return err
	}
	inner, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	var parts sync.WaitGroup
	parts.Go(func() { w.clock(inner) })
	parts.Go(func() { w.connect(inner) })
	<-ctx.Done()
	err := w.drain()
	stop(errClosed)
	parts.Wait()
	return err
}

func (w *Worker) start() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ran {
		return errors.New("worker: Run was called before")
	}
	if len(w.handlers) == 0 {
		return errors.New("worker: no handlers")
	}
	w.ran = true
	for typ, h := range w.handlers {
		w.types = append(w.types, typ)
		for _, m := range slices.Backward(w.middleware) {
			h = m(h)
		}
		w.handlers[typ] = h
	}
	slices.Sort(w.types)
	w.wheel.start = time.Now()
	return nil
}

// drain stops taking jobs and waits for what there is.
func (w *Worker) drain() error {
	w.mu.Lock()
	now := time.Now()
	w.draining = true
	w.slots.Drain(now)
	for _, l := range w.links {
		l.draining = l.open && !l.closed
	}
	w.flush(now)
	w.quiet()
	w.mu.Unlock()

	if !w.waitFor(w.cfg.Drain, func() bool { return len(w.leases) == 0 }) {
		w.mu.Lock()
		for _, l := range w.leases {
			l.cancel(ErrStopping)
		}
		w.mu.Unlock()
		w.waitFor(drainGrace, func() bool { return len(w.leases) == 0 })
	}
	w.waitFor(settleWait, func() bool { return len(w.unsettled) == 0 })

	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.leases) > 0 || len(w.unsettled) > 0 {
		return fmt.Errorf("worker: stopped with %d jobs still running and %d results not settled", len(w.leases), len(w.unsettled))
	}
	return nil
}

// waitFor waits until done, which is called with the lock held, but no longer than limit.
func (w *Worker) waitFor(limit time.Duration, done func() bool) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		w.mu.Lock()
		ok := done()
		w.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-w.empty:
		case <-timer.C:
			return false
		}
	}
}

// quiet tells drain to look again.
func (w *Worker) quiet() {
	if !w.draining || len(w.leases) > 0 && len(w.unsettled) > 0 {
		return
	}
	select {
	case w.empty <- struct{}{}:
	default:
	}
}

// clock does what time demands: ends contexts and tickets, renews leases, repeats results, wakes writers whose credit
// is due. It sleeps until the earliest of these, and is woken when something earlier comes up.
func (w *Worker) clock(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.clockWake:
		case <-timer.C:
		}
		w.mu.Lock()
		w.awake, w.armed = true, time.Time{}
		now := time.Now()
		w.wheel.advance(now, func(l *lease) { w.overdue(now, l) })
		w.slots.Tick(now)
		if !now.Before(w.nextRenew) {
			w.nextRenew = now.Add(w.renewEvery)
			if w.renew(now) {
				w.nextRenew = now.Add(w.renewEvery / renewHarder)
			}
		}
		w.flush(now)
		w.need(w.wheel.next())
		w.need(w.nextRenew)
		w.awake = false
		timer.Reset(w.armed.Sub(now))
		w.mu.Unlock()
	}
}

// renew has every stream renew the leases of its replica, and repeats the results that were sent and not settled. unanswered: a replica has not
// answered the renewal before.
func (w *Worker) renew(now time.Time) (unanswered bool) {
	for _, held := range w.leases {
		if l := w.route(held.token.Shard, held.from); l != nil && l.open {
			l.renew = true
			unanswered = unanswered || !held.renewSent.IsZero()
		}
	}
	for _, r := range w.unsettled {
		if now.Sub(r.sent) >= w.renewEvery {
			w.queue(r)
		}
	}
	return unanswered
}
