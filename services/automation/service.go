package automation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/pkg/lifecycle"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/status"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/automation/internal/api"
	"github.com/spillway/spillway/services/automation/internal/registry"
)

const (
	// produceBytes bounds what waits to be written: a few dozen of the largest commands.
	produceBytes = 8 << 20
	// produceWithin is how long a record is tried. Callers wait three seconds for it to be read back.
	produceWithin = 2 * time.Second
	// healthEvery is how often health is looked at when nothing changes.
	healthEvery = 250 * time.Millisecond
)

// Service is one automation replica.
type Service struct {
	cfg      Config
	deps     Deps
	id       string // unique for the life of the process
	clients  []*kafka.Client
	producer *produce.Producer
	follower *controllog.Follower
	reader   *status.Reader
	beats    *status.Writer
	room     *registry.Room
	server   *rpc.Server
	admin    *rpc.Admin
}

// New wires a service. It starts nothing and does no I/O.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Validate(), deps.validate()); err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, deps: deps, id: cfg.Replica + "-" + strings.ToLower(rand.Text()[:8])}
	if s.cfg.Address == "" {
		s.cfg.Address = deps.Listener.Addr().String()
	}
	topics := kafka.Topics{Prefix: cfg.Prefix}
	// Three clients, because one request at a time is in flight on a connection and the log is followed on one of its own.
	var open [3]*kafka.Client
	for i, kind := range []string{"control", "status", "writes"} {
		c, err := deps.Kafka("automation." + kind + "." + cfg.Replica)
		if err != nil {
			s.close()
			return nil, err
		}
		open[i] = c
		s.clients = append(s.clients, c)
	}
	s.producer = produce.New(open[2], produce.Config{MaxBytes: produceBytes, Deadline: produceWithin})
	s.follower = controllog.NewFollower(open[0], topics.Control(), deps.MACKey, deps.Log)
	s.reader = status.NewReader(open[1], topics.Status(), deps.Log)
	s.beats = status.NewWriter(s.producer, topics.Status(), s.beat, deps.Log)
	s.room = registry.New(
		control{follower: s.follower, writer: controllog.NewWriter(s.producer, s.follower, topics.Control(), deps.MACKey)},
		fleet{reader: s.reader, self: s.id}, deps.Log,
	)
	return s, nil
}

// listen makes the servers: they read key files, so Run does it.
func (s *Service) listen() error {
	verifier, err := s.deps.Verifier(func() string { return s.follower.State().Config().GetClusterId() })
	if err != nil {
		return err
	}
	s.server, err = rpc.NewServer(rpc.Config{
		Listener: s.deps.Listener, Verifier: verifier, Roles: api.Roles(), Reflection: s.cfg.Reflection, Log: s.deps.Log, Telemetry: s.deps.Telemetry,
	}, api.New(s.room).Register)
	if err != nil || s.deps.Admin == nil {
		return err
	}
	s.admin, err = rpc.NewAdmin(rpc.AdminConfig{Listener: s.deps.Admin, Checks: s.checks, Metrics: s.deps.Telemetry.Metrics(), Log: s.deps.Log})
	return err
}

// Run serves until ctx ends. Then it takes no more calls, lets those that wait for a proof end, and stops what they needed.
func (s *Service) Run(ctx context.Context) error {
	defer s.close()
	if err := s.listen(); err != nil {
		return err
	}
	base := lifecycle.NewGroup(context.WithoutCancel(ctx)) // what calls need outlives them
	base.Go("producer", s.producer.Run)
	base.Go("control", s.follower.Run)
	base.Go("status", s.reader.Run)
	base.Go("beats", s.runBeats)
	base.Go("registry", s.room.Run)
	base.Go("follow", s.follow)
	if s.admin != nil {
		base.Go("admin", s.admin.Run)
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	base.Go("server", func(failed context.Context) error {
		defer base.Stop()
		defer context.AfterFunc(failed, stop)()
		return s.server.Run(serving)
	})
	if err := base.Wait(); err != nil {
		return fmt.Errorf("automation: %w", err)
	}
	return nil
}

func (s *Service) close() {
	for _, c := range s.clients {
		c.Close()
	}
}

// runBeats writes beats once there is a control state to speak of.
func (s *Service) runBeats(ctx context.Context) error {
	select {
	case <-s.follower.Folded():
		return s.beats.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// follow acknowledges every new control state at once, refuses to serve another installation's, and tells health what is true.
func (s *Service) follow(ctx context.Context) error {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		changed := s.follower.Changed()
		s.beats.Poke()
		if c := s.follower.State().Config(); c != nil && c.GetPrefix() != s.cfg.Prefix {
			return fmt.Errorf("the control log is of an installation with prefix %q, not %q", c.GetPrefix(), s.cfg.Prefix)
		}
		for quiet := true; quiet; {
			ready := true
			for _, check := range s.checks(ctx) {
				ready = ready && check.OK
			}
			for _, name := range append(api.Services(), "") {
				s.server.Health(name, ready)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
				quiet = false
			case <-tick.C:
			}
		}
	}
}

// beat is what status says of this replica.
func (s *Service) beat() *logv1.Status {
	state := s.follower.State()
	return &logv1.Status{
		Replica: s.id, Kind: logv1.ReplicaKind_REPLICA_KIND_AUTOMATION, Address: s.cfg.Address,
		AppliedSequence: state.Sequence(), StateHash: state.Hash(),
	}
}

// Health says what keeps the service from being ready.
func (s *Service) Health() []rpc.Check { return s.checks(context.Background()) }

func (s *Service) checks(context.Context) []rpc.Check {
	check := func(name string, err error) rpc.Check {
		c := rpc.Check{Name: name, OK: err == nil}
		if err != nil {
			c.Detail = err.Error()
		}
		return c
	}
	return []rpc.Check{check("control", s.follower.Ready()), check("status", s.reader.Ready())}
}
