package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/spillway/spillway/pkg/telemetry"
)

// Limits of every server (S31). The sizes that differ between services are in
// Config.
const (
	maxHeaders = 16 << 10 // gRPC's default is 16 MiB
	maxStreams = 128      // a connection; a worker needs one a replica
	// streamWindow is what a request may send before somebody reads it, so a
	// connection's waiting streams hold 8 MiB at most; a message that is being
	// read is given the window that it needs. gRPC's own estimate grows to 16 MiB
	// a stream. connWindow only has to be above what is in flight on the wire.
	streamWindow      = 64 << 10
	connWindow        = 1 << 20
	connectTimeout    = 5 * time.Second
	minPing           = 10 * time.Second // clients ping every 20 s
	maxConnectionAge  = 30 * time.Minute
	connectionGrace   = 5 * time.Minute
	defaultReceive    = 1 << 20
	defaultSend       = 4 << 20
	defaultConns      = 1000
	defaultDeadline   = 10 * time.Second
	defaultStopBudget = 5 * time.Second
)

// Config is one server. The zero value of a limit is its default.
type Config struct {
	// Listener must be local: loopback, a Unix socket or in memory.
	Listener net.Listener
	// Begin, if set, is closed when the service can do its work for the first
	// time: calls are taken from then on. Until then connections wait unanswered,
	// so that a replica which starts is to its callers as one that is not there:
	// they go to others or wait, and none is refused for no reason of its own.
	Begin <-chan struct{}
	// Verifier judges tokens.
	Verifier *Verifier
	// Roles names the role that each method needs, by its full name such as
	// /spillway.enqueue.v1.EnqueueService/Enqueue. Every registered method
	// must be here and nothing else; health is open and is not listed.
	Roles map[string]Role
	// Reflection serves gRPC reflection to callers with role read.
	Reflection bool
	// Log gets panics and internal errors, once each.
	Log *slog.Logger
	// Telemetry traces and meters the calls; nil does not.
	Telemetry *telemetry.Telemetry

	// MaxReceive bounds a request message in bytes; default 1 MiB.
	MaxReceive int
	// MaxSend bounds an answer message in bytes; default 4 MiB.
	MaxSend int
	// Connections bounds the open connections; more wait to be accepted.
	// Default 1,000.
	Connections int
	// Deadline is what a unary call gets that brings none, and the most that
	// one gets; default 10 s. Streams have no deadline but their token's.
	Deadline time.Duration
	// StopBudget is how long Run waits for open calls when its context ends;
	// default 5 s.
	StopBudget time.Duration
}

// Server is one gRPC server with the chain that doc.go describes.
type Server struct {
	cfg    Config
	grpc   *grpc.Server
	health *health.Server
}

// NewServer makes a server and registers the services on it. It does no I/O
// and starts nothing. It refuses a listener that other machines reach, a
// registered method without a role and a role without a method.
func NewServer(cfg Config, register func(grpc.ServiceRegistrar)) (*Server, error) {
	switch {
	case cfg.Listener == nil:
		return nil, errors.New("rpc server: no listener")
	case cfg.Verifier == nil:
		return nil, errors.New("rpc server: no token verifier")
	}
	if err := checkListener(cfg.Listener); err != nil {
		return nil, fmt.Errorf("rpc server: %w", err)
	}
	cfg.setDefaults()
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("rpc server: %w", err)
	}
	calls, err := newTracing(cfg.Telemetry, trace.SpanKindServer, telemetry.MetricServerCalls)
	if err != nil {
		return nil, fmt.Errorf("rpc server: %w", err)
	}
	g := &gate{roles: maps.Clone(cfg.Roles), verifier: cfg.Verifier, validator: validator, deadline: cfg.Deadline, calls: calls, log: cfg.Log}
	opts := []grpc.ServerOption{
		grpc.Creds(localCredentials{}),
		grpc.UnaryInterceptor(g.unary),
		grpc.StreamInterceptor(g.stream),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(cfg.MaxReceive),
		grpc.MaxSendMsgSize(cfg.MaxSend),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ConnectionTimeout(connectTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: maxConnectionAge, MaxConnectionAgeGrace: connectionGrace,
			Time: pingEvery, Timeout: pingTimeout,
		}),
	}
	s := &Server{cfg: cfg, grpc: grpc.NewServer(opts...), health: health.NewServer()}
	register(front{s.grpc, g})
	for name := range s.grpc.GetServiceInfo() {
		s.Health(name, false)
	}
	s.Health("", false)
	if cfg.Reflection {
		reflection.Register(s.grpc)
	}
	if err := g.assign(s.grpc); err != nil {
		return nil, fmt.Errorf("rpc server: %w", err)
	}
	healthpb.RegisterHealthServer(s.grpc, s.health)
	return s, nil
}

// front registers services so that the credentials of a unary call are judged
// before any of its request is read. gRPC reads the request first: a stranger
// could have messages of the greatest size in memory, for as long as he likes,
// and what bounds that for a service would bound its callers.
type front struct {
	server *grpc.Server
	gate   *gate
}

// RegisterService implements grpc.ServiceRegistrar.
func (f front) RegisterService(desc *grpc.ServiceDesc, handler any) {
	guarded := *desc
	guarded.Methods = slices.Clone(desc.Methods)
	for i := range guarded.Methods {
		m := &guarded.Methods[i]
		m.Handler = f.gate.before("/"+desc.ServiceName+"/"+m.MethodName, m.Handler)
	}
	f.server.RegisterService(&guarded, handler)
}

func (cfg *Config) setDefaults() {
	or := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	or(&cfg.MaxReceive, defaultReceive)
	or(&cfg.MaxSend, defaultSend)
	or(&cfg.Connections, defaultConns)
	if cfg.Deadline <= 0 {
		cfg.Deadline = defaultDeadline
	}
	if cfg.StopBudget <= 0 {
		cfg.StopBudget = defaultStopBudget
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
}

// assign completes the table of roles and compares it with what is registered.
func (g *gate) assign(s *grpc.Server) error {
	registered := make(map[string]bool)
	var wrong []string
	for service, info := range s.GetServiceInfo() {
		for _, method := range info.Methods {
			full := "/" + service + "/" + method.Name
			registered[full] = true
			if strings.HasPrefix(service, "grpc.reflection.") {
				if g.roles == nil {
					g.roles = make(map[string]Role)
				}
				g.roles[full] = RoleRead
			}
			if role := g.roles[full]; !slices.Contains(allRoles, role) {
				wrong = append(wrong, fmt.Sprintf("%s has no role (%q)", full, role))
			}
		}
	}
	for full := range g.roles {
		if !registered[full] {
			wrong = append(wrong, full+" has a role but is not registered")
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// Health tells clients whether a service (its full name, or "" for the whole
// server) can do its work. Everything is NOT_SERVING until told otherwise, and
// again when the server stops.
func (s *Server) Health(service string, serving bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(service, status)
}

// Run serves, once Config.Begin allows it, until ctx ends, then says NOT_SERVING, lets open calls finish
// within StopBudget, cuts the rest and returns nil. Handlers of long streams
// must end by themselves when their service stops. The error is that of a
// listener that failed earlier. Run may be called once.
func (s *Server) Run(ctx context.Context) error {
	if s.cfg.Begin != nil {
		select {
		case <-s.cfg.Begin:
		case <-ctx.Done():
			s.health.Shutdown()
			return s.cfg.Listener.Close()
		}
	}
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(netutil.LimitListener(s.cfg.Listener, s.cfg.Connections)) }()
	select {
	case err := <-served:
		s.grpc.Stop()
		return fmt.Errorf("rpc server on %s: %w", s.cfg.Listener.Addr(), err)
	case <-ctx.Done():
	}
	s.health.Shutdown()
	stopped := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(stopped)
	}()
	budget := time.NewTimer(s.cfg.StopBudget)
	defer budget.Stop()
	select {
	case <-stopped:
	case <-budget.C:
		s.cfg.Log.Warn("open calls are cut", "budget", s.cfg.StopBudget)
		s.grpc.Stop()
		<-stopped
	}
	<-served
	return nil
}
