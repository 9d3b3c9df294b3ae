package disk

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/worker"
	"github.com/spillway/spillway/test/apache"
	"github.com/spillway/spillway/test/product"
)

var jobs = flag.Int("jobs", 300_000, "how many jobs to run through the embedded broker")

func TestMain(m *testing.M) { os.Exit(product.Main(m)) }

const (
	// outstanding bounds the jobs that were sent and have not run: full speed for the scheduler without a backlog that would spill.
	outstanding = 16_384
	batch       = 512
	senders     = 4
	slots       = 1024
	// cap is the most bytes that the embedded broker keeps.
	storeCap = 1 << 30
	// patience is how long the run may make no progress.
	patience = 2 * time.Minute
)

// flood is jobs on their way through an installation, each numbered by its payload.
type flood struct {
	t       *testing.T
	sources []string
	runs    []atomic.Uint32 // by number, a byte each would do: 4 MB a million
	ran     atomic.Int64    // jobs that ran at least once
	again   atomic.Int64    // runs beyond the first
	sent    atomic.Int64    // accepted
	room    chan struct{}   // a token for each batch that may be on its way
	pending []atomic.Int32  // jobs of each batch that have not run
	padding int             // random bytes that each job carries beside its number
}

// newFlood names two sources for each of the eight shards.
func newFlood(t *testing.T, n, shards int) *flood {
	f := &flood{t: t, runs: make([]atomic.Uint32, n), pending: make([]atomic.Int32, n/batch+1), room: make(chan struct{}, outstanding/batch)}
	for shard := range shards {
		for i, found := 0, 0; found < 2; i++ {
			if name := fmt.Sprintf("flood-%d", i); envelope.Shard(name, shards) == shard {
				f.sources = append(f.sources, name)
				found++
			}
		}
	}
	return f
}

// handle counts a run.
func (f *flood) handle(_ context.Context, job *worker.Job) error {
	if len(job.Payload) < 8 { // of those that register the sources
		return nil
	}
	n := binary.BigEndian.Uint64(job.Payload)
	if f.runs[n].Add(1) > 1 {
		f.again.Add(1)
		return nil
	}
	f.ran.Add(1)
	if f.pending[n/batch].Add(-1) == 0 {
		<-f.room
	}
	return nil
}

// work runs a worker until ctx ends.
func (f *flood) work(ctx context.Context, d product.File) (wait func()) {
	f.t.Helper()
	w, err := worker.New(worker.Config{Schedulers: strings.Join(d.Endpoints.Scheduler, ","), Concurrency: slots, Token: d.Tokens.Worker})
	if err != nil {
		f.t.Fatal(err)
	}
	w.Handle("empty", f.handle)
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return func() {
		if err := <-done; err != nil {
			f.t.Errorf("worker: %v", err)
		}
	}
}

// send enqueues the jobs from first up to next, in batches of one source each.
func (f *flood) send(ctx context.Context, d product.File, first, next int) {
	f.t.Helper()
	c, err := client.Dial(d.Endpoints.Enqueue, client.WithToken(d.Tokens.Service), client.WithTimeout(time.Minute))
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	for _, source := range f.sources { // so that each is registered
		if _, err := c.Enqueue(ctx, client.Job{Source: source, Type: "empty"}); err != nil {
			f.t.Fatal(err)
		}
	}
	var at atomic.Int64
	at.Store(int64(first / batch))
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			for ctx.Err() == nil {
				b := int(at.Add(1)) - 1
				from, to := b*batch, min((b+1)*batch, next)
				if from >= next {
					return
				}
				select {
				case f.room <- struct{}{}:
				case <-ctx.Done():
					return
				}
				f.pending[b].Store(int32(to - from))
				list := make([]client.Job, to-from)
				for i := range list {
					payload := binary.BigEndian.AppendUint64(make([]byte, 0, 8+f.padding), uint64(from+i))
					for range f.padding / 8 {
						payload = binary.BigEndian.AppendUint64(payload, rand.Uint64())
					}
					list[i] = client.Job{Source: f.sources[b%len(f.sources)], Type: "empty", Payload: payload}
				}
				for len(list) > 0 {
					left := list[:0]
					for i, item := range c.EnqueueBatch(ctx, list) {
						switch {
						case item.Err == nil:
							f.sent.Add(1)
						case ctx.Err() != nil:
							return
						default: // refused or unknown: the key of the call is gone, so its number may run twice; only faults may cause it
							left = append(left, list[i])
						}
					}
					if list = left; len(list) > 0 {
						f.t.Logf("%d jobs of a batch are sent again", len(list))
						time.Sleep(100 * time.Millisecond)
					}
				}
			}
		})
	}
	sending.Wait()
}

// watch runs until all jobs below next have run, prints a table as it goes, and returns the largest use of the disk. It looks every second, and
// prints every tenth of the run and every minute.
func (f *flood) watch(measure func() usage, pid func(name string) int, next int) (most usage) {
	f.t.Helper()
	const mib = 1 << 20
	f.t.Logf("%9s %10s %7s | %6s = %6s + %6s + %8s + %6s MiB | RSS of broker, scheduler", "time", "jobs", "jobs/s", "disk", "jobs", "spill", "outcomes", "other")
	began := time.Now()
	last, lastAt, moved := f.ran.Load(), began, began
	seen := last
	for {
		time.Sleep(time.Second)
		now, ran := time.Now(), f.ran.Load()
		u := measure()
		if u.total() > most.total() {
			most = u
		}
		if ran != seen {
			seen, moved = ran, now
		}
		if now.Sub(moved) > patience {
			f.t.Fatalf("nothing has run for %v: %d of %d jobs ran, %d were accepted", patience, ran, next, f.sent.Load())
		}
		if ran-last >= int64(next/10) || now.Sub(lastAt) >= time.Minute || ran >= int64(next) {
			f.t.Logf("%9v %10d %7.0f | %6d = %6d + %6d + %8d + %6d     | %4d, %4d MiB", now.Sub(began).Round(time.Second), ran, float64(ran-last)/now.Sub(lastAt).Seconds(),
				u.total()/mib, u.jobs/mib, u.spill/mib, u.outcomes/mib, u.other/mib, product.RSS(pid("broker"))/mib, product.RSS(pid("scheduler-0"))/mib)
			last, lastAt = ran, now
		}
		if ran >= int64(next) {
			return most
		}
	}
}

// ledger is what `spillway ledger` says.
type ledger struct {
	Accepted, Succeeded, Dead, Expired, Superseded, Waiting, Spilled, Leased, Parked, Difference int64
}

func readLedger(t *testing.T, d *product.Dev) (l ledger) {
	t.Helper()
	stdout, stderr, code := product.Run(t, 5*time.Minute, "ledger", "--data-dir", d.Dir, "-o", "json")
	if code != 0 {
		t.Fatalf("the ledger ended with %d: %s%s", code, stdout, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &l); err != nil {
		t.Fatal(err)
	}
	return l
}

// settled waits until the ledger has an outcome for every job and nothing anywhere else.
func settled(t *testing.T, d *product.Dev, want int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Millisecond) {
		l := readLedger(t, d)
		if l.Accepted == want && l.Succeeded == want && l.Difference == 0 {
			t.Logf("ledger %+v", l)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("ledger %+v, want %d accepted and succeeded", l, want)
		}
	}
}

// starts are where the logs of the priority topic begin and end.
func starts(t *testing.T, d product.File, topic string) map[int]kafka.Range {
	t.Helper()
	c, err := kafka.New(kafka.Config{Addresses: strings.Split(d.Broker.Address, ","), ClientID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	ends, err := c.Ends(ctx, topic, kafka.Owned(0, 1, n))
	if err != nil {
		t.Fatal(err)
	}
	return ends
}

// killAll ends dev and everything under it by SIGKILL, dev first, so that it starts nothing again.
func killAll(t *testing.T, d *product.Dev) {
	t.Helper()
	f := d.File()
	d.Kill()
	for _, p := range f.Processes {
		_ = syscall.Kill(p.PID, syscall.SIGKILL) // or it has ended because dev has
	}
	product.Until(t, 20*time.Second, "all processes are gone", func() bool {
		for _, p := range f.Processes {
			if product.Alive(p.PID) {
				return false
			}
		}
		return true
	})
}

// run drives n jobs at full speed and returns the largest use of the disk, once the ledger has them all.
func (f *flood) run(d *product.Dev, n int, measure func() usage) (most usage) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	wait := f.work(ctx, d.File())
	var sending sync.WaitGroup
	sending.Go(func() { f.send(ctx, d.File(), 0, n) })
	most = f.watch(measure, func(name string) int { return d.File().Process(name) }, n)
	sending.Wait()
	cancel()
	wait()
	if again := f.again.Load(); again != 0 {
		f.t.Errorf("%d jobs ran again although nothing failed", again)
	}
	for _, p := range d.File().Processes {
		if p.Restarts != 0 {
			f.t.Errorf("%s was started again %d times", p.Name, p.Restarts)
		}
	}
	settled(f.t, d, f.all(n))
	return most
}

// all is how many jobs n are with those that registered the sources.
func (f *flood) all(n int) int64 { return int64(n + len(f.sources)) }

// trimmed waits until no partition of the priority topic holds more than its last record, and returns where they begin.
func trimmed(t *testing.T, d *product.Dev) (topic string, ranges map[int]kafka.Range) {
	t.Helper()
	topic = d.File().Prefix + "jobs.default"
	product.Until(t, 30*time.Second, "all but the last record of each partition is trimmed", func() bool {
		ranges = starts(t, d.File(), topic)
		for _, r := range ranges {
			if r.Next-r.First > 1 {
				return false
			}
		}
		return true
	})
	return topic, ranges
}

// nothingRunsAgain holds that an installation that was killed and started again has nothing to do, though deleted records may be back. It returns how
// many are.
func (f *flood) nothingRunsAgain(d *product.Dev, n int, topic string, before map[int]kafka.Range) (back int64) {
	f.t.Helper()
	for p, r := range starts(f.t, d.File(), topic) {
		back += before[p].First - r.First
	}
	f.t.Logf("started again after SIGKILL of all in %v; %d deleted records are back", d.Took.Round(time.Millisecond), back)
	l := readLedger(f.t, d)
	if l.Waiting+l.Spilled+l.Leased != 0 || l.Difference != 0 || l.Accepted != f.all(n) {
		f.t.Errorf("after the restart the ledger is %+v", l)
	}
	ctx, stop := context.WithCancel(f.t.Context())
	wait := f.work(ctx, d.File())
	time.Sleep(5 * time.Second)
	stop()
	wait()
	if again := f.again.Load(); again != 0 {
		f.t.Errorf("%d jobs ran again after the restart", again)
	}
	if now := readLedger(f.t, d); now != l {
		f.t.Errorf("the ledger changed from %+v to %+v", l, now)
	}
	return back
}

// TestDiskStaysBounded drives -jobs jobs at full speed, with a trim interval of 1 s. The store's cap is never near; at the end little is left, and the
// ledger has every job once. Then everything is killed and started again: records that were deleted are back (K2), and no job runs again.
func TestDiskStaysBounded(t *testing.T) {
	t.Setenv("SPILLWAY_SCHEDULER_TRIM_EVERY", "1s")
	dir := t.TempDir()
	d := product.StartDev(t, dir)
	f := newFlood(t, *jobs, 8)
	measure := func() usage { return files(filepath.Join(dir, "log")) }
	most := f.run(d, *jobs, measure)
	if most.total() > storeCap/10*9 || strings.Contains(d.Said(), "the store is") {
		t.Errorf("the disk took up to %d MiB", most.total()>>20)
	}
	topic, before := trimmed(t, d)
	u := measure()
	t.Logf("largest %d MiB, at the end %d MiB: %+v", most.total()>>20, u.total()>>20, u)
	// Each partition of the priority topic, and each lane that was taken, keeps its last segment, of up to 4 MiB.
	if u.jobs > 8*4<<20 || u.spill > 16*4<<20 {
		t.Errorf("%d MiB of finished jobs are left", (u.jobs+u.spill)>>20)
	}
	killAll(t, d)
	d = product.StartDev(t, dir)
	if back := f.nothingRunsAgain(d, *jobs, topic, before); back == 0 {
		t.Error("no deleted record came back: the test has not shown what it is for")
	}
}

// TestApacheDiskStaysBounded is a shorter run on Apache Kafka: the log's own account of its disk, and kill -9 of the broker and of everything else.
func TestApacheDiskStaysBounded(t *testing.T) {
	cluster := apache.Start(t, apache.Config{Brokers: 1})
	t.Setenv("SPILLWAY_SCHEDULER_TRIM_EVERY", "1s")
	dir, address := t.TempDir(), strings.Join(cluster.Addresses(), ",")
	d := product.StartDev(t, dir, "--kafka", address)
	const n = 200_000
	f := newFlood(t, n, 8)
	f.padding = 512 // 120 MiB in all: many segments of 4 MiB
	most := f.run(d, n, func() usage { return logDirs(t, address) })
	topic, before := trimmed(t, d)
	t.Logf("largest %d MiB", most.total()>>20)
	if most.jobs < 8*8<<20 {
		t.Errorf("jobs took up to %d MiB only: the test shows nothing", most.jobs>>20)
	}
	cluster.Kill(0)
	killAll(t, d)
	cluster.Restart(0)
	d = product.StartDev(t, dir, "--kafka", address)
	f.nothingRunsAgain(d, n, topic, before)
	// Segments go a while after their records: file.delete.delay.ms is a minute.
	product.Until(t, 3*time.Minute, "the space is given back", func() bool { return logDirs(t, address).jobs <= 8*5<<20 })
}

// TestKilledRightAfterATrim kills broker and scheduler under load, the moment after the log was trimmed: deleted records come back (K2), and what runs
// again is what was running, or had ended since the last commit; nothing is lost.
func TestKilledRightAfterATrim(t *testing.T) {
	t.Setenv("SPILLWAY_SCHEDULER_TRIM_EVERY", "1s")
	d := product.StartDev(t, t.TempDir())
	const n, before = 200_000, 20_000 // still at it when it is trimmed, also where 30,000 run a second
	f := newFlood(t, n, 8)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wait := f.work(ctx, d.File())
	var sending sync.WaitGroup
	sending.Go(func() { f.send(ctx, d.File(), 0, n) })
	topic := d.File().Prefix + "jobs.default"
	product.Until(t, time.Minute, "jobs run", func() bool { return f.ran.Load() > before })
	first := func() (sum int64) {
		for _, r := range starts(t, d.File(), topic) {
			sum += r.First
		}
		return sum
	}
	was := first()
	product.Until(t, 10*time.Second, "the log is trimmed", func() bool { return first() > was })
	trimmedTo := first()
	broker := d.Signal("broker", syscall.SIGKILL)
	scheduler := d.Signal("scheduler-0", syscall.SIGKILL)
	ran := f.ran.Load()
	d.AwaitRestart("broker", broker, 30*time.Second)
	d.AwaitRestart("scheduler-0", scheduler, 60*time.Second)
	t.Logf("killed after %d of %d jobs; the logs began at %d in sum, and now at %d", ran, n, trimmedTo, first())
	if ran >= n*9/10 {
		t.Error("the kill came too late to show anything")
	}
	product.Until(t, 2*time.Minute, "all jobs run", func() bool { return f.ran.Load() == n })
	sending.Wait()
	settled(t, d, f.all(n))
	cancel()
	wait()
	// At most what was running, and what had ended without being committed: both are on their way.
	again := f.again.Load()
	t.Logf("%d jobs ran again", again)
	if again > outstanding {
		t.Errorf("%d jobs ran again", again)
	}
}
