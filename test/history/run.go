package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	"github.com/spillway/spillway/test/product"
)

// Config is one run.
type Config struct {
	// Seed draws the schedule; the same seed sends the same jobs.
	Seed uint64
	// Sources are registered, under their limits, before anything is sent.
	Sources []Source
	// Workers is how many worker processes there are at first, Slots how many jobs
	// each runs at a time.
	Workers, Slots int
	// Enqueue and Schedulers are addresses of replicas beside the dev's own.
	Enqueue, Schedulers []string
	// Kafka changes how the log is read, for clusters that need credentials.
	Kafka func(*kafka.Config)
}

// Run is a run under way.
type Run struct {
	t     testing.TB
	dev   *product.Dev
	cfg   Config
	dir   string
	files []string
	own   *Log // faults and holds

	generator  *generator
	automation *grpc.ClientConn
	sending    sync.WaitGroup
	stop       context.CancelFunc // of sending
	end        context.CancelFunc // of everything
	tails      sync.WaitGroup

	workers []*product.Process
	started int // workers, for their names

	mu       sync.Mutex
	stalled  time.Duration
	accepted map[string]bool // ids
	settled  map[string]bool
	failed   error
}

// callLimit bounds a call of an operator.
const callLimit = 20 * time.Second

// Begin registers the sources, starts the workers, follows the outcomes and begins
// to send once a job of every source has run.
func Begin(t testing.TB, d *product.Dev, cfg Config) *Run {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	r := &Run{t: t, dev: d, cfg: cfg, dir: t.TempDir(), end: end, accepted: map[string]bool{}, settled: map[string]bool{}}
	t.Cleanup(r.close)
	r.own = r.log("nemesis")
	f := d.File()
	var err error
	if r.automation, err = rpc.Dial(f.Endpoints.Automation, rpc.DialConfig{Token: f.Tokens.Operator}); err != nil {
		t.Fatal(err)
	}
	for _, s := range cfg.Sources {
		r.register(s)
	}
	r.follow(ctx, f)
	r.tails.Go(func() { r.watchClock(ctx) })
	for range cfg.Workers {
		r.StartWorker()
	}
	r.generator = &generator{seed: cfg.Seed, log: r.log("generator"), fail: r.fail}
	addresses := slices.Clone(cfg.Enqueue)
	for _, replica := range f.Replicas {
		if strings.HasPrefix(replica.Name, "enqueue") {
			addresses = append(addresses, replica.GRPC)
		}
	}
	// The sources are divided over SDK clients: one knows all replicas, the others
	// one each, so that their calls have to wait while it is away.
	groups := [][]string{addresses}
	for i := range addresses {
		groups = append(groups, addresses[i:i+1])
	}
	for _, group := range groups {
		c, err := dial(group, f.Tokens.Service)
		if err != nil {
			t.Fatal(err)
		}
		r.generator.clients = append(r.generator.clients, c)
	}
	r.warm()
	sending, stop := context.WithCancel(ctx)
	r.stop = stop
	for i, s := range cfg.Sources {
		r.sending.Go(func() { r.generator.send(sending, i, s) })
	}
	return r
}

func (r *Run) log(name string) *Log {
	r.t.Helper()
	path := filepath.Join(r.dir, name+".jsonl")
	l, err := Create(path, name)
	if err != nil {
		r.t.Fatal(err)
	}
	l.seen = r.seen
	r.files = append(r.files, path)
	return l
}

// seen keeps what tells when the run has drained.
func (r *Run) seen(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.Kind {
	case OK:
		r.accepted[e.Job] = true
	case Settled:
		r.settled[e.Job] = true
	}
}

// open is how many accepted jobs have no outcome yet.
func (r *Run) open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for id := range r.accepted {
		if !r.settled[id] {
			n++
		}
	}
	return n
}

func (r *Run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = errors.Join(r.failed, err)
}

func (r *Run) register(s Source) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	quota := &automationv1.Quota{}
	if s.Limit.Rate > 0 {
		burst := int32(s.Limit.Burst)
		quota.Rate, quota.Burst = &s.Limit.Rate, &burst
	}
	if n := int32(s.Limit.Concurrency); n > 0 {
		quota.Concurrency = &n
	}
	_, err := automationv1.NewSourceAdminServiceClient(r.automation).RegisterSource(ctx, &automationv1.RegisterSourceRequest{
		Reason: "test", Source: &automationv1.Source{Name: s.Name, Types: []string{jobType}, Owner: "test", Principals: []string{"*"}, Quota: quota},
	}, grpc.WaitForReady(true))
	if err != nil {
		r.t.Fatalf("register source %s: %v", s.Name, err)
	}
}

// follow tails every partition of outcomes from its beginning.
func (r *Run) follow(ctx context.Context, f product.File) {
	r.t.Helper()
	topics := kafka.Topics{Prefix: f.Prefix}
	cfg := kafka.Config{Addresses: strings.Split(f.Broker.Address, ","), ClientID: "checker", Topics: []string{topics.Outcomes()}}
	if r.cfg.Kafka != nil {
		r.cfg.Kafka(&cfg)
	}
	c, err := kafka.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	n, err := c.Partitions(ctx, topics.Outcomes())
	if err != nil {
		r.t.Fatal(err)
	}
	log := r.log("outcomes")
	var readers sync.WaitGroup
	for q := range n {
		readers.Go(func() {
			if err := tail(ctx, c, topics.Outcomes(), q, log); err != nil {
				r.fail(err)
			}
		})
	}
	r.tails.Go(func() {
		readers.Wait()
		c.Close()
		log.Close()
	})
}

// clockEvery is how often watchClock sleeps.
const clockEvery = 10 * time.Millisecond

// watchClock notes by how much a sleep takes longer than it should: how long the
// machine keeps a process that could run from running.
func (r *Run) watchClock(ctx context.Context) {
	for ctx.Err() == nil {
		before := time.Now()
		time.Sleep(clockEvery)
		over := time.Since(before) - clockEvery
		r.mu.Lock()
		r.stalled = max(r.stalled, over)
		r.mu.Unlock()
	}
}

// Stalled is the longest time so far that this process was kept from running: on a
// machine that does too much else, waits are not the product's.
func (r *Run) Stalled() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stalled
}

// StartWorker starts one more worker process and returns its number.
func (r *Run) StartWorker() int {
	r.t.Helper()
	name := fmt.Sprintf("worker-%d", r.started)
	r.started++
	f := r.dev.File()
	text, err := json.Marshal(workerConfig{
		Name: name, File: filepath.Join(r.dir, name+".jsonl"), Token: f.Tokens.Worker, Slots: r.cfg.Slots,
		Schedulers: strings.Join(append(slices.Clone(f.Endpoints.Scheduler), r.cfg.Schedulers...), ","),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), workerVariable+"="+string(text))
	r.files = append(r.files, filepath.Join(r.dir, name+".jsonl"))
	r.workers = append(r.workers, product.Launch(r.t, name, cmd, true, nil))
	return len(r.workers) - 1
}

// Worker is a worker process by its number; its name in the history is "worker-"
// and the number.
func (r *Run) Worker(i int) *product.Process { return r.workers[i] }

// warm sends one job of every source and waits until all have run: sending begins
// when everybody is connected.
func (r *Run) warm() {
	r.t.Helper()
	for i, s := range r.cfg.Sources {
		r.generator.job(i, s, payload{Key: fmt.Sprintf("warm-%d-%d", i, r.cfg.Seed)}, 0, 0)
	}
	product.Until(r.t, 60*time.Second, "a job of every source has run", func() bool { return r.open() == 0 })
}

// Fault writes down that something is about to be done to a process, and does it.
func (r *Run) Fault(what, target string, do func()) {
	r.t.Helper()
	r.write(Event{Kind: Fault, Target: target, Code: what})
	do()
}

// Heal writes down that a process is whole again, or gone for good.
func (r *Run) Heal(target string) {
	r.t.Helper()
	r.write(Event{Kind: Heal, Target: target})
}

func (r *Run) write(e Event) {
	r.t.Helper()
	if err := r.own.Write(e); err != nil {
		r.t.Fatal(err)
	}
}

func scope(source string) *automationv1.Scope {
	return &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: source}}
}

// Hold holds a source and writes down when that was answered. It returns how long
// the answer took, and the replicas that it names as silent.
func (r *Run) Hold(source string) (took time.Duration, silent []string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	began := time.Now()
	resp, err := automationv1.NewSwitchServiceClient(r.automation).Hold(ctx, &automationv1.HoldRequest{
		Spec: &automationv1.SwitchSpec{Scope: scope(source), Reason: "test", UntilResumed: true},
	})
	if err != nil {
		r.t.Fatalf("hold %s: %v", source, err)
	}
	took = time.Since(began)
	r.write(Event{Kind: Hold, Source: source})
	return took, resp.GetProof().GetSilent()
}

// Resume resumes a source.
func (r *Run) Resume(source string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	r.write(Event{Kind: Resume, Source: source})
	if _, err := automationv1.NewSwitchServiceClient(r.automation).Resume(ctx, &automationv1.ResumeRequest{Scope: scope(source), Reason: "test"}); err != nil {
		r.t.Fatalf("resume %s: %v", source, err)
	}
}

// Finish ends sending, waits until every call is answered and every accepted job
// has its outcome, but no longer than drain, and returns the history.
func (r *Run) Finish(drain time.Duration) []Event {
	r.t.Helper()
	r.stop()
	r.sending.Wait()
	answered := make(chan struct{})
	go func() { r.generator.calls.Wait(); close(answered) }()
	select {
	case <-answered:
	case <-time.After(answerLimit + againAfter + time.Second):
		r.t.Fatal("calls are not answered")
	}
	deadline := time.Now().Add(drain)
	for r.open() > 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	if n := r.open(); n > 0 {
		r.t.Errorf("the drain was cut short: %d jobs have no outcome after %v", n, drain)
	}
	// A second run, or a second outcome, of what is settled comes soon or never.
	time.Sleep(time.Second)
	r.end()
	r.tails.Wait()
	for _, w := range r.workers {
		w.Stop()
	}
	r.mu.Lock()
	failed := r.failed
	r.mu.Unlock()
	if failed != nil {
		r.t.Fatalf("the history is not complete: %v", failed)
	}
	events, err := Read(r.files...)
	if err != nil {
		r.t.Fatal(err)
	}
	return events
}

// close ends what Finish did not get to.
func (r *Run) close() {
	if r.stop != nil {
		r.stop()
		r.sending.Wait()
	}
	r.end()
	r.tails.Wait()
	if r.generator != nil {
		for _, c := range r.generator.clients {
			c.Close()
		}
		r.generator.calls.Wait()
		r.generator.log.Close()
	}
	if r.automation != nil {
		r.automation.Close()
	}
	r.own.Close()
}
