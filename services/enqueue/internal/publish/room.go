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
	"github.com/spillway/spillway/pkg/telemetry"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

const (
	// Deadline bounds a call. It outlasts the failover of a broker, 15 s at Kafka's defaults.
	Deadline = 20 * time.Second
	// DeliveryDeadline is how long a record is tried. It ends before Deadline by the time that connecting to a dead broker takes, so that the
	// producer's verdict, which knows what was never sent, arrives in time.
	DeliveryDeadline = 17 * time.Second
	// brokerRetry is what a caller is asked to wait when the log is away: a broker's restart takes seconds.
	brokerRetry = time.Second
	// indexGap is the shortest pause between two looks at status: beats of many replicas are read together. Within it, jobs of a flow that has
	// just begun to spill still go to its priority topic, where intake diverts them.
	indexGap = 5 * time.Millisecond
)

// Config says who and where the room is.
type Config struct {
	// Replica is the name of this replica, written into every record.
	Replica string
	// Topics are the installation's.
	Topics kafka.Topics
	// Limits are the bounds of the admission.
	Limits core.Limits
}

// Ports are what the room works with. Registrar is nil except in local mode.
type Ports struct {
	Producer  Producer
	Control   Control
	Beats     Beats
	Registrar Registrar
	Telemetry *telemetry.Telemetry
}

// Room makes jobs durable. Publish may be called from any goroutine.
type Room struct {
	config Config
	ports  Ports
	local  *local // nil without a registrar
	tracer tracer
	meter  *meter
	open   atomic.Bool
	index  atomic.Pointer[index]

	mu        sync.Mutex // of what follows; held for a decision, or a batch of them
	admission *core.Admission
	view      view
}

// New returns a room that refuses everything until Open.
func New(config Config, ports Ports) (*Room, error) {
	m, err := newMeter(ports.Telemetry)
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	r := &Room{
		config: config, ports: ports, tracer: tracer{ports.Telemetry}, meter: m,
		admission: core.New(time.Now(), config.Limits), view: view{known: map[string]reading{}},
	}
	r.index.Store(newIndex(nil, 0, 1))
	if ports.Registrar != nil {
		r.local = newLocal(ports.Control, ports.Registrar)
	}
	return r, nil
}

// Open lets jobs in. The control log must have been folded once, and the topics found fit to hold jobs.
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

// Run keeps the index of status until ctx ends.
func (r *Room) Run(ctx context.Context) error {
	// Nobody tells when a replica stops being live, so it looks by itself as often as beats come.
	look := time.NewTicker(250 * time.Millisecond)
	defer look.Stop()
	for {
		changed := r.ports.Beats.Changed()
		replicas := max(len(r.ports.Beats.Live(logv1.ReplicaKind_REPLICA_KIND_ENQUEUE)), 1)
		if r.ports.Beats.Ready() != nil { // somebody may be missing: a part of the quota too small is better than one too large
			replicas = max(replicas, r.index.Load().replicas)
		}
		r.index.Store(newIndex(r.ports.Beats.Marks(), r.ports.Control.State().Config().GetShards(), replicas))
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-look.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(indexGap):
		}
	}
}

// Publish decides about jobs and makes those that it accepts durable. It returns a result for each, in order, when all are known, or when ctx or
// Deadline ends: what is then still on its way is of unknown fate. It calls judged, once or more, before it waits for the log: from then on
// the room holds no Record of a job, only bytes that the admission has counted.
func (r *Room) Publish(ctx context.Context, caller core.Caller, jobs []core.Job, judged func()) []core.Result {
	results := make([]core.Result, len(jobs))
	state := r.ports.Control.State()
	shards := int(state.Config().GetShards())
	if !r.open.Load() || shards == 0 {
		for i := range results {
			results[i].Refusal = unavailable("the service has not read its configuration yet")
		}
		return results
	}
	ctx, cancel := context.WithTimeout(ctx, Deadline)
	defer cancel()
	for i := range jobs {
		identify(&jobs[i], shards)
	}
	now := time.Now()
	places := make([]core.Placement, len(jobs))
	r.admit(now, caller, jobs, places, results, func(int) bool { return true })
	if r.local != nil && r.local.learn(ctx, jobs, results, judged) {
		r.admit(now, caller, jobs, places, results, func(i int) bool { return results[i].Refusal != nil && results[i].Refusal.Unregistered })
	}
	r.produce(ctx, now, jobs, places, results, judged)
	for i := range results {
		r.meter.count(ctx, &jobs[i], &places[i], &results[i])
	}
	return results
}

// identify gives a job its id: by its key, so that every try makes the same one.
func identify(job *core.Job, shards int) {
	shard := envelope.Shard(job.Source, shards)
	if job.Key == "" {
		var random [8]byte
		rand.Read(random[:]) // never fails
		job.ID = envelope.NewJobID(time.Now(), shard, random)
		return
	}
	job.ID = envelope.KeyedJobID(job.Source, job.Key, shard)
	job.KeyTime, _ = envelope.KeyTime(job.Key)
}

// admit decides about the chosen jobs, all by the same state.
func (r *Room) admit(now time.Time, caller core.Caller, jobs []core.Job, places []core.Placement, results []core.Result, chosen func(int) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.view.refresh(r.ports.Control.State(), r.index.Load())
	for i := range jobs {
		if chosen(i) {
			places[i], results[i].Refusal = r.admission.Admit(now, caller, &jobs[i], &r.view)
		}
	}
}

// release returns what an accepted job held.
func (r *Room) release(job *core.Job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.admission.Release(job.Source, job.Bytes)
}

// produce writes the records of all accepted jobs and fills in their results.
func (r *Room) produce(ctx context.Context, now time.Time, jobs []core.Job, places []core.Placement, results []core.Result, judged func()) {
	f := &flight{results: results, landed: make(chan struct{})}
	f.left.Store(1) // until everything was sent
	for i := range jobs {
		if results[i].Refusal != nil {
			jobs[i].Record = nil
			continue
		}
		job, place, shard := &jobs[i], &places[i], envelope.JobID(jobs[i].ID).Shard()
		rec, home, span, err := r.record(ctx, now, shard, job, place)
		job.Record = nil // from here on the record is all that is held
		finish := func(offset int64, err error) {
			span.end(err)
			r.release(job)
			home.Offset = offset
			f.land(i, core.Result{
				Refusal: fate(err), ID: envelope.JobID(job.ID).String(), Verdict: place.Verdict, Home: home, ReadyAt: place.ReadyAt,
			})
		}
		if err != nil {
			f.left.Add(1)
			finish(0, err)
			continue
		}
		f.left.Add(1)
		if len(jobs) == 1 {
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
		return &core.Refusal{Reason: core.Invalid, Message: "the job cannot be encoded", Violations: []core.Violation{{Field: "job", Description: err.Error()}}}
	case !errors.Is(err, kafka.ErrUnsent):
		return &core.Refusal{Reason: core.FateUnknown, Message: "the job may have been accepted: its record was sent and not acknowledged"}
	case errors.Is(err, kafka.ErrFull):
		return &core.Refusal{Reason: core.Overloaded, Message: "the log takes no more records now", Retry: brokerRetry, Quota: "log_bytes"}
	case errors.Is(err, kafka.ErrTooLarge):
		return &core.Refusal{Reason: core.PayloadTooLarge, Message: "the record is larger than the log takes",
			Violations: []core.Violation{{Field: "job.payload", Description: "is too large with its envelope"}}}
	default:
		return unavailable("the log cannot be reached")
	}
}

func unavailable(message string) *core.Refusal {
	return &core.Refusal{Reason: core.BrokerUnavailable, Message: message, Retry: brokerRetry}
}
