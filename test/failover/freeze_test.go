package failover

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/test/product"
)

const (
	frozen = 30 * time.Second
	// callDeadline is the service's own, within which it answers every call; grace
	// is for the machine.
	callDeadline, callGrace = 20 * time.Second, 500 * time.Millisecond
	// enqueueCeiling and schedulerCeiling are the services' memory ceilings.
	enqueueCeiling, schedulerCeiling = 150 << 20, 300 << 20
	// flatFrom is when budgets are full: from then on memory may grow by no more
	// than flatGrowth, which is what a collector leaves lying about. Without a
	// budget for calls it was 73 MiB.
	flatFrom   = 10 * time.Second
	flatGrowth = 32 << 20
	// Open loop, jobs of both sizes in turn: several times what enqueue's budget for
	// what waits for the log (24 MiB, calls included) takes in the time of the freeze.
	floodRate             = 400
	floodLeast, floodMost = 256, 8 << 10
	// floodConns are as many connections as the calls under way need: each has a
	// limit of 128 streams, above which a call would wait here, unseen.
	floodConns = 32
	// wholeAgain is how long after the thaw a job may take from its call to its start.
	wholeAgain = 5 * time.Second
)

// flood calls enqueue on a schedule whatever the answers do, without the SDK, which
// would be patient for the service.
type flood struct {
	stubs []enqueuev1.EnqueueServiceClient
	token string
	calls sync.WaitGroup

	mu       sync.Mutex
	answered int
	answers  map[string]int
	slowest  time.Duration
}

func (f *flood) run(ctx context.Context) {
	tick := time.NewTicker(time.Second / floodRate)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		f.calls.Go(func() { f.call(n) })
	}
}

func (f *flood) call(n int) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*callDeadline)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+f.token)
	size := floodLeast
	if n%2 == 1 {
		size = floodMost
	}
	began := time.Now()
	_, err := f.stubs[n%len(f.stubs)].Enqueue(ctx, &enqueuev1.EnqueueRequest{Job: &jobv1.JobSpec{
		Source: fmt.Sprintf("flood-%02d", n%sources), Type: floodType, Payload: make([]byte, size),
	}})
	took := time.Since(began)
	answer := status.Code(err).String()
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			answer += " " + info.Reason
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answered++
	f.answers[answer]++
	f.slowest = max(f.slowest, took)
}

// A broker that neither answers nor hangs up: every call is answered in time,
// nothing grows, and everything is as before when it goes on.
func TestEmbeddedBrokerFrozen(t *testing.T) {
	t.Parallel() // both embedded ones mostly wait
	freeze(t, embedded(t))
}

func TestApacheBrokerFrozen(t *testing.T) {
	b, _ := onApache(t, 1, 0)
	freeze(t, b)
}

func freeze(t *testing.T, b *brokers) {
	w := newWorld(t, b.addresses[0], b.durability, 1)
	tr := w.begin(100, 1, longEmbedded)
	f := &flood{token: w.token, answers: make(map[string]int)}
	for range floodConns {
		conn, err := grpc.NewClient(w.enqueue.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		f.stubs = append(f.stubs, enqueuev1.NewEnqueueServiceClient(conn))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for n := range sources { // so that all are registered
		f.call(n)
	}
	if f.answers["OK"] != sources {
		t.Fatalf("before the freeze: %v", f.answers)
	}
	time.Sleep(3 * time.Second)
	enqueue, scheduler := watchMemory(w.enqueue.PID()), watchMemory(w.schedulers[0].PID())
	defer enqueue.end()
	defer scheduler.end()

	b.freeze(0)
	at := time.Now()
	f.calls.Go(func() { f.run(ctx) })
	time.Sleep(flatFrom)
	enqueue.mark()
	scheduler.mark()
	time.Sleep(frozen - time.Since(at))
	enqueueGrew, schedulerGrew := enqueue.grown(), scheduler.grown()
	b.thaw(0)
	thawed := time.Now()
	cancel()
	var back back
	product.Until(t, backLimit, "after the thaw every source has had a job granted", func() bool {
		back = tr.since(thawed)
		return !back.lastAccept.IsZero() && !back.lastGrant.IsZero()
	})
	f.calls.Wait()
	a := tr.end(drainLimit)
	f.mu.Lock()
	defer f.mu.Unlock()
	t.Logf("\n  flood: %d calls, slowest answer %s, %v\n  after the thaw: accepting %s, granting %s (all sources)\n"+
		"  memory: enqueue at most %s, and %s more after its budgets were full; scheduler %s, %s\n"+
		"  jobs: sent %d, accepted %d, refused %d, unknown %d %v, lost %d, duplicates %d, cancelled %d",
		f.answered, f.slowest.Round(time.Millisecond), f.answers, back.lastAccept.Sub(thawed).Round(time.Millisecond), back.lastGrant.Sub(thawed).Round(time.Millisecond),
		mib(enqueue.most()), mib(enqueueGrew), mib(scheduler.most()), mib(schedulerGrew),
		a.sent, a.accepted, a.refused, a.unknown, a.fates, a.lost, a.duplicates, len(a.cancelled))
	if f.answers[codes.ResourceExhausted.String()+" OVERLOADED"] == 0 {
		t.Error("the flood was too small to fill a budget: this run proves nothing about memory")
	}
	if f.slowest > callDeadline+callGrace {
		t.Errorf("a call was answered after %s", f.slowest)
	}
	for _, answer := range slices.Sorted(maps.Keys(f.answers)) {
		switch answer {
		case "OK", codes.Unavailable.String() + " BROKER_UNAVAILABLE", codes.Aborted.String() + " FATE_UNKNOWN", codes.ResourceExhausted.String() + " OVERLOADED":
		default:
			t.Errorf("%d calls were answered with %s", f.answers[answer], answer)
		}
	}
	if enqueueGrew > flatGrowth || schedulerGrew > flatGrowth {
		t.Errorf("memory grew while the broker was frozen: enqueue by %s, scheduler by %s", mib(enqueueGrew), mib(schedulerGrew))
	}
	if enqueue.most() > enqueueCeiling || scheduler.most() > schedulerCeiling {
		t.Errorf("memory above its ceiling: enqueue %s, scheduler %s", mib(enqueue.most()), mib(scheduler.most()))
	}
	if took := back.lastGrant.Sub(thawed); took > wholeAgain {
		t.Errorf("granting took %s after the thaw", took)
	}
	if a.lost > 0 {
		t.Errorf("%d acknowledged jobs were lost", a.lost)
	}
	w.ledger()
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// memory watches a process's resident memory.
type memory struct {
	stop chan struct{}
	done sync.WaitGroup

	mu                 sync.Mutex
	peak, marked, late int64 // late is the peak since the mark
}

func watchMemory(pid int) *memory {
	m := &memory{stop: make(chan struct{})}
	m.done.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-m.stop:
				return
			case <-tick.C:
			}
			now := product.RSS(pid)
			m.mu.Lock()
			m.peak, m.late = max(m.peak, now), max(m.late, now)
			m.mu.Unlock()
		}
	})
	return m
}

// mark is from when on it has to be flat.
func (m *memory) mark() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marked, m.late = m.peak, 0
}

// grown is by how much the peak since the mark is above the one before.
func (m *memory) grown() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(0, m.late-m.marked)
}

func (m *memory) most() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.peak
}

func (m *memory) end() {
	close(m.stop)
	m.done.Wait()
}
