package enqueue

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/pkg/lifecycle"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/status"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue/internal/api"
	"github.com/spillway/spillway/services/enqueue/internal/core"
	"github.com/spillway/spillway/services/enqueue/internal/publish"
)

const (
	// maxReceive is above the contract's 3 MiB of a batch, so that a larger one is refused with words.
	maxReceive = 4 << 20
	// recordOverhead is what the producer counts for a record beyond what the admission does; its budget is larger by that, so that the
	// admission's refusals come first, which know priorities and sources.
	recordOverhead = 2
	// statusBytes bounds beats on their way; there is one at a time, without marks.
	statusBytes = 256 << 10
	// statusDeadline is when a beat is worth nothing any more.
	statusDeadline = time.Second
	// look is how often health is looked at beside changes of what it depends on.
	look = 250 * time.Millisecond
	// stopBudget is how long calls have to end when the service stops; flushBudget what is left for records of callers that are gone.
	stopBudget  = 5 * time.Second
	flushBudget = 2 * time.Second
)

// Service is one enqueue replica.
type Service struct {
	cfg     Config
	deps    Deps
	id      string // unique for the life of the process
	topics  kafka.Topics
	clients []*kafka.Client // jobs first

	jobs    *produce.Producer
	beats   *produce.Producer
	control *controllog.Follower
	reader  *status.Reader
	writer  *status.Writer

	room   *publish.Room // made by Run, before anything that uses it starts
	opened chan struct{} // closed once the topics were found fit: calls are taken from then on
}

// New wires a service. It starts nothing and does no I/O.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Validate(), deps.validate()); err != nil {
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	if cfg.Address == "" {
		cfg.Address = deps.Listener.Addr().String()
	}
	var suffix [4]byte
	rand.Read(suffix[:]) // never fails
	s := &Service{cfg: cfg, deps: deps, id: cfg.Replica + "-" + hex.EncodeToString(suffix[:]), topics: kafka.Topics{Prefix: cfg.Prefix}, opened: make(chan struct{})}
	// One client each, so that a flood of jobs delays neither switches nor beats. Only the first has a name that begins with the service's: the
	// embedded broker refuses its records first when the store fills up.
	for _, id := range []string{"enqueue." + cfg.Replica, "control.enqueue." + cfg.Replica, "status.enqueue." + cfg.Replica} {
		c, err := deps.Kafka(id)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("enqueue: %w", err)
		}
		s.clients = append(s.clients, c)
	}
	s.jobs = produce.New(s.clients[0], produce.Config{MaxBytes: recordOverhead * cfg.Inflight, Deadline: publish.DeliveryDeadline})
	s.control = controllog.NewFollower(s.clients[1], s.topics.Control(), deps.MACKey, deps.Log)
	s.beats = produce.New(s.clients[2], produce.Config{MaxBytes: statusBytes, Deadline: statusDeadline})
	s.reader = status.NewReader(s.clients[2], s.topics.Status(), deps.Log)
	s.writer = status.NewWriter(s.beats, s.topics.Status(), s.beat, deps.Log)
	return s, nil
}

// Run serves until ctx ends, and then stops in order: not ready, open calls answered, records written, connections closed. It returns early when
// the installation is not what the configuration says, or something that is not to be mended fails.
func (s *Service) Run(ctx context.Context) error {
	defer s.close()
	automation, err := s.automation()
	if err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	ports := publish.Ports{Producer: s.jobs, Control: s.control, Beats: s.reader, Telemetry: s.deps.Telemetry}
	if automation != nil {
		defer automation.Close()
		ports.Registrar = publish.NewAutomation(automation)
	}
	room, err := publish.New(publish.Config{Replica: s.id, Topics: s.topics, Limits: core.Limits{
		InflightBytes: s.cfg.Inflight, RecallBytes: s.cfg.Keys, PayloadBytes: s.cfg.Payload, Local: automation != nil,
	}}, ports)
	if err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	s.room = room
	server, admin, err := s.listen(room)
	if err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}

	// Two groups, because what answers calls ends before what makes the answers.
	below := lifecycle.NewGroup(context.WithoutCancel(ctx))
	below.Go("jobs", s.jobs.Run)
	below.Go("beats", s.beats.Run)
	below.Go("control", s.follow)
	below.Go("status", s.reader.Run)
	below.Go("index", room.Run)
	below.Go("beats", func(ctx context.Context) error { return s.writer.Follow(ctx, s.control) })
	below.Go("health", func(ctx context.Context) error { return s.health(ctx, server) })
	if admin != nil {
		below.Go("admin", admin.Run)
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	above := lifecycle.NewGroup(serving)
	above.Go("server", server.Run)
	above.Go("check", func(ctx context.Context) error { return s.check(ctx, room) })
	above.Go("watch", func(ctx context.Context) error { // when something below fails, nothing is answered any more
		select {
		case <-below.Context().Done():
			stop()
		case <-ctx.Done():
		}
		return nil
	})
	err = above.Wait()
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushBudget)
	defer cancel()
	if below.Context().Err() == nil {
		if err := s.jobs.Flush(flush); err != nil {
			s.deps.Log.Warn("records of callers that are gone were not written", "error", err)
		}
	}
	below.Stop()
	if err = errors.Join(err, below.Wait()); err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	return nil
}

// follow keeps the control state. A record that this release cannot obey stops it: the service is then unready, but what it knew stays true
// until somebody acts, so calls that still come are judged by it.
func (s *Service) follow(ctx context.Context) error {
	if err := s.control.Run(ctx); err != nil {
		s.deps.Log.Error("the control log is not followed any more", "error", err)
		<-ctx.Done()
	}
	return nil
}

// automation connects to automation in local mode; nil in every other.
func (s *Service) automation() (*grpc.ClientConn, error) {
	if s.cfg.Register == "" {
		return nil, nil
	}
	return rpc.Dial(s.cfg.Register, rpc.DialConfig{TokenFile: s.cfg.RegisterTokenFile, Telemetry: s.deps.Telemetry, Dialer: s.deps.Dial})
}

// listen makes the servers.
func (s *Service) listen(room *publish.Room) (*rpc.Server, *rpc.Admin, error) {
	verifier, err := s.deps.Verifier(func() string { return s.control.State().Config().GetClusterId() })
	if err != nil {
		return nil, nil, err
	}
	server, err := rpc.NewServer(rpc.Config{
		Listener: s.deps.Listener, Begin: s.opened, Verifier: verifier, Roles: api.Roles(), Reflection: s.cfg.Reflection, Log: s.deps.Log, Telemetry: s.deps.Telemetry,
		MaxReceive: maxReceive, Deadline: publish.Deadline, StopBudget: stopBudget,
	}, func(g grpc.ServiceRegistrar) { api.Register(g, room) })
	if err != nil || s.deps.Admin == nil {
		return server, nil, err
	}
	admin, err := rpc.NewAdmin(rpc.AdminConfig{
		Listener: s.deps.Admin, Checks: func(context.Context) []rpc.Check { return s.Health() }, Metrics: s.deps.Telemetry.Metrics(), Log: s.deps.Log,
	})
	return server, admin, err
}

// check opens the room once the control log is folded and the installation is what was declared: H1, never on weaker topics.
func (s *Service) check(ctx context.Context, room *publish.Room) error {
	select {
	case <-s.control.Folded():
	case <-ctx.Done():
		return nil
	}
	for s.control.State().Config() == nil { // not installed yet
		changed := s.control.Changed()
		select {
		case <-changed:
		case <-time.After(look):
		case <-ctx.Done():
			return nil
		}
	}
	have := s.control.State().Config()
	if have.GetPrefix() != s.cfg.Prefix || have.GetFormatVersion() != controllog.Format {
		return fmt.Errorf("the control log is of an installation with prefix %q and format %d", have.GetPrefix(), have.GetFormatVersion())
	}
	layout := kafka.Layout{Topics: s.topics, Shards: int(have.GetShards()), Lanes: int(have.GetLanes()), Durability: s.cfg.Durability}
	if err := kafka.Check(ctx, s.clients[0], layout); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	room.Open()
	close(s.opened)
	s.deps.Log.Info("accepting jobs", "replica", s.id, "shards", layout.Shards)
	return nil
}

// beat is what status says of this replica.
func (s *Service) beat() *logv1.Status {
	sequence, hash := s.room.Sequence()
	return &logv1.Status{
		Replica: s.id, Kind: logv1.ReplicaKind_REPLICA_KIND_ENQUEUE, Address: s.cfg.Address, AppliedSequence: sequence, StateHash: hash,
		At: timestamppb.Now(), Pressure: status.Pressure(s.room.Pressure()),
	}
}

// health tells clients when the service becomes ready and unready.
func (s *Service) health(ctx context.Context, server *rpc.Server) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		ready := true
		for _, c := range s.Health() {
			ready = ready && c.OK
		}
		server.Health("", ready)
		server.Health(enqueuev1.EnqueueService_ServiceDesc.ServiceName, ready)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Health says what the service needs to be ready: a control log that the broker confirmed within 30 s, and topics fit to hold jobs.
func (s *Service) Health() []rpc.Check {
	control, topics := s.control.Ready(), error(nil)
	select {
	case <-s.opened:
	default:
		topics = errors.New("not checked yet")
	}
	return []rpc.Check{rpc.NewCheck("control", control), rpc.NewCheck("topics", topics)}
}

func (s *Service) close() {
	for _, c := range s.clients {
		c.Close()
	}
}
