package automation_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	"github.com/spillway/spillway/pkg/status"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/automation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	cluster = "5f0c1f0e-0000-4000-8000-000000000001"
	shards  = 4
	lanes   = 3
)

var (
	topics = kafka.Topics{Prefix: "spillway."}
	macKey = []byte("0123456789abcdef0123456789abcdef")
)

// world is an installation in a bubble: a broker, automation replicas that the test talks to over gRPC, and peers that follow the control
// log and beat as schedulers and enqueue replicas do.
type world struct {
	t       testing.TB
	ctx     context.Context
	broker  *kafkatest.Broker
	network *rpctest.Network
	signer  *rpc.Signer
	records *produce.Producer
	control *controllog.Writer
	state   *controllog.Follower
	running sync.WaitGroup
	conns   []*grpc.ClientConn
	kill    context.CancelFunc // ends the automation replicas
	serving context.Context

	sources  automationv1.SourceServiceClient
	admin    automationv1.SourceAdminServiceClient
	switches automationv1.SwitchServiceClient
}

// bubble runs f in a world with one automation replica, in virtual time.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, network: rpctest.NewNetwork(), broker: kafkatest.Start(t)}
		ctx, cancel := context.WithCancel(t.Context())
		defer w.running.Wait()
		defer cancel()
		w.ctx = ctx
		w.serving, w.kill = context.WithCancel(ctx)
		w.broker.Install(t, kafka.Layout{Topics: topics, Shards: shards, Lanes: lanes, Durability: kafka.Single})
		w.records = produce.New(w.client("test"), produce.Config{})
		w.state = controllog.NewFollower(w.client("test-control"), topics.Control(), macKey, slog.New(slog.DiscardHandler))
		w.control = controllog.NewWriter(w.records, w.state, topics.Control(), macKey)
		w.running.Go(func() { w.records.Run(ctx) })
		w.running.Go(func() { w.state.Run(ctx) })
		w.command(&logv1.Command{Actor: "install", Act: &logv1.Command_ClusterConfig{ClusterConfig: &logv1.ClusterConfig{
			ClusterId: cluster, FormatVersion: controllog.Format, Shards: shards, Lanes: lanes, Prefix: topics.Prefix,
		}}})
		var err error
		if w.signer, err = rpc.OpenSigner(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			for _, c := range w.conns {
				c.Close()
			}
		}()
		w.replica("automation-0")
		operator := w.dial("automation-0", rpc.RoleRead, rpc.RoleOperate, rpc.RoleAdmin)
		w.sources = automationv1.NewSourceServiceClient(operator)
		w.admin = automationv1.NewSourceAdminServiceClient(operator)
		w.switches = automationv1.NewSwitchServiceClient(operator)
		f(t, w)
	})
}

func (w *world) client(id string) *kafka.Client { return w.broker.Client(w.t, id, topics.All()...) }

// replica starts an automation replica and waits until it is ready.
func (w *world) replica(name string) {
	w.t.Helper()
	s, err := automation.New(automation.Config{Replica: name, Prefix: topics.Prefix}, automation.Deps{
		Log:   slog.New(slog.DiscardHandler),
		Kafka: func(id string) (*kafka.Client, error) { return kafka.New(w.broker.Config(id, topics.All()...)) },
		Verifier: func(issuer func() string) (*rpc.Verifier, error) {
			return rpc.NewVerifier(w.signer.JWKS(), issuer, time.Now())
		},
		MACKey: macKey, Listener: w.network.Listen(name),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.running.Go(func() {
		if err := s.Run(w.serving); err != nil {
			w.t.Error(name, err)
		}
	})
	w.until(name+" is ready", func() bool {
		for _, c := range s.Health() {
			if !c.OK {
				return false
			}
		}
		return true
	})
}

// dial connects to a replica with a token of its own.
func (w *world) dial(name string, roles ...rpc.Role) *grpc.ClientConn {
	w.t.Helper()
	token, err := w.signer.Sign(rpc.Claims{Issuer: cluster, Subject: "anna", Roles: roles, TTL: 24 * time.Hour}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := rpc.Dial(rpctest.Target(name), rpc.DialConfig{Token: token, Dialer: w.network.Dial})
	if err != nil {
		w.t.Fatal(err)
	}
	w.conns = append(w.conns, conn)
	return conn
}

// until waits in virtual time for what takes at most a few seconds.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("not reached: ", what)
		}
	}
}

// command writes to the control log beside automation.
func (w *world) command(c *logv1.Command) int64 {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	sequence, err := w.control.Append(ctx, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return sequence
}

// peer is a replica of another service: it follows the control log and tells what it acts on.
type peer struct {
	name    string
	follow  *controllog.Follower
	applied atomic.Int64
	// late is how long it takes to act on a new state; mute stops its acknowledgements, deaf its beats.
	late       time.Duration
	mute, dead atomic.Bool
	running    atomic.Int64
	marks      atomic.Pointer[[]*logv1.SpillMark]
}

func (w *world) peer(kind logv1.ReplicaKind, name string, late time.Duration) *peer {
	w.t.Helper()
	p := &peer{name: name, late: late, follow: controllog.NewFollower(w.client(name+"-control"), topics.Control(), macKey, slog.New(slog.DiscardHandler))}
	p.applied.Store(-1)
	ctx, stop := context.WithCancel(w.ctx)
	beats := status.NewWriter(w.records, topics.Status(), func() *logv1.Status {
		if p.dead.Load() {
			stop()
		}
		s := &logv1.Status{Replica: name, Kind: kind, AppliedSequence: p.applied.Load(), HeldRunning: p.running.Load()}
		if marks := p.marks.Load(); marks != nil {
			s.Marks = *marks
		}
		return s
	}, slog.New(slog.DiscardHandler))
	w.running.Go(func() { p.follow.Run(ctx) })
	w.running.Go(func() { beats.Run(ctx) })
	w.running.Go(func() {
		for ctx.Err() == nil {
			changed := p.follow.Changed()
			if sequence := p.follow.State().Sequence(); !p.mute.Load() && sequence > p.applied.Load() {
				time.Sleep(p.late)
				p.applied.Store(sequence)
				beats.Poke()
			}
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
	})
	w.until(name+" follows", func() bool { return p.applied.Load() >= 0 })
	time.Sleep(time.Second) // everybody has seen its beats
	return p
}

func (w *world) register(name string) *automationv1.Source {
	w.t.Helper()
	res, err := w.admin.RegisterSource(w.ctx, &automationv1.RegisterSourceRequest{Source: &automationv1.Source{Name: name, Types: []string{"tag"}}})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.state.Wait(w.ctx, res.GetSource().GetRevision()); err != nil { // the test reads the log by itself
		w.t.Fatal(err)
	}
	return res.GetSource()
}

func onSource(name string) *automationv1.Scope {
	return &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: name}}
}

func holdOf(name string) *automationv1.HoldRequest {
	return &automationv1.HoldRequest{Spec: &automationv1.SwitchSpec{Scope: onSource(name), Reason: "runs away"}}
}

// refused fails the test unless err has the reason.
func refused(t *testing.T, what string, err error, reason string) *rpc.Error {
	t.Helper()
	if got := rpc.ReasonOf(err); err == nil || got != reason {
		t.Errorf("%s: got %v, want %s", what, err, reason)
		return &rpc.Error{}
	}
	return rpc.FromError(err)
}

// acked are the replicas of a proof without what makes their names unique.
func acked(p *automationv1.Proof) string {
	var names []string
	for _, a := range p.GetAcks() {
		names = append(names, a.GetReplica())
		if a.GetAppliedAt() == nil {
			names = append(names, "without a time")
		}
	}
	return fmt.Sprint(names, " silent ", strings.Join(p.GetSilent(), ","))
}
