package publish

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

const (
	// Deadline bounds a call. It outlasts the failover of a broker, 15 s at Kafka's defaults.
	Deadline = 20 * time.Second
	// DeliveryDeadline is how long a record is tried. It ends before Deadline by the time that connecting to a dead broker takes, so that the
	// producer's verdict, which knows what was never sent, arrives in time.
	DeliveryDeadline = 17 * time.Second
	// brokerRetry is what a caller is asked to wait when the log is away: a broker's restart takes seconds.
	brokerRetry = time.Second
	// look is how often the live notifiers are counted: nobody tells when one stops being live.
	look = 250 * time.Millisecond
)

// Config says where the room writes, and how much it holds.
type Config struct {
	// Topic is the full name of the topic notifications.
	Topic string
	// Inflight bounds the records whose produce has not ended, in bytes.
	Inflight int64
}

// Room makes notifications durable. Publish and Handle may be called from any goroutine.
type Room struct {
	config   Config
	ports    Ports
	tracer   tracer
	meter    *meter
	open     atomic.Bool
	replicas atomic.Int64 // live notifiers

	mu        sync.Mutex // of what follows; held for a decision, or a batch of them
	admission *core.Admission
	view      view
}

// New returns a room that refuses everything until Open. It starts nothing and does no I/O.
func New(config Config, ports Ports) (*Room, error) {
	m, err := newMeter(ports.Telemetry)
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	r := &Room{
		config: config, ports: ports, tracer: tracer{ports.Telemetry}, meter: m,
		admission: core.NewAdmission(time.Now(), config.Inflight), view: view{known: map[string]reading{}},
	}
	r.replicas.Store(1)
	return r, nil
}

// Open lets notifications in. The control log must have been folded once, and the topic found fit to hold them.
func (r *Room) Open() { r.open.Store(true) }

// Sequence is the control sequence that every decision from now on acts upon: one that was begun with an older state is over when it returns.
func (r *Room) Sequence() (sequence int64, hash []byte) {
	r.mu.Lock() // a decision takes its state under it
	state := r.ports.Control.State()
	r.mu.Unlock()
	return state.Sequence(), state.Hash()
}

// Pressure is the part of the byte budget that is in use, 0 to 1.
func (r *Room) Pressure() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	used, limit := r.admission.Inflight()
	return float64(used) / float64(limit)
}

// Run counts the live notifiers until ctx ends.
func (r *Room) Run(ctx context.Context) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		n := int64(max(len(r.ports.Beats.Live(logv1.ReplicaKind_REPLICA_KIND_NOTIFIER)), 1))
		if r.ports.Beats.Ready() != nil { // somebody may be missing: a part of the quota too small is better than one too large
			n = max(n, r.replicas.Load())
		}
		r.replicas.Store(n)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Publish decides about drafts and makes those that it admits durable. It returns a result for each, in order, when all are known, or when ctx or
// Deadline ends: what is then still on its way is of unknown fate. It calls judged, once or more, before it waits for the log: from then on it
// holds no data of the drafts, only records that the admission has counted. It changes the drafts.
func (r *Room) Publish(ctx context.Context, caller core.Caller, drafts []*core.Draft, judged func()) []core.Result {
	results := make([]core.Result, len(drafts))
	for i, d := range drafts {
		results[i].Refusal = check(d)
	}
	shards := int(r.ports.Control.State().Config().GetShards())
	if !r.open.Load() || shards == 0 {
		for i := range results {
			if results[i].Refusal == nil {
				results[i].Refusal = unavailable("the service has not read its configuration yet")
			}
		}
		return results
	}
	ctx, cancel := context.WithTimeout(ctx, Deadline)
	defer cancel()
	now := time.Now()
	r.admit(now, caller, drafts, results)
	r.produce(ctx, now, shards, drafts, results, judged)
	for i, d := range drafts {
		r.meter.count(ctx, d.Source, results[i].Refusal)
	}
	return results
}

// admit decides about the drafts that passed the check, all by the same state.
func (r *Room) admit(now time.Time, caller core.Caller, drafts []*core.Draft, results []core.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.view.refresh(r.ports.Control.State(), int(r.replicas.Load()))
	for i, d := range drafts {
		if results[i].Refusal == nil {
			results[i].Refusal = r.admission.Admit(now, caller, d, &r.view)
		}
	}
}

// release returns what an admitted draft held.
func (r *Room) release(source string, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.admission.Release(source, bytes)
}

// identify names a notification: by its job, or by its key, so that every try makes the same id.
func identify(now time.Time, d *core.Draft, shard int) string {
	switch {
	case d.JobID != "":
		return d.JobID
	case d.IdempotencyKey != "":
		return envelope.KeyedJobID(d.Source, d.IdempotencyKey, shard).String()
	}
	var random [8]byte
	rand.Read(random[:]) // never fails
	return envelope.NewJobID(now, shard, random).String()
}

// produce writes the records of all admitted drafts and fills in their results.
func (r *Room) produce(ctx context.Context, now time.Time, shards int, drafts []*core.Draft, results []core.Result, judged func()) {
	f := &flight{results: results, landed: make(chan struct{})}
	f.left.Store(1) // until everything was sent
	for i, d := range drafts {
		if f.refused(i) {
			d.Data = nil
			continue
		}
		source, bytes := d.Source, d.Bytes()
		shard := envelope.Shard(d.Channel, shards)
		id := identify(now, d, shard)
		rec, span, err := r.record(ctx, now, id, shard, d)
		d.Data = nil // from here on the record is all that is held
		finish := func(offset int64, err error) {
			span.end(err)
			r.release(source, bytes)
			f.land(i, core.Result{Refusal: fate(err), ID: id, Home: core.Home{Partition: int32(shard), Offset: offset}})
		}
		f.left.Add(1)
		if err != nil {
			finish(0, err)
			continue
		}
		if len(drafts) == 1 {
			judged()
			finish(r.ports.Producer.Produce(ctx, rec))
			continue
		}
		if err := r.ports.Producer.Send(rec, finish); err != nil {
			finish(0, err)
		}
	}
	judged()
	f.wait(ctx)
}

// flight is a batch whose records are on their way.
type flight struct {
	left   atomic.Int64
	landed chan struct{} // closed when left is 0

	mu      sync.Mutex
	results []core.Result
	over    bool // the caller has its answer: nothing more is written into it
}

// refused says whether the draft was refused before anything was sent.
func (f *flight) refused(i int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.results[i].Refusal != nil
}

// land notes the result of one record.
func (f *flight) land(i int, result core.Result) {
	f.mu.Lock()
	if !f.over {
		f.results[i] = result
	}
	f.mu.Unlock()
	f.arrive()
}

func (f *flight) arrive() {
	if f.left.Add(-1) == 0 {
		close(f.landed)
	}
}

// wait returns when every record has landed or ctx has ended; then those that are still under way are of unknown fate.
func (f *flight) wait(ctx context.Context) {
	f.arrive()
	select {
	case <-f.landed:
		return
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for i := range f.results {
		if f.results[i].Refusal == nil && f.results[i].ID == "" {
			f.results[i].Refusal = fate(kafka.ErrFateUnknown)
		}
	}
}

// fate says what an error of the producer means to a caller; nil for none. What may have been written is never refused.
func fate(err error) *core.Refusal {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errEncode):
		return &core.Refusal{Reason: core.Invalid, Message: "the notification cannot be encoded"}
	case !errors.Is(err, kafka.ErrUnsent):
		return &core.Refusal{Reason: core.FateUnknown, Message: "the notification may have been accepted: its record was sent and not acknowledged"}
	case errors.Is(err, kafka.ErrFull):
		return &core.Refusal{Reason: core.Overloaded, Message: "the log takes no more records now", Retry: brokerRetry, Quota: "log_bytes"}
	default:
		return unavailable("the log cannot be reached")
	}
}

func unavailable(message string) *core.Refusal {
	return &core.Refusal{Reason: core.BrokerUnavailable, Message: message, Retry: brokerRetry}
}
