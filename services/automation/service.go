package automation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spillway/spillway/pkg/lifecycle"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/services/automation/internal/api"
)

// healthEvery is how often health is looked at.
const healthEvery = 250 * time.Millisecond

// Service is one automation replica.
type Service struct {
	*desk
	deps   Deps
	server *rpc.Server
	admin  *rpc.Admin
}

// New wires a service. It starts nothing and does no I/O.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Validate(), deps.validate()); err != nil {
		return nil, err
	}
	if cfg.Address == "" {
		cfg.Address = deps.Listener.Addr().String()
	}
	d, err := newDesk(cfg, deps.Log, deps.Kafka, deps.MACKey)
	if err != nil {
		return nil, err
	}
	return &Service{desk: d, deps: deps}, nil
}

// listen makes the servers: they read key files, so Run does it.
func (s *Service) listen() error {
	verifier, err := s.deps.Verifier(func() string { return s.follower.State().Config().GetClusterId() })
	if err != nil {
		return err
	}
	s.server, err = rpc.NewServer(rpc.Config{
		Listener: s.deps.Listener, Begin: s.follower.Folded(), Verifier: verifier, Roles: api.Roles(), Reflection: s.cfg.Reflection, Log: s.deps.Log, Telemetry: s.deps.Telemetry,
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
	s.start(base)
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

// follow tells health what is true.
func (s *Service) follow(ctx context.Context) error {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
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
		case <-tick.C:
		}
	}
}

// Health says what keeps the service from being ready.
func (s *Service) Health() []rpc.Check { return s.checks(context.Background()) }

func (s *Service) checks(context.Context) []rpc.Check {
	return []rpc.Check{rpc.NewCheck("control", s.follower.Ready()), rpc.NewCheck("status", s.reader.Ready())}
}
