package intake

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/shard"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/lane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rooms are the rooms around intake, and a log with one partition.
type rooms struct {
	engine *core.Engine

	mu       sync.Mutex
	log      []kafka.Message
	fates    map[int64][]string // by offset: what became of the record, apart from being queued
	sources  map[string]bool
	at       time.Time // when control was confirmed last
	failing  func(offset int64) error
	lanes    map[string]int32
	appended chan struct{}
}

func newRooms() *rooms {
	r := &rooms{
		engine: core.New(core.Config{}), fates: map[int64][]string{}, sources: map[string]bool{"crm": true, "held": true}, at: time.Now(),
		lanes: map[string]int32{}, appended: make(chan struct{}),
	}
	now := time.Now()
	r.engine.Attach(now, 0, 1)
	if _, err := r.engine.Apply(now, core.Control{Sources: map[string]core.Policy{"crm": {MaxPriority: core.High, Weight: 100}, "held": {MaxPriority: core.High, Weight: 100}},
		Switches: []core.Switch{{Scope: core.Scope{Kind: core.ScopeSource, Source: "held"}, Verb: core.Hold}}}); err != nil {
		panic(err)
	}
	return r
}

func (r *rooms) reader() *Reader {
	return New(Deps{Log: slog.New(slog.DiscardHandler), Fetch: r, Engine: r, Homes: r, Settler: r, Control: r, Budget: shard.NewBudget(4 << 20)})
}

func (r *rooms) note(offset int64, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fates[offset] = append(r.fates[offset], fmt.Sprintf(format, args...))
}

func (r *rooms) fate(offset int64) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fates[offset]
}

// Do is the engine's lock.
func (r *rooms) Do(f func(time.Time, *core.Engine)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(time.Now(), r.engine)
}

func (r *rooms) Complete(_ int32, _ core.JobID, home core.Home) { r.note(home.Offset, "complete") }
func (r *rooms) LaneOf(_ int32, source, _ string) (int32, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, has := r.lanes[source]
	return n, has
}

func (r *rooms) Room(ctx context.Context) error { return ctx.Err() }
func (r *rooms) Finish(job *core.Job, outcome jobv1.Outcome, _ core.Reason) {
	r.note(job.Home.Offset, "%v", outcome)
}
func (r *rooms) Park(_ int32, _ kafka.Message, home core.Home, _ *core.Job, _ error) {
	r.note(home.Offset, "park")
}
func (r *rooms) Spill(ctx context.Context, job *core.Job) error {
	r.mu.Lock()
	failing := r.failing
	r.mu.Unlock()
	if failing != nil {
		if err := failing(job.Home.Offset); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.note(job.Home.Offset, "spill")
	return nil
}

func (r *rooms) Knows(source, _ string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sources[source]
}

func (r *rooms) Confirmed() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

// append adds records to the log.
func (r *rooms) append(values ...[]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range values {
		r.log = append(r.log, kafka.Message{Topic: "x.jobs.default", Offset: int64(len(r.log)), Value: v, Headers: []kafka.Header{envelope.VersionHeader()}})
	}
	close(r.appended)
	r.appended = make(chan struct{})
}

// Fetch returns up to 10 records.
func (r *rooms) Fetch(ctx context.Context, _ string, _ int, from int64, _ int, wait time.Duration) (kafka.Batch, error) {
	for timeout := time.After(wait); ; {
		r.mu.Lock()
		end, more := int64(len(r.log)), r.appended
		b := kafka.Batch{Messages: r.log[min(from, end):min(from+10, end)], HighWatermark: end}
		r.mu.Unlock()
		b.Messages = append([]kafka.Message(nil), b.Messages...)
		for i := range b.Messages {
			b.Bytes += b.Messages[i].Size()
		}
		if len(b.Messages) > 0 {
			return b, nil
		}
		select {
		case <-more:
		case <-timeout:
			return b, nil
		case <-ctx.Done():
			return kafka.Batch{}, ctx.Err()
		}
	}
}

func (r *rooms) Ends(context.Context, string, []int) (map[int]kafka.Range, error) {
	return nil, errors.New("nobody asks")
}
func (r *rooms) Refresh(context.Context) error { return nil }

// account is the window of the partition.
type account struct {
	kind   core.Topic
	common bool
	past   map[int64]core.Past

	mu      sync.Mutex
	next    int64
	putBack map[int64]bool
}

func (a *account) Place() (string, core.Topic, int, int32) { return "x.jobs.default", a.kind, 0, 0 }
func (a *account) Next() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.next
	for offset := range a.putBack {
		next = min(next, offset)
	}
	return next
}

func (a *account) Add(ctx context.Context, offset int64, _ core.JobID) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case a.putBack[offset]:
		delete(a.putBack, offset)
		return true, nil
	case offset < a.next:
		return false, nil
	}
	a.next = offset + 1
	return true, nil
}

func (a *account) PutBack(offset int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.putBack == nil {
		a.putBack = map[int64]bool{}
	}
	a.putBack[offset] = true
}

func (a *account) Reset(to int64)                               { a.next = to }
func (a *account) History(_ core.JobID, offset int64) core.Past { return a.past[offset] }
func (a *account) Common() bool                                 { return a.common }
func (a *account) Lane() (lane.Key, bool, bool)                 { return lane.Key{}, false, a.common }
func (a *account) Sized(int)                                    {}

// spec is what a test says of a job.
type spec struct {
	n       byte // the same number is the same id
	source  string
	payload string
	expires time.Time
}

// record is a job as enqueue writes it.
func record(s spec) []byte {
	sum := sha256.Sum256([]byte(s.payload))
	job := &jobv1.Job{
		Id: envelope.NewJobID(time.Unix(1e9, 0), 0, [8]byte{s.n}).String(), AcceptedAt: timestamppb.New(time.Now().Add(-time.Second)), PayloadSha256: sum[:],
		Spec: &jobv1.JobSpec{Source: s.source, Type: "tag", Priority: jobv1.Priority_PRIORITY_DEFAULT, Payload: []byte(s.payload)},
	}
	if !s.expires.IsZero() {
		job.ExpiresAt = timestamppb.New(s.expires)
	}
	value, err := proto.Marshal(job)
	if err != nil {
		panic(err)
	}
	return value
}

// read runs a reader of a window until stop is called.
func read(ctx context.Context, f func(context.Context, Window) error, w Window) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- f(ctx, w) }()
	return func() error {
		cancel()
		return <-ended
	}
}
