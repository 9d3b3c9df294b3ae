package notifier

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/pkg/lifecycle"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/status"
	"github.com/spillway/spillway/pkg/worker"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier/internal/api"
	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver"
	"github.com/spillway/spillway/services/notifier/internal/publish"
)

const (
	// maxReceive is above the contract's 3 MiB of a batch, so that a larger one is refused with words.
	maxReceive = 4 << 20
	// recordOverhead is what the producer counts for a record beyond what the admission does; its budget is larger by that, so that the
	// admission's refusals come first, which know sources.
	recordOverhead = 2
	// statusBytes bounds beats on their way; there is one at a time.
	statusBytes = 256 << 10
	// statusDeadline is when a beat is worth nothing any more.
	statusDeadline = time.Second
	// look is how often health is looked at beside changes of what it depends on.
	look = 250 * time.Millisecond
	// What a stop may take, in order: sockets are sent away, jobs end, calls end at the same time, and records of callers that are gone are
	// written. Results of jobs that do not settle may take the worker 15 s more.
	socketBudget = 5 * time.Second
	workerBudget = 5 * time.Second
	callBudget   = 5 * time.Second
	flushBudget  = 2 * time.Second
)

// Service is one notifier replica.
type Service struct {
	cfg     Config
	deps    Deps
	id      string // unique for the life of the process
	topics  kafka.Topics
	clients []*kafka.Client // publishing, reading, control, status

	records  *produce.Producer
	beats    *produce.Producer
	control  *controllog.Follower
	reader   *status.Reader
	writer   *status.Writer
	worker   *worker.Worker // nil without schedulers
	verifier *rpc.Verifier

	room     *publish.Room                // made by Run, before anything that uses it starts
	sockets  atomic.Pointer[deliver.Room] // nil until the topic was found fit
	opened   chan struct{}                // closed then: calls, jobs and websockets are taken from then on
	stopping atomic.Bool
}

// New wires a service. It starts nothing and does no I/O.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Validate(), deps.validate()); err != nil {
		return nil, fmt.Errorf("notifier: %w", err)
	}
	if cfg.Address == "" {
		cfg.Address = deps.Listener.Addr().String()
	}
	var suffix [4]byte
	rand.Read(suffix[:]) // never fails
	s := &Service{cfg: cfg, deps: deps, id: cfg.Replica + "-" + hex.EncodeToString(suffix[:]), topics: kafka.Topics{Prefix: cfg.Prefix}, opened: make(chan struct{})}
	// One client each, so that a flood of notifications delays neither what is read, nor switches, nor beats.
	for _, id := range []string{"notifier.", "read.notifier.", "control.notifier.", "status.notifier."} {
		c, err := deps.Kafka(id + cfg.Replica)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("notifier: %w", err)
		}
		s.clients = append(s.clients, c)
	}
	s.records = produce.New(s.clients[0], produce.Config{MaxBytes: recordOverhead * cfg.Inflight, Deadline: publish.DeliveryDeadline})
	s.control = controllog.NewFollower(s.clients[2], s.topics.Control(), deps.MACKey, deps.Log)
	s.beats = produce.New(s.clients[3], produce.Config{MaxBytes: statusBytes, Deadline: statusDeadline})
	s.reader = status.NewReader(s.clients[3], s.topics.Status(), deps.Log)
	s.writer = status.NewWriter(s.beats, s.topics.Status(), s.beat, deps.Log)
	if cfg.Schedulers != "" {
		c := worker.Config{
			Schedulers: cfg.Schedulers, Concurrency: cfg.Concurrency, TokenFile: cfg.WorkerTokenFile, Drain: workerBudget, Log: deps.Log, Telemetry: deps.Telemetry,
		}
		if deps.Dial != nil {
			c.DialOptions = append(c.DialOptions, grpc.WithContextDialer(deps.Dial))
		}
		w, err := worker.New(c)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("notifier: %w", err)
		}
		s.worker = w
	}
	return s, nil
}

// Run serves until ctx ends, and then stops in order: not ready, websockets sent away, jobs and open calls ended, records written, connections
// closed. It returns early when the installation is not what the configuration says, or something that is not to be mended fails.
func (s *Service) Run(ctx context.Context) error {
	defer s.close()
	room, err := publish.New(publish.Config{Topic: s.topics.Notifications(), Inflight: s.cfg.Inflight},
		publish.Ports{Producer: s.records, Control: s.control, Beats: s.reader, Telemetry: s.deps.Telemetry})
	if err != nil {
		return fmt.Errorf("notifier: %w", err)
	}
	s.room = room
	server, admin, err := s.listen(room)
	if err != nil {
		return fmt.Errorf("notifier: %w", err)
	}

	// Three groups that end one after the other: what brings websockets and the rest in, what answers calls and runs jobs, what both stand on.
	below := lifecycle.NewGroup(context.WithoutCancel(ctx))
	below.Go("records", s.records.Run)
	below.Go("beats", s.beats.Run)
	below.Go("control", s.follow)
	below.Go("status", s.reader.Run)
	below.Go("replicas", room.Run)
	below.Go("beats", func(ctx context.Context) error { return s.writer.Follow(ctx, s.control) })
	below.Go("sockets", s.deliver)
	below.Go("health", func(ctx context.Context) error { return s.health(ctx, server) })
	if admin != nil {
		below.Go("admin", admin.Run)
	}
	above := lifecycle.NewGroup(context.WithoutCancel(ctx))
	above.Go("server", server.Run)
	if s.worker != nil {
		above.Go("worker", s.work)
	}
	front := lifecycle.NewGroup(ctx)
	front.Go("check", s.check)
	front.Go("web", newWeb(s.deps.Web, http.HandlerFunc(s.serve), s.cfg.PerAddress, s.deps.Log).run)
	for _, other := range []*lifecycle.Group{above, below} { // when something that it stands on fails, everything ends
		front.Go("watch", func(ctx context.Context) error {
			select {
			case <-other.Context().Done():
				front.Stop()
			case <-ctx.Done():
			}
			return nil
		})
	}

	<-front.Context().Done()
	s.stopping.Store(true)
	s.report(server)
	err = front.Wait()
	if sockets := s.sockets.Load(); sockets != nil {
		drain, cancel := context.WithTimeout(below.Context(), socketBudget)
		sockets.Drain(drain)
		cancel()
	}
	above.Stop()
	err = errors.Join(err, above.Wait())
	if below.Context().Err() == nil {
		flush, cancel := context.WithTimeout(below.Context(), flushBudget)
		if err := s.records.Flush(flush); err != nil {
			s.deps.Log.Warn("records of callers that are gone were not written", "error", err)
		}
		cancel()
	}
	below.Stop()
	if err = errors.Join(err, below.Wait()); err != nil {
		return fmt.Errorf("notifier: %w", err)
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

// listen makes the servers.
func (s *Service) listen(room *publish.Room) (*rpc.Server, *rpc.Admin, error) {
	verifier, err := s.deps.Verifier(s.cluster)
	if err != nil {
		return nil, nil, err
	}
	s.verifier = verifier
	server, err := rpc.NewServer(rpc.Config{
		Listener: s.deps.Listener, Begin: s.opened, Verifier: verifier, Roles: api.Roles(), Reflection: s.cfg.Reflection, Log: s.deps.Log, Telemetry: s.deps.Telemetry,
		MaxReceive: maxReceive, Deadline: publish.Deadline, StopBudget: callBudget,
	}, func(g grpc.ServiceRegistrar) { api.Register(g, room) })
	if err != nil || s.deps.Admin == nil {
		return server, nil, err
	}
	admin, err := rpc.NewAdmin(rpc.AdminConfig{
		Listener: s.deps.Admin, Checks: func(context.Context) []rpc.Check { return s.Health() }, Metrics: s.deps.Telemetry.Metrics(), Log: s.deps.Log,
	})
	return server, admin, err
}

// cluster is the id of the installation, empty until the control log is folded.
func (s *Service) cluster() string { return s.control.State().Config().GetClusterId() }

// check opens the rooms once the control log is folded and the installation is what was declared: H1, never on weaker topics.
func (s *Service) check(ctx context.Context) error {
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
	if err := s.topic(ctx, int(have.GetShards())); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	sockets, err := deliver.New(deliver.Config{
		Topic: s.topics.Notifications(), Partitions: int(have.GetShards()), RingBytes: s.cfg.Ring, Sessions: s.cfg.Sessions, PerAddress: s.cfg.PerAddress,
		Origins: s.cfg.origins(),
	}, deliver.Ports{
		Log: s.clients[1], Verify: s.subscriber, Cluster: s.cluster, CursorKey: s.cursorKey(), Out: s.deps.Log, Telemetry: s.deps.Telemetry,
	})
	if err != nil {
		return err
	}
	s.room.Open()
	s.sockets.Store(sockets)
	close(s.opened)
	s.deps.Log.Info("accepting notifications", "replica", s.id, "partitions", have.GetShards())
	return nil
}

// topic finds out whether the log of notifications is as declared, as far as the notifier's principal may see: its partitions and its copies. What
// needs the right to read settings is checked by enqueue and the schedulers, for all topics.
func (s *Service) topic(ctx context.Context, shards int) error {
	name := s.topics.Notifications()
	partitions, err := s.clients[0].Partitions(ctx, name)
	if err != nil {
		return err
	}
	if partitions != shards {
		return &kafka.WeakSettingError{Topic: name, Setting: "partitions", Got: fmt.Sprint(partitions), Want: fmt.Sprint(shards)}
	}
	if s.cfg.Durability != kafka.Replicated {
		return nil
	}
	if _, copies, err := s.clients[0].Survey(ctx, name); err != nil {
		return err
	} else if copies < replicatedCopies {
		return &kafka.WeakSettingError{Topic: name, Setting: "replicas", Got: fmt.Sprint(copies), Want: "3 or more"}
	}
	return nil
}

// replicatedCopies is what the declared durability "replicated" means, as in kafka.Check.
const replicatedCopies = 3

// subscriber judges a subscriber's token.
func (s *Service) subscriber(token string, now time.Time) (core.Subscriber, error) {
	who, err := s.verifier.Subscriber(token, now)
	if err != nil {
		return core.Subscriber{}, err
	}
	return core.Subscriber{User: who.Subject, Rights: core.Rights{Tenant: who.Tenant, Patterns: who.Channels}, Expires: who.Expires}, nil
}

// cursorKey is derived from the key that all services share, so that a cursor is good at every replica and a cursor's MAC is nothing else's.
func (s *Service) cursorKey() []byte {
	mac := hmac.New(sha256.New, s.deps.MACKey)
	mac.Write([]byte("spillway notifier cursor 1"))
	return mac.Sum(nil)
}

// deliver runs the room of websockets once it is there.
func (s *Service) deliver(ctx context.Context) error {
	select {
	case <-s.opened:
		return s.sockets.Load().Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// serve answers on the listener of websockets.
func (s *Service) serve(w http.ResponseWriter, r *http.Request) {
	if sockets := s.sockets.Load(); sockets != nil {
		sockets.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Retry-After", "1")
	http.Error(w, "starting", http.StatusServiceUnavailable)
}

// work runs jobs of type notify. The schedulers may be away for as long as they like: nothing else depends on the worker.
func (s *Service) work(ctx context.Context) error {
	select {
	case <-s.opened:
	case <-ctx.Done():
		return nil
	}
	s.worker.Handle(publish.JobType, s.room.Handle)
	if err := s.worker.Run(ctx); err != nil {
		s.deps.Log.Warn("the worker of type notify left jobs to others", "error", err)
	}
	return nil
}

// health tells clients when the service becomes ready and unready.
func (s *Service) health(ctx context.Context, server *rpc.Server) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		s.report(server)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Service) report(server *rpc.Server) {
	ready := true
	for _, c := range s.Health() {
		ready = ready && c.OK
	}
	server.Health("", ready)
	server.Health(notifierv1.NotifierService_ServiceDesc.ServiceName, ready)
}

// Health says what the service needs to be ready: a control log that the broker confirmed within 30 s, a topic fit to hold notifications, all of it
// read to its end within 30 s, and that it is not about to stop.
func (s *Service) Health() []rpc.Check {
	control, topics, log, running := s.control.Ready(), errors.New("not checked yet"), errors.New("not read yet"), error(nil)
	if sockets := s.sockets.Load(); sockets != nil {
		topics, log = nil, sockets.Check()
	}
	if s.stopping.Load() {
		running = errors.New("stopping")
	}
	return []rpc.Check{rpc.NewCheck("control", control), rpc.NewCheck("topics", topics), rpc.NewCheck("log", log), rpc.NewCheck("running", running)}
}

func (s *Service) close() {
	for _, c := range s.clients {
		c.Close()
	}
}
