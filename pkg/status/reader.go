package status

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

const (
	// LiveFor is how long after a beat was read its replica counts as live.
	LiveFor = time.Second
	// forgetAfter is when a replica that was not heard of is dropped, and its marks with it: longer than any takeover, after which the new owner
	// has marks of its own.
	forgetAfter = time.Minute
	// pollWait is how long the broker may keep a fetch waiting.
	pollWait = 200 * time.Millisecond
	// callSlack is what a fetch may take beyond its wait before it counts as lost.
	callSlack = 2 * time.Second
	// fetchBytes bounds one fetch.
	fetchBytes = 1 << 20
	// history is how many records a reader that starts looks back: full marks of the last 5 s, from a dozen replicas that also write
	// summaries.
	history = 2_000
	// maxReplicas and maxMarks bound the memory: the product is made for tens of replicas and at most P × L marks.
	maxReplicas = 1_024
	maxMarks    = 65_536
	// Retries wait from retryMin, doubling, to retryMax, each with jitter.
	retryMin = 10 * time.Millisecond
	retryMax = 200 * time.Millisecond
	// refusedPause is the pause after brokers have turned us away: somebody has to act, and each login costs them work.
	refusedPause = 2 * time.Second
)

// Log is what a reader reads from: a *kafka.Client that nothing else uses.
type Log interface {
	// Fetch is kafka.Client.Fetch.
	Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error)
	// Ends is kafka.Client.Ends.
	Ends(ctx context.Context, topic string, partitions []int) (map[int]kafka.Range, error)
	// Refresh is kafka.Client.Refresh.
	Refresh(ctx context.Context) error
}

// Replica is what the last beat of a replica said. It never changes; so must the messages in it not.
type Replica struct {
	// Replica is its name, unique for the life of its process.
	Replica string
	// Kind is its service.
	Kind logv1.ReplicaKind
	// Address is where others reach it, host:port.
	Address string
	// AppliedSequence is the control sequence that it acts on.
	AppliedSequence int64
	// StateHash is the hash of its control state.
	StateHash []byte
	// Shards are those that it owns.
	Shards []int32
	// Pressure is how loaded it is, nil when it does not say.
	Pressure *logv1.Pressure
	// Top are the sources that use most.
	Top []*logv1.Talker
	// HeldRunning are the jobs of held scopes that ran when AppliedSequence was acknowledged.
	HeldRunning int64
	// Seen is when the beat was read, on this process's monotonic clock. Zero: only old beats were read.
	Seen time.Time
}

// Reader reads the beats of all replicas. All methods but OnSummary may be called from any goroutine at any time.
type Reader struct {
	log       Log
	topic     string
	out       *slog.Logger
	summaries func(replica string, summaries []*logv1.Summary)
	marks     atomic.Pointer[map[markKey]ownedMark] // replaced, never changed

	mu        sync.Mutex
	replicas  map[string]*entry
	changed   chan struct{}
	since     time.Time // unbroken view of the log's end from here on; zero: none
	confirmed time.Time // of the log's end, last
}

type entry struct {
	replica *Replica
	heard   time.Time // of any record of it, also an old one: when to forget it
}

// NewReader returns a reader of topic, the full name. No I/O happens before Run.
func NewReader(log Log, topic string, out *slog.Logger) *Reader {
	r := &Reader{log: log, topic: topic, out: out, replicas: map[string]*entry{}, changed: make(chan struct{})}
	r.marks.Store(&map[markKey]ownedMark{})
	return r
}

// OnSummary has f called with every replica's summaries, on Run's goroutine, so it must be quick. Call it before Run.
func (r *Reader) OnSummary(f func(replica string, summaries []*logv1.Summary)) { r.summaries = f }

// Run reads until ctx ends.
func (r *Reader) Run(ctx context.Context) error {
	next := int64(-1)
	pause := retryMin
	down := false
	for ctx.Err() == nil {
		err := r.poll(ctx, &next)
		switch {
		case err == nil:
			if down {
				r.out.InfoContext(ctx, "status is read again")
			}
			down, pause = false, retryMin
			continue
		case ctx.Err() != nil:
			return nil
		case kafka.OutOfRange(err): // trimmed away under us, or a new broker: begin anew
			next = -1
		case !down:
			r.out.WarnContext(ctx, "status cannot be read", slog.Any("error", err))
			down = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause)):
		}
		if pause = min(2*pause, retryMax); kafka.Refused(err) {
			pause = refusedPause
		}
		refresh, cancel := context.WithTimeout(ctx, callSlack)
		_ = r.log.Refresh(refresh) // the next poll tells whether it helped
		cancel()
	}
	return nil
}

// poll does one fetch. next is -1 when the place to begin has to be looked up.
func (r *Reader) poll(ctx context.Context, next *int64) error {
	ctx, cancel := context.WithTimeout(ctx, pollWait+callSlack)
	defer cancel()
	if *next < 0 {
		ends, err := r.log.Ends(ctx, r.topic, []int{0})
		if err != nil {
			return err
		}
		*next = max(ends[0].First, ends[0].Next-history)
	}
	sent := time.Now()
	batch, err := r.log.Fetch(ctx, r.topic, 0, *next, fetchBytes, pollWait)
	if err != nil {
		return err
	}
	r.apply(batch.Messages)
	if n := len(batch.Messages); n > 0 {
		*next = batch.Messages[n-1].Offset + 1
	}
	if *next >= batch.HighWatermark {
		at := sent // as in controllog: what an answer proves is older than its arrival
		if len(batch.Messages) == 0 {
			at = sent.Add(pollWait)
		}
		r.confirm(at)
	}
	return nil
}

// confirm notes that the reader has seen everything up to a time.
func (r *Reader) confirm(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Before(at) {
		at = now
	}
	if r.confirmed.IsZero() || at.Sub(r.confirmed) > LiveFor {
		r.since = at
	}
	r.confirmed = at
}

func (r *Reader) apply(messages []kafka.Message) {
	if len(messages) == 0 {
		return
	}
	now := time.Now()
	r.mu.Lock()
	seen := now
	if r.confirmed.IsZero() || now.Sub(r.confirmed) > LiveFor {
		seen = r.confirmed // it may have been written any time since then
	}
	news := false
	changes := map[markKey]*ownedMark{} // nil: ended
	var summaries []*logv1.Status
	for i := range messages {
		s := &logv1.Status{}
		if envelope.CheckVersion(messages[i].Headers) != nil || proto.Unmarshal(messages[i].Value, s) != nil || s.GetReplica() == "" {
			continue // not ours to judge; a beat that nobody can read makes nobody live
		}
		if len(s.GetSummaries()) > 0 && seen == now {
			summaries = append(summaries, s)
		}
		if s.GetKind() == logv1.ReplicaKind_REPLICA_KIND_UNSPECIFIED { // a summary beat
			continue
		}
		news = true
		r.beat(s, seen, now)
		r.collect(s, changes)
	}
	r.forget(now, changes)
	r.mark(changes)
	if news {
		close(r.changed)
		r.changed = make(chan struct{})
	}
	r.mu.Unlock()
	if r.summaries != nil {
		for _, s := range summaries {
			r.summaries(s.GetReplica(), s.GetSummaries())
		}
	}
}

func (r *Reader) beat(s *logv1.Status, seen, now time.Time) {
	if len(r.replicas) >= maxReplicas && r.replicas[s.GetReplica()] == nil {
		return
	}
	r.replicas[s.GetReplica()] = &entry{heard: now, replica: &Replica{
		Replica: s.GetReplica(), Kind: s.GetKind(), Address: s.GetAddress(),
		AppliedSequence: s.GetAppliedSequence(), StateHash: s.GetStateHash(), Shards: s.GetShards(),
		Pressure: s.GetPressure(), Top: s.GetTop(), HeldRunning: s.GetHeldRunning(), Seen: seen,
	}}
}

// Live returns the replicas of a service whose last beat was read less than a second ago, by name. Kind UNSPECIFIED: of all services.
func (r *Reader) Live(kind logv1.ReplicaKind) []*Replica {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	var live []*Replica
	for _, e := range r.replicas {
		if (kind == 0 || e.replica.Kind == kind) && !e.replica.Seen.IsZero() && now.Sub(e.replica.Seen) < LiveFor {
			live = append(live, e.replica)
		}
	}
	slices.SortFunc(live, func(a, b *Replica) int { return cmp.Compare(a.Replica, b.Replica) })
	return live
}

// Changed is closed when a beat was read after this call; call it again for the next. Take it before Live and Marks. Nobody tells when
// a replica stops being live: look again after LiveFor.
func (r *Reader) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Since is the time from which on the reader has seen every beat without a break of more than a second; ok is false while it does not
// see the log's end. Live lists everybody from LiveFor after that on; before, somebody may be missing.
func (r *Reader) Since() (at time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.since, !r.since.IsZero() && time.Since(r.confirmed) <= LiveFor
}

// Ready says why Live cannot be relied on, or nil.
func (r *Reader) Ready() error {
	since, ok := r.Since()
	switch {
	case !ok:
		return errors.New("status cannot be read")
	case time.Since(since) < LiveFor:
		return errors.New("status was not watched for long enough yet")
	}
	return nil
}
