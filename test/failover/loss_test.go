package failover

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/spillway/spillway/test/apache"
	"github.com/spillway/spillway/test/product"
)

const (
	// warmUp is how long the load runs before the first kill, so that long jobs
	// run through it.
	warmUp = 8 * time.Second
	// between is from a broker's serving again to the next kill (F7).
	between = 5 * time.Second
	// backLimit bounds waiting for everything to work again after a kill; what is
	// judged is how long it took.
	backLimit = 40 * time.Second
	// inSyncLimit bounds waiting for a restarted broker to be in sync.
	inSyncLimit = 40 * time.Second
	drainLimit  = 75 * time.Second // beyond a lease's TTL and a quarantine
	settle      = 200 * time.Millisecond

	// afterReference is the gate of one broker: accepting and granting after the
	// plain client's first acknowledged record. afterKill is that of three.
	afterReference, afterKill = 5 * time.Second, 12 * time.Second
)

// brokers are what a test takes away.
type brokers struct {
	addresses  []string
	durability string
	kill       func(i int)
	restart    func(i int) // returns once it serves
	freeze     func(i int)
	thaw       func(i int)
}

// onApache starts Apache Kafka.
func onApache(t *testing.T, n int, session time.Duration) (*brokers, *apache.Cluster) {
	t.Helper()
	c := apache.Start(t, apache.Config{Brokers: n, SessionTimeout: session})
	b := &brokers{addresses: c.Addresses(), durability: "single", kill: c.Kill, restart: c.Restart, freeze: c.Freeze, thaw: c.Thaw}
	if n == 3 {
		b.durability = "replicated"
	}
	return b, c
}

// embedded starts the product's own broker.
func embedded(t *testing.T) *brokers {
	t.Helper()
	dir, err := os.MkdirTemp("", "failover") // short: a socket's path has 108 bytes; and nobody else's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	var p *product.Process
	start := func() {
		cmd := exec.Command(product.Binary(t), "serve", "broker", "--until-stdin-closes", "--data-dir", filepath.Join(dir, "data"), "--socket", socket)
		p = product.Launch(t, "broker", cmd, true, nil)
		product.Until(t, readyLimit, "the broker serves", func() bool {
			if p.Ended() {
				t.Fatalf("the broker ended: %s", p.Said())
			}
			return strings.Contains(p.Said(), "broker serves")
		})
	}
	start()
	return &brokers{
		addresses: []string{"unix:" + socket}, durability: "single",
		kill: func(int) { p.Kill() }, restart: func(int) { start() },
		freeze: func(int) { p.Freeze() }, thaw: func(int) { p.Thaw() },
	}
}

func TestApacheBrokerLoss(t *testing.T) {
	type row struct {
		name                string
		brokers, schedulers int
		session             time.Duration // broker.session.timeout.ms
		victims             []string
	}
	rows := []row{
		{"One", 1, 1, 3 * time.Second, []string{"only", "only", "only"}},
		{"OneThreeSchedulers", 1, 3, 3 * time.Second, []string{"only", "only", "only"}},
		{"Three", 3, 3, 3 * time.Second, []string{"leader", "coordinator", "controller"}},
		{"ThreeOneScheduler", 3, 1, 3 * time.Second, []string{"coordinator", "leader", "controller"}},
	}
	if *defaults {
		rows = append(rows, row{"OneDefaults", 1, 3, 9 * time.Second, []string{"only"}}, row{"ThreeDefaults", 3, 3, 9 * time.Second, []string{"coordinator"}})
	}
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			b, _ := onApache(t, c.brokers, c.session)
			l := newLoss(t, b, c.schedulers)
			l.reference = watch(t, b.addresses, c.brokers)
			l.run(c.victims, func(k *kill) {
				switch {
				case c.session > 3*time.Second:
				case c.brokers == 1:
					k.within("accepting after the plain client", k.accept.Sub(k.plain), afterReference)
					k.within("granting after the plain client", k.grant.Sub(k.plain), afterReference)
				default:
					k.within("accepting after the kill", k.accept.Sub(k.at), afterKill)
					k.within("granting after the kill", k.grant.Sub(k.at), afterKill)
				}
			})
		})
	}
}

// The same with the broker of `spillway dev`, which forgets the group's members.
func TestEmbeddedBrokerLoss(t *testing.T) {
	t.Parallel()
	l := newLoss(t, embedded(t), 3)
	l.run([]string{"only", "only"}, func(k *kill) {
		k.within("accepting after the broker", k.accept.Sub(k.served), time.Second)
		k.within("granting after the broker", k.grant.Sub(k.served), afterReference)
	})
}

// loss is one run.
type loss struct {
	t         *testing.T
	brokers   *brokers
	world     *world
	reference *reference // nil: none
	table     table
}

func newLoss(t *testing.T, b *brokers, schedulers int) *loss {
	t.Helper()
	l := &loss{t: t, brokers: b, world: newWorld(t, strings.Join(b.addresses, ","), b.durability, schedulers)}
	l.table.add("killed", "broker back", "plain client: first", "all", "accepted: first", "all sources", "coordinator: first", "all schedulers", "granted: first", "all sources", "running then")
	return l
}

// kill is what one kill did.
type kill struct {
	t      *testing.T
	victim string
	// at is when the broker was killed, served when it served again, plain when
	// the plain client's first record was acknowledged, accept and grant when every
	// source had a job accepted, and granted.
	at, served, plain, accept, grant time.Time
}

func (k *kill) within(what string, took, limit time.Duration) {
	k.t.Helper()
	if took > limit {
		k.t.Errorf("%s, %s: %s, more than %s", k.victim, what, took.Round(10*time.Millisecond), limit)
	}
}

// run kills one after the other under load, and judges.
func (l *loss) run(victims []string, judge func(*kill)) {
	t := l.t
	t.Logf("seed %d", *seed)
	most := longMost
	if l.reference == nil {
		most = longEmbedded
	}
	traffic := l.world.begin(300, 2, most)
	time.Sleep(warmUp)
	for _, victim := range victims {
		k := l.one(traffic, victim)
		judge(k)
		time.Sleep(time.Until(k.served.Add(between)))
	}
	a := traffic.end(drainLimit)
	t.Logf("%s\n  sent %d, accepted %d, refused %d, unknown %d %v, lost %d, duplicates %d, cancelled %d", l.table.String(),
		a.sent, a.accepted, a.refused, a.unknown, a.fates, a.lost, a.duplicates, len(a.cancelled))
	if a.lost > 0 {
		t.Errorf("%d acknowledged jobs were lost", a.lost)
	}
	if a.accepted < a.sent*9/10 {
		t.Errorf("only %d of %d jobs were accepted", a.accepted, a.sent)
	}
	for i, c := range a.cancelled {
		if i == 10 {
			break
		}
		t.Errorf("cancelled: %s", c)
	}
	l.world.ledger()
	for _, s := range append([]*service{l.world.enqueue}, l.world.schedulers...) {
		if s.Ended() {
			t.Errorf("%s has ended", s.name)
		}
	}
}

// one kills a broker, starts it again, and waits until all is as before.
func (l *loss) one(traffic *traffic, victim string) *kill {
	t := l.t
	i := l.find(victim)
	running := traffic.running()
	k := &kill{t: t, victim: fmt.Sprintf("%s (%d)", victim, i), at: time.Now()}
	l.brokers.kill(i)
	gone := time.Now()
	l.brokers.restart(i)
	k.served = time.Now()

	var b back
	var plain, allPlain time.Time
	product.Until(t, backLimit, "after the kill every source has had a job granted", func() bool {
		b = traffic.since(gone)
		if l.reference != nil {
			plain, allPlain = l.reference.since(gone, settle)
		}
		return !b.lastAccept.IsZero() && !b.lastGrant.IsZero() && (l.reference == nil || !allPlain.IsZero())
	})
	k.plain, k.accept, k.grant = plain, b.lastAccept, b.lastGrant
	var firstBack, lastBack time.Time
	for _, s := range l.world.schedulers {
		here := s.said(gone, "the group's coordinator answers again", "generation began")
		if here.IsZero() {
			continue // its coordinator lives, or was away for less than a heartbeat's worth
		}
		if firstBack.IsZero() || here.Before(firstBack) {
			firstBack = here
		}
		if here.After(lastBack) {
			lastBack = here
		}
	}
	after := func(at time.Time) any {
		if at.IsZero() {
			return "-"
		}
		return at.Sub(k.at)
	}
	l.table.add(k.victim, after(k.served), after(plain), after(allPlain), after(b.firstAccept), after(b.lastAccept),
		after(firstBack), after(lastBack), after(b.firstGrant), after(b.lastGrant), running)
	if len(l.brokers.addresses) > 1 {
		l.awaitInSync()
		k.served = time.Now()
	}
	return k
}

// find is the number of the broker that is what victim says.
func (l *loss) find(victim string) int {
	if len(l.brokers.addresses) == 1 {
		return 0
	}
	var port int32
	l.ask(func(ctx context.Context, c *kgo.Client) error {
		request := kmsg.NewMetadataRequest()
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = kmsg.StringPtr("spillway.control")
		request.Topics = append(request.Topics, topic)
		view, err := request.RequestWith(ctx, c)
		if err != nil {
			return err
		}
		node := view.ControllerID
		switch victim {
		case "leader": // of the control log, and of its part of the others
			if len(view.Topics) != 1 || len(view.Topics[0].Partitions) != 1 {
				return fmt.Errorf("metadata of the control log: %+v", view.Topics)
			}
			node = view.Topics[0].Partitions[0].Leader
		case "coordinator":
			find := kmsg.NewFindCoordinatorRequest()
			find.CoordinatorKey, find.CoordinatorKeys = "spillway.scheduler", []string{"spillway.scheduler"}
			answer, err := find.RequestWith(ctx, c)
			if err != nil {
				return err
			}
			if len(answer.Coordinators) != 1 {
				return fmt.Errorf("coordinators: %+v", answer)
			}
			if err := kerr.ErrorForCode(answer.Coordinators[0].ErrorCode); err != nil {
				return err
			}
			node = answer.Coordinators[0].NodeID
		}
		for _, broker := range view.Brokers {
			if broker.NodeID == node {
				port = broker.Port
				return nil
			}
		}
		return fmt.Errorf("the %s, node %d, is not among the brokers", victim, node)
	})
	for i, address := range l.brokers.addresses {
		if strings.HasSuffix(address, fmt.Sprint(":", port)) {
			return i
		}
	}
	l.t.Fatalf("no broker at port %d", port)
	return 0
}

// awaitInSync waits until every partition has all its replicas in sync.
func (l *loss) awaitInSync() {
	deadline := time.Now().Add(inSyncLimit)
	for {
		behind := 0
		l.ask(func(ctx context.Context, c *kgo.Client) error {
			request := kmsg.NewMetadataRequest()
			request.Topics = nil // all
			view, err := request.RequestWith(ctx, c)
			if err != nil {
				return err
			}
			behind = 0
			for _, topic := range view.Topics {
				for _, p := range topic.Partitions {
					if len(p.ISR) < len(p.Replicas) {
						behind++
					}
				}
			}
			return nil
		})
		if behind == 0 {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%d partitions are not in sync after %s", behind, inSyncLimit)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// ask asks the cluster, with patience for a broker that has just come back.
func (l *loss) ask(question func(context.Context, *kgo.Client) error) {
	l.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(l.brokers.addresses...))
	if err != nil {
		l.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		if err = question(ctx, client); err == nil {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			l.t.Fatal(err)
		}
	}
}
