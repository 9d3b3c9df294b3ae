package replay

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/cmd/spillway/internal/dev"
	"github.com/spillway/spillway/cmd/spillway/internal/keyring"
	"github.com/spillway/spillway/cmd/spillway/internal/load/account"
	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/send"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	"github.com/spillway/spillway/cmd/spillway/internal/load/work"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/judge"
	"github.com/spillway/spillway/cmd/spillway/internal/temporary"
	sdk "github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/subscriber"
	"github.com/spillway/spillway/pkg/worker"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

const (
	// stalledBuffer is the receive buffer of a client that does not read, in
	// bytes: that of a small device, so that it is full soon and not only after
	// the megabytes that a desktop's kernel takes.
	stalledBuffer = 16 << 10
	// by says in the audit log who asked.
	by = "spillway replay"
)

// product is the stage on which Spillway runs: a dev of one's own.
type product struct {
	target func() readyfile.File
	end    func(keep bool) error
	signer *rpc.Signer
	issuer string
	log    *slog.Logger

	posts   *poster
	conns   []*grpc.ClientConn
	clients []*sdk.Client

	mu      sync.Mutex
	trouble map[string]int
	cursors map[int]string // by reader: where to go on
}

// openProduct starts a dev in dir.
func openProduct(ctx context.Context, dir string, own dev.Options, out *process.Output, log *slog.Logger) (*product, error) {
	own.Notifiers = 1
	target, end, err := temporary.Start(ctx, dir, own, out, log)
	if err != nil {
		return nil, err
	}
	p := &product{target: target, end: end, log: log, trouble: make(map[string]int), cursors: make(map[int]string)}
	if err := p.open(); err != nil {
		return nil, errors.Join(err, p.stop(false))
	}
	return p, nil
}

func (p *product) open() error {
	f := p.target()
	keys := filepath.Join(f.DataDir, "keys")
	ring, err := keyring.Open(keys, keys)
	if err != nil {
		return fmt.Errorf("keys of the dev: %w", err)
	}
	p.signer = ring.Signer
	if p.issuer, err = issuer(f.Tokens.Service); err != nil {
		return err
	}
	conn, err := rpc.Dial(f.Endpoints.Notifier, rpc.DialConfig{Token: f.Tokens.Service})
	if err != nil {
		return fmt.Errorf("dial notifier: %w", err)
	}
	p.conns = append(p.conns, conn)
	p.posts = &poster{to: notifierv1.NewNotifierServiceClient(conn), lines: make(map[string][]post)}
	return nil
}

// issuer reads the cluster id from one of the dev's own tokens.
func issuer(token string) (string, error) {
	parts := strings.Split(token, ".")
	var claims struct {
		Issuer string `json:"iss"`
	}
	if len(parts) == 3 {
		b, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil && json.Unmarshal(b, &claims) == nil && claims.Issuer != "" {
			return claims.Issuer, nil
		}
	}
	return "", errors.New("the dev's token names no issuer")
}

func (p *product) broker() string  { return p.target().Broker.Kind }
func (p *product) schedulers() int { return len(p.target().Endpoints.Scheduler) }

func (p *product) ports(ctx context.Context, run plan.Run) ([]send.Port, error) {
	f := p.target()
	automation, err := rpc.Dial(f.Endpoints.Automation, rpc.DialConfig{Token: f.Tokens.Operator})
	if err != nil {
		return nil, fmt.Errorf("dial automation: %w", err)
	}
	p.conns = append(p.conns, automation)
	if err := send.Register(ctx, automation, by, run.Flows); err != nil {
		return nil, err
	}
	var ports []send.Port
	addresses := send.Addresses(f)
	for i := range run.Flows {
		c, err := sdk.Dial(addresses[i%len(addresses)], sdk.WithToken(f.Tokens.Service))
		if err != nil {
			return nil, fmt.Errorf("dial enqueue: %w", err)
		}
		p.clients = append(p.clients, c)
		ports = append(ports, c)
	}
	return ports, nil
}

func (p *product) work(ctx context.Context, to work.Events) error {
	f := p.target()
	return work.Run(ctx, work.Config{
		Schedulers: strings.Join(f.Endpoints.Scheduler, ","), Token: f.Tokens.Worker, Types: []string{judge.Type},
		Slots: judge.Slots, Workers: work.SDKWorkers, After: p.publish,
	}, to, p.log)
}

// publish is the end of every job: one notification to its tenant.
func (p *product) publish(ctx context.Context, job *worker.Job, in plan.Instruction) error {
	letter := judge.Letter{Run: in.Seed, Flow: in.Flow, Job: in.Seq, At: time.Now().UnixNano()}
	err := p.posts.publish(ctx, &notifierv1.PublishRequest{
		Channel: judge.Channel(job.Tenant), Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Data: letter.Write(),
		Source: job.Source, Tenant: job.Tenant, IdempotencyKey: job.ID,
	})
	if err != nil {
		p.note("publish", err)
		return fmt.Errorf("publish: %w", err) // the job is tried again
	}
	return nil
}

// maxTroubles bounds the troubles that are kept apart.
const maxTroubles = 20

func (p *product) note(what string, err error) {
	reason := sdk.Reason(err)
	if reason == "" {
		reason = err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if what += ": " + reason; p.trouble[what] == 0 && len(p.trouble) >= maxTroubles {
		what = "other troubles"
	}
	p.trouble[what]++
}

func (p *product) troubles() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trouble
}

func (p *product) dial(ctx context.Context, c client) (socket, error) {
	channel := judge.Channel(c.tenant)
	// It outlives the longest run that the flags allow only by coming back.
	token, err := p.signer.SignSubscriber(rpc.SubscriberClaims{
		Issuer: p.issuer, Subject: fmt.Sprintf("user-%d-%v", c.number, c.reads), Tenant: c.tenant, Channels: []string{channel}, TTL: rpc.MaxSubscriberTTL,
	}, time.Now())
	if err != nil {
		return nil, fmt.Errorf("subscriber's token: %w", err)
	}
	p.mu.Lock()
	cfg := subscriber.Config{Token: token, Channels: []string{channel}}
	if c.reads {
		cfg.Cursor = p.cursors[c.number]
	} else {
		cfg.Dial = dialStalled
	}
	p.mu.Unlock()
	s, err := subscriber.Dial(ctx, p.target().Endpoints.Websocket, cfg)
	if err != nil {
		p.note("websocket", err)
		return nil, err
	}
	for {
		e, err := s.Next(ctx)
		if err != nil {
			s.Cut()
			return nil, err
		}
		if e.T == subscriber.Sub {
			if !e.OK {
				s.Cut()
				return nil, fmt.Errorf("subscribe %s: %s", channel, e.Error)
			}
			return &subscription{s: s, keep: func(cursor string) { p.keep(c.number, cursor) }}, nil
		}
	}
}

func (p *product) keep(reader int, cursor string) {
	p.mu.Lock()
	p.cursors[reader] = cursor
	p.mu.Unlock()
}

// dialStalled makes connections of a small receive buffer.
func dialStalled(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, stalledBuffer)
		})
		return errors.Join(err, failed)
	}}
	return d.DialContext(ctx, network, address)
}

// subscription is a session as the audience sees it.
type subscription struct {
	s    *subscriber.Session
	keep func(cursor string)
}

// Next is socket.Next.
func (s *subscription) Next(ctx context.Context) (data []byte, gap bool, err error) {
	for {
		e, err := s.s.Next(ctx)
		switch {
		case err != nil:
			s.keep(s.s.Cursor())
			return nil, false, err
		case e.T == subscriber.Msg:
			return e.Data, false, nil
		case e.T == subscriber.Gap:
			return nil, true, nil
		}
	}
}

// Close is socket.Close.
func (s *subscription) Close() { s.s.Cut() }

func (p *product) processes() []readyfile.Process { return p.target().Processes }

func (p *product) ceiling(name string) int64 { return dev.Ceiling(name) }

func (p *product) account(ctx context.Context, s *send.Sender) (tally.Ledger, bool, error) {
	return account.Reconcile(ctx, p.target(), s)
}

func (p *product) stop(keep bool) error {
	var errs []error
	if p.posts != nil {
		p.posts.calls.Wait()
	}
	for _, c := range p.clients {
		errs = append(errs, c.Close())
	}
	for _, c := range p.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, p.end(keep))...)
}
