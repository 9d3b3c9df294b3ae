package scheduler

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
	group "github.com/spillway/spillway/pkg/kafka/shard"
	"github.com/spillway/spillway/pkg/lifecycle"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/status"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
	"github.com/spillway/spillway/services/scheduler/internal/api"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
	"github.com/spillway/spillway/services/scheduler/internal/dispatch"
	"github.com/spillway/spillway/services/scheduler/internal/intake"
	"github.com/spillway/spillway/services/scheduler/internal/settle"
	"github.com/spillway/spillway/services/scheduler/internal/shard"
)

const (
	// produceBytes bounds what waits to be written: events, copies and dead letters. Intake waits when it is full.
	produceBytes = 32 << 20
	// produceWithin is how long the log's client tries one record before the rooms decide.
	produceWithin = 10 * time.Second
	// fetchBytes bounds what was fetched and not offered. Every parked fetch reserves 320 KiB of it: 5 priorities and 32 lanes of 8
	// shards fit.
	fetchBytes = 96 << 20
	// joinAfter is how long a replica that no worker has found stays out of the group while another one is live.
	joinAfter = 5 * time.Second
	// drainFor is how long a stop waits for running jobs when no other replica is there to go on with them.
	drainFor = 3 * time.Second
	// settleFor is how long a stop waits for what is under way to become durable when others are there: most of it is within milliseconds, and
	// what waits for the stop is everything else of these shards: a fifth of the 100 ms that it may wait beyond the rebalance.
	settleFor = 20 * time.Millisecond
	// poll is how often conditions are looked at that nobody tells.
	poll = 20 * time.Millisecond
)

// Service is one scheduler replica.
type Service struct {
	cfg     Config
	deps    Deps
	id      string // unique for the life of the process
	topics  kafka.Topics
	clients []*kafka.Client

	producer *produce.Producer // of job records and events: fenced by the generation
	beats    *status.Writer
	control  *controllog.Follower
	others   *status.Reader
	talkers  talkers // owned by the goroutine of beats
	loop     *dispatch.Loop
	owner    *shard.Owner
	settler  *settle.Writer
	reader   *intake.Reader
	server   *rpc.Server
	admin    *rpc.Admin
	statusOf *produce.Producer // of beats: never fenced
	stopping atomic.Bool       // not ready any more, whatever the checks say
}

// New wires a service. It starts nothing and does no I/O.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Validate(), deps.validate()); err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, deps: deps, id: cfg.Replica + "-" + suffix(), topics: kafka.Topics{Prefix: cfg.Prefix}}
	if s.cfg.Address == "" {
		s.cfg.Address = deps.Listener.Addr().String()
	}
	open := func(kind string) (*kafka.Client, error) {
		c, err := deps.Kafka("scheduler." + kind + "." + cfg.Replica)
		if err == nil {
			s.clients = append(s.clients, c)
		}
		return c, err
	}
	// Four clients, because one request at a time is in flight on a connection, and because grants depend on the control log's alone.
	jobs, err := open("jobs")
	if err != nil {
		return nil, err
	}
	writes, err := open("writes")
	if err != nil {
		return nil, err
	}
	controls, err := open("control")
	if err != nil {
		return nil, err
	}
	beats, err := open("status")
	if err != nil {
		return nil, err
	}
	s.control = controllog.NewFollower(controls, s.topics.Control(), deps.MACKey, deps.Log)
	s.others = status.NewReader(beats, s.topics.Status(), deps.Log)
	s.others.OnSummary(func(replica string, list []*logv1.Summary) {
		if replica != s.id {
			s.loop.Heard(replica, heard(list))
		}
	})
	s.statusOf = produce.New(beats, produce.Config{MaxBytes: 4 << 20, Deadline: time.Second})
	s.beats = status.NewWriter(s.statusOf, s.topics.Status(), s.beat, deps.Log)
	s.loop = dispatch.New(dispatch.Config{Replica: s.id, TTL: leaseTTL, RenewEvery: renewEvery}, dispatch.Deps{
		Log: deps.Log, Telemetry: deps.Telemetry, Engine: core.New(core.Config{Seed: seed(), Memory: int(cfg.Memory), TTL: leaseTTL, Reserve: cfg.Reserve}),
	})
	s.producer = produce.New(writes, produce.Config{MaxBytes: produceBytes, Deadline: produceWithin, Gate: func() error { return s.owner.MayProduce() }})
	s.owner = shard.New(shard.Config{Topics: s.topics, Name: cfg.Replica, Replica: s.id, MACKey: deps.MACKey, TrimEvery: cfg.TrimEvery}, shard.Deps{
		Log: deps.Log, Kafka: jobs, Records: s.producer, Engine: s.loop, Inputs: inputs{s}, HandOver: s.loop.HandOver, Changed: s.ownershipChanged,
	})
	s.settler = settle.New(settle.Config{Topics: s.topics, Replica: s.id, MACKey: deps.MACKey}, settle.Deps{
		Log: deps.Log, Records: s.producer, Engine: s.loop, Homes: s.owner, Workers: s.loop,
	})
	s.reader = intake.New(intake.Deps{
		Log: deps.Log, Fetch: jobs, Engine: s.loop, Homes: s.owner, Settler: s.settler, Control: registry{s.control},
		Budget: group.NewBudget(fetchBytes),
	})
	s.loop.Connect(dispatch.Ports{Settler: s.settler, Mover: s.settler, Reader: s.reader, Gate: s, Beat: s})
	return s, nil
}

// listen makes the servers: they read key files, so Run does it.
func (s *Service) listen() (err error) {
	verifier, err := s.deps.Verifier(func() string { return s.control.State().Config().GetClusterId() })
	if err != nil {
		return err
	}
	handler := api.New(func(who frame.Identity, hello frame.Hello) (api.Stream, error) {
		session, err := s.loop.Open(who, hello)
		if err != nil {
			return nil, err
		}
		return session, nil
	}, s.deps.Log)
	s.server, err = rpc.NewServer(rpc.Config{
		Listener: s.deps.Listener, Verifier: verifier, Roles: api.Roles(), Reflection: s.cfg.Reflection, Log: s.deps.Log,
		Telemetry: s.deps.Telemetry, MaxReceive: 4 << 20, MaxSend: 20 << 20,
	}, func(g grpc.ServiceRegistrar) { schedulerv1.RegisterWorkerServiceServer(g, handler) })
	if err != nil || s.deps.Admin == nil {
		return err
	}
	s.admin, err = rpc.NewAdmin(rpc.AdminConfig{Listener: s.deps.Admin, Checks: s.checks, Metrics: s.deps.Telemetry.Metrics(), Log: s.deps.Log})
	return err
}

// Run serves until ctx ends, and then stops in order: not ready, workers told, shards given back, everything written, connections
// closed.
func (s *Service) Run(ctx context.Context) error {
	defer func() {
		for _, c := range s.clients {
			c.Close()
		}
	}()
	if err := s.listen(); err != nil {
		return err
	}
	// What the shards need outlives them.
	below := lifecycle.NewGroup(context.WithoutCancel(ctx))
	base := below.Context()
	for name, run := range map[string]func(context.Context) error{
		"producer": s.producer.Run, "status producer": s.statusOf.Run, "control": s.control.Run, "status": s.others.Run, "settle": s.settler.Run,
		"dispatch": s.loop.Run, "server": s.server.Run, "follow": s.follow, "beats": s.runBeats,
	} {
		below.Go(name, run)
	}
	if s.admin != nil {
		below.Go("admin", s.admin.Run)
	}
	owning, release := context.WithCancel(base)
	defer release()
	done := make(chan error, 1)
	go func() { done <- s.own(owning) }()

	var err error
	select {
	case <-ctx.Done():
		s.stop(owning, release, done)
	case <-base.Done():
		release()
		<-done
	case err = <-done:
	}
	below.Stop()
	if err := errors.Join(err, below.Wait()); err != nil {
		return fmt.Errorf("scheduler: %w", err)
	}
	return nil
}

// own checks the installation, waits until it is this replica's turn to join, and owns shards.
func (s *Service) own(ctx context.Context) error {
	select {
	case <-s.control.Folded():
	case <-ctx.Done():
		return nil
	}
	config := s.control.State().Config()
	if config.GetPrefix() != s.cfg.Prefix || config.GetFormatVersion() != 1 {
		return fmt.Errorf("scheduler: the control log is of an installation with prefix %q and format %d", config.GetPrefix(), config.GetFormatVersion())
	}
	layout := kafka.Layout{Topics: s.topics, Shards: int(config.GetShards()), Lanes: int(config.GetLanes()), Durability: s.cfg.Durability}
	if err := kafka.Check(ctx, s.clients[0], layout); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if err := s.turn(ctx); err != nil {
		return nil
	}
	return s.owner.Run(ctx, layout.Shards)
}

// turn waits until joining harms nobody: at once when alone, else when a worker has found this replica, or after a while.
func (s *Service) turn(ctx context.Context) error {
	for began := time.Now(); ; {
		_, watched := s.others.Since()
		others := slices.ContainsFunc(s.others.Live(logv1.ReplicaKind_REPLICA_KIND_SCHEDULER), func(r *status.Replica) bool {
			return r.Replica != s.id && len(r.Shards) > 0
		})
		if watched && !others || s.loop.Sessions() > 0 || time.Since(began) > joinAfter {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

// stop drains: workers are told, what runs is handed over with the shards, and what is written is flushed. Only when there is nobody to hand over
// to, running jobs get a moment to end.
func (s *Service) stop(owning context.Context, release func(), done <-chan error) {
	s.stopping.Store(true)
	s.health(false)
	s.loop.Drain("the scheduler stops", drainFor)
	wait := drainFor
	if s.accompanied() {
		wait = settleFor
	}
	deadline := time.After(wait)
wait:
	for !s.idle() && owning.Err() == nil {
		select {
		case <-deadline:
			break wait
		case <-time.After(poll):
		}
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(owning), time.Second)
	defer cancel()
	if err := s.producer.Flush(flush); err != nil {
		s.deps.Log.Warn("not everything was written before the stop: some jobs run again", "error", err)
	}
	release()
	if err := <-done; err != nil {
		s.deps.Log.Warn("the shards were not given back in order", "error", err)
	}
}

// follow gives the engine each new control state, the workers each new topology, and health what is true.
func (s *Service) follow(ctx context.Context) error {
	tick := time.NewTicker(time.Second / 4)
	defer tick.Stop()
	applied := int64(-2)
	var convert converter
	for {
		changed, beaten := s.control.Changed(), s.others.Changed()
		if state := s.control.State(); state != nil && state.Sequence() != applied {
			applied = state.Sequence()
			if _, err := s.loop.Apply(convert.control(state)); err != nil {
				return err
			}
		}
		var replicas []frame.Replica
		for _, r := range s.others.Live(logv1.ReplicaKind_REPLICA_KIND_SCHEDULER) {
			replicas = append(replicas, frame.Replica{ID: r.Replica, Address: r.Address, Shards: r.Shards})
		}
		s.loop.SetTopology(replicas)
		ready := !s.stopping.Load()
		for _, check := range s.checks(ctx) {
			ready = ready && check.OK
		}
		s.health(ready)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-beaten:
		case <-tick.C:
		}
	}
}

// health tells whoever asks the server.
func (s *Service) health(ready bool) {
	s.server.Health("", ready)
	s.server.Health(schedulerv1.WorkerService_ServiceDesc.ServiceName, ready)
}

// ownershipChanged tells workers and everybody else which shards are here.
func (s *Service) ownershipChanged() {
	s.loop.Own(s.owner.Epochs())
	s.beats.Poke()
}

// Open reports whether jobs may be granted: the control log was confirmed within 500 ms, the engine acts on all of it, the generation was
// confirmed within 3 s, and others see this replica as live, so that a hold waits for it. See dispatch.Gate.
func (s *Service) Open(now time.Time, applied int64) bool {
	fresh := now.Sub(s.control.Confirmed()) <= freshness // looked at before State, which is published before it is confirmed
	return fresh && applied == s.control.State().Sequence() && now.Sub(s.beats.Beaten()) <= status.LiveFor && s.owner.Open(now)
}

// accompanied reports whether another scheduler is live.
func (s *Service) accompanied() bool {
	return slices.ContainsFunc(s.others.Live(logv1.ReplicaKind_REPLICA_KIND_SCHEDULER), func(r *status.Replica) bool { return r.Replica != s.id })
}

// idle reports whether no lease is running.
func (s *Service) idle() bool {
	leases := 0
	s.loop.Do(func(_ time.Time, e *core.Engine) { leases = e.Leases() })
	return leases == 0
}

// Renews reports whether leases may be renewed. See dispatch.Gate.
func (s *Service) Renews(now time.Time) bool { return s.owner.Renews(now) }

// Health says what keeps the service from being ready.
func (s *Service) Health() []rpc.Check { return s.checks(context.Background()) }

func (s *Service) checks(context.Context) []rpc.Check {
	joined := error(nil)
	if !s.owner.Joined() {
		joined = errors.New("no generation of the group was joined yet, or it was lost")
	}
	return []rpc.Check{rpc.NewCheck("control", s.control.Ready()), rpc.NewCheck("shards", joined)}
}

// registry is the control log as intake needs it.
type registry struct{ *controllog.Follower }

// Knows reports whether the source is registered with the type.
func (r registry) Knows(source, typ string) bool {
	state := r.State()
	if state == nil {
		return false
	}
	s, registered := state.Source(source)
	return registered && slices.Contains(s.GetTypes(), typ)
}

// inputs lets the shard room start the intake room's readers.
type inputs struct{ s *Service }

func (i inputs) ReadPriority(ctx context.Context, w *shard.Window) error {
	return i.s.reader.ReadPriority(ctx, w)
}
func (i inputs) ReadLane(ctx context.Context, w *shard.Window) error {
	return i.s.reader.ReadLane(ctx, w)
}

// suffix makes a replica's name unique for the life of its process.
func suffix() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

func seed() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	n := uint64(0)
	for _, x := range b {
		n = n<<8 | uint64(x)
	}
	return n
}
