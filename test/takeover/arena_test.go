package takeover

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/spillway/spillway/test/history"
	"github.com/spillway/spillway/test/product"
)

var (
	seed = flag.Uint64("seed", 0, "seed of the schedules; 0 draws one")
	long = flag.Bool("long", false, "longer faults, and more of them")
)

// The product's times that the tests wait for.
const (
	session = 6 * time.Second
	// ttl and renewEvery are a lease's, quarantine what nobody announced waits.
	ttl        = 20 * time.Second
	renewEvery = 5 * time.Second
	quarantine = ttl + 9*time.Second
	// freshLimit is how long a fresh job may wait after a SIGKILL; foundLimit one
	// that the killed scheduler may have granted.
	freshLimit = 8 * time.Second
	foundLimit = 37 * time.Second
	// orderlyLimit is what an orderly stop may add to the time without an owner.
	orderlyLimit = 100 * time.Millisecond
	// crowdedLimit is the same where three brokers share the machine with it and a
	// step's price cannot be told from their waits. The row has the figure.
	crowdedLimit = 2 * time.Second
	// timerLimit is what no machine excuses: an orderly stop waits for no session and
	// no quarantine, neither until its shards have an owner again nor beyond.
	timerLimit = session / 2
	// orderlySteps follow each other beyond that time, so that each pays what the
	// machine costs: the old owner hears of the rebalance, writes what had ended and
	// its handover; the new one grants what it found, and the worker starts it.
	orderlySteps = 4
	// drain outlasts the longest wait after a crash.
	drain = 90 * time.Second
	// warm is how long the load runs before the first fault: what is measured then
	// is what the machine costs.
	warm = 3 * time.Second
)

// sources are the load: ordinary ones over all shards, whose jobs sometimes fail
// once and are sometimes sent twice, one with long jobs, which run through a
// takeover, and two that would run more than their quota as soon as they may.
func sources() []history.Source {
	var list []history.Source
	for i := range 12 {
		list = append(list, history.Source{
			Name: fmt.Sprintf("steady-%02d", i), Rate: 6, Least: 5 * time.Millisecond, Most: 50 * time.Millisecond, FailOnce: 0.02, Again: 0.05,
		})
	}
	for i := range 3 {
		list = append(list, history.Source{Name: fmt.Sprintf("long-%d", i), Rate: 0.7, Least: 2 * time.Second, Most: 10 * time.Second})
	}
	return append(list,
		history.Source{Name: "few-at-a-time", Rate: 15, Least: 50 * time.Millisecond, Most: 150 * time.Millisecond, Limit: history.Limit{Concurrency: 3}},
		history.Source{Name: "few-a-second", Rate: 8, Least: 5 * time.Millisecond, Most: 20 * time.Millisecond, Limit: history.Limit{Rate: 10, Burst: 10}},
	)
}

// arena is the product on a broker, with a load on it.
type arena struct {
	*history.Run
	t      *testing.T
	dev    *product.Dev
	broker broker
	seed   uint64
	extra  map[string]*product.Replica
}

// broker is what an arena's logs are on.
type broker struct {
	name    string
	flags   []string      // of dev
	orderly time.Duration // what an orderly stop may add on it
	cfg     func(*history.Config)
}

var embedded = broker{name: "embedded", orderly: orderlyLimit}

// open starts a dev with more flags, and the load.
func open(t *testing.T, b broker, flags ...string) *arena {
	t.Helper()
	s := cmp.Or(*seed, rand.Uint64()>>32)
	d := product.StartDev(t, t.TempDir(), append(append([]string{"--log-level", "INFO"}, b.flags...), flags...)...)
	cfg := history.Config{Seed: s, Sources: sources(), Workers: 3, Slots: 32}
	if b.cfg != nil {
		b.cfg(&cfg)
	}
	t.Logf("-seed %d", s)
	return &arena{t: t, dev: d, broker: b, seed: s, extra: map[string]*product.Replica{}, Run: history.Begin(t, d, cfg)}
}

// marathon is work that outlasts everything that may be done to a scheduler: begun before it, and cut by a zombie if one could.
var marathon = history.Source{Name: "marathon", Rate: 0.3, Least: 20 * time.Second, Most: 40 * time.Second}

// with is the same broker, and one more source.
func (b broker) with(s history.Source) broker {
	cfg := b.cfg
	b.cfg = func(c *history.Config) {
		if cfg != nil {
			cfg(c)
		}
		c.Sources = append(c.Sources, s)
	}
	return b
}

// openThree is open with two more schedulers, and the load warm.
func openThree(t *testing.T, b broker) *arena {
	t.Helper()
	a := open(t, b)
	for _, name := range []string{"scheduler-b", "scheduler-c"} {
		a.add(name).AwaitReady()
	}
	time.Sleep(warm)
	return a
}

// add starts a scheduler beside the dev's, without waiting.
func (a *arena) add(name string) *product.Replica {
	a.t.Helper()
	r := a.dev.Serve("scheduler", name)
	a.extra[name] = r
	return r
}

// kill ends a scheduler by SIGKILL.
func (a *arena) kill(name string) {
	a.t.Helper()
	a.Fault(history.Kill, name, a.extra[name].Kill)
	a.Heal(name)
}

// stop ends a scheduler by SIGTERM and waits until it has gone.
func (a *arena) stop(name string) {
	a.t.Helper()
	a.Fault(history.Stop, name, func() {
		a.extra[name].Terminate()
		a.extra[name].Await(30 * time.Second)
	})
	if code := a.extra[name].ExitCode(); code != 0 {
		a.t.Errorf("%s ended with %d after SIGTERM", name, code)
	}
	a.Heal(name)
}

// freeze stops a scheduler by SIGSTOP for some time and does something meanwhile.
func (a *arena) freeze(name string, long time.Duration, meanwhile func()) {
	a.t.Helper()
	a.Fault(history.Freeze, name, a.extra[name].Freeze)
	began := time.Now()
	if meanwhile != nil {
		meanwhile()
	}
	time.Sleep(long - time.Since(began))
	a.extra[name].Thaw()
	a.Heal(name)
}

// restart sends SIGTERM to one of dev's children and waits until it is ready again.
func (a *arena) restart(name string, s syscall.Signal) {
	a.t.Helper()
	what := history.Stop
	if s == syscall.SIGKILL {
		what = history.Kill
	}
	a.Fault(what, name, func() {
		pid := a.dev.Signal(name, s)
		a.dev.AwaitRestart(name, pid, 60*time.Second)
	})
	a.Heal(name)
}

// want is what a test asks of a run beside the invariants.
type want struct {
	fault     string
	faults    int // that must have fired
	takeovers int // shards that must have changed hands
	// fresh and found bound the waits after the faults; 0: not judged. orderly: a job
	// may wait for the broker's limit beyond the rebalance. To each comes what the
	// machine costs, to the orderly one once a step: the longest wait of the same load undisturbed,
	// and the longest time that a process was kept from running.
	fresh, found time.Duration
	orderly      bool
	// calls: every call has to succeed.
	calls bool
}

// judge ends the run, checks it, prints its row and fails the test by what it finds.
func (a *arena) judge(w want) *history.Verdict {
	a.t.Helper()
	events := a.Finish(drain)
	rules := history.Rules{
		Limits: map[string]history.Limit{}, TTL: ttl, RenewEvery: renewEvery, Quarantine: quarantine,
		Jitter: 250 * time.Millisecond, Unsettled: 2 * time.Second, Starved: 5 * time.Second, Recovery: session + quarantine + 5*time.Second,
		Accepted: 0.99, Jobs: 500, Faults: w.faults, Takeovers: w.takeovers,
	}
	if w.orderly {
		rules.Recovery = 2 * time.Second
	}
	for _, s := range sources() {
		rules.Limits[s.Name] = s.Limit
	}
	v := history.Check(events, rules)
	if !v.Clean() {
		a.t.Errorf("-seed %d: %v", a.seed, v)
	}
	var most history.Waits
	quiet := v.QuietWait() + a.Stalled()
	for i := range w.faults {
		x := v.Waits(i, rules.Recovery)
		a.t.Logf("fault %d: %+v", i+1, x)
		limit := min(a.broker.orderly+orderlySteps*quiet, timerLimit)
		if w.orderly && x.Gap > timerLimit {
			a.t.Errorf("fault %d: a shard had no owner for %v", i+1, x.Gap)
		}
		if w.orderly && x.Shards > 0 && x.Beyond > limit { // where no shard moved there was no rebalance
			a.t.Errorf("fault %d: a job waited %v beyond the rebalance, want at most %v, where the machine costs %v: %v", i+1, x.Beyond, limit, quiet, x.Worst)
		}
		most.Beyond = max(most.Beyond, x.Beyond)
		if x.Fresh > most.Fresh {
			most.Worst[0] = x.Worst[0]
		}
		if x.Found > most.Found {
			most.Worst[1] = x.Worst[1]
		}
		most.Call = max(most.Call, x.Call)
		most.Gap, most.Shards = max(most.Gap, x.Gap), most.Shards+x.Shards
		most.Fresh, most.FreshP99 = max(most.Fresh, x.Fresh), max(most.FreshP99, x.FreshP99)
		most.Found, most.FoundJobs = max(most.Found, x.Found), most.FoundJobs+x.FoundJobs
		most.Flight, most.FlightJobs = max(most.Flight, x.Flight), most.FlightJobs+x.FlightJobs
	}
	if w.fresh > 0 && most.Fresh > w.fresh+quiet {
		a.t.Errorf("a fresh job waited %v, want at most %v: %s", most.Fresh, w.fresh, most.Worst[0])
	}
	if w.found > 0 && most.Found > w.found+quiet {
		a.t.Errorf("a job that lay in the log waited %v, want at most %v: %s", most.Found, w.found, most.Worst[1])
	}
	if w.calls && v.Unknown+v.Refused > 0 {
		a.t.Errorf("%d calls of unknown fate, %d refused; want none: %v", v.Unknown, v.Refused, v.Answers)
	}
	if most.FlightJobs == 0 {
		a.t.Error("nothing was in flight when the faults came")
	}
	rows.add(a.t, fmt.Sprintf("| %s | %s | %d | %d | %d | %v | %d | %d | %d | %d | %v | %v | %v (%v) | %v of %d | %v of %d |", w.fault, a.broker.name,
		v.Sent, v.Accepted, v.Unknown+v.Refused, ms(most.Call), v.Anomalies["lost"], v.Duplicates+v.Anomalies["duplicate-exec"], v.Anomalies["lease-overlap"], most.Shards,
		ms(most.Gap), ms(most.Beyond), ms(most.Fresh), ms(most.FreshP99), ms(most.Found), most.FoundJobs, ms(most.Flight), most.FlightJobs))
	a.t.Logf("longest wait undisturbed, and longest stall of the machine: %v; figures %v", quiet, v.Figures())
	return v
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + " ms" }
