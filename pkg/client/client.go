package client

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/telemetry"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
)

const (
	// DefaultTimeout bounds a call whose context has no deadline: one try of full length, which outlasts a broker's failover, and time for
	// another.
	DefaultTimeout = 30 * time.Second
	// tryTimeout bounds one try: the service's own 20 s and the way there and back. So the service's verdict arrives, and not a deadline of ours.
	tryTimeout = 22 * time.Second
	// tokenFileVariable names a file with the credential when no option does.
	tokenFileVariable = "SPILLWAY_TOKEN_FILE"
)

// Handler sends jobs and returns an Item for each, in order. Middleware may change the jobs on their way and the items on theirs.
type Handler func(ctx context.Context, jobs []Job) []Item

// Middleware wraps a Handler; the first one given is the outermost.
type Middleware func(next Handler) Handler

// Client enqueues jobs. It is safe for concurrent use; make one and keep it.
type Client struct {
	service enqueuev1.EnqueueServiceClient
	conn    *grpc.ClientConn // nil when the caller owns it
	handler Handler
	timeout time.Duration

	budget    *budget
	throttle  throttle
	coalescer coalescer

	life context.Context // of the batches under way
	end  context.CancelFunc
	mu   sync.Mutex // orders run and Close
	done sync.WaitGroup
}

// Option changes a Client from its defaults.
type Option func(*options)

type options struct {
	dial       rpc.DialConfig
	timeout    time.Duration
	retries    float64
	middleware []Middleware
}

// WithToken authenticates every call with a token.
func WithToken(token string) Option { return func(o *options) { o.dial.Token = token } }

// WithTokenFile authenticates every call with the token in a file, which is read again when it is replaced. Without it and WithToken the file
// named by the environment variable SPILLWAY_TOKEN_FILE is used, if it is set.
func WithTokenFile(path string) Option { return func(o *options) { o.dial.TokenFile = path } }

// WithTimeout bounds calls whose context has no deadline; the default is DefaultTimeout.
func WithTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithRetryBudget sets how many retries there may be for each first try; the default is DefaultRetryBudget, 0 or less is none.
func WithRetryBudget(part float64) Option { return func(o *options) { o.retries = part } }

// WithMiddleware wraps every call of Enqueue and EnqueueBatch.
func WithMiddleware(m ...Middleware) Option {
	return func(o *options) { o.middleware = append(o.middleware, m...) }
}

// WithTelemetry traces and meters the calls.
func WithTelemetry(t *telemetry.Telemetry) Option { return func(o *options) { o.dial.Telemetry = t } }

// WithDialOptions adds gRPC options of the connection, applied last; only Dial uses them.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(o *options) { o.dial.Options = append(o.dial.Options, opts...) }
}

// Dial returns a client of the enqueue service at target, such as "dns:///enqueue:7400". It connects in the background, and again whenever it
// has to: calls wait for a connection until their deadline. Close it.
func Dial(target string, opts ...Option) (*Client, error) {
	o := apply(opts)
	if o.dial.Token == "" && o.dial.TokenFile == "" {
		o.dial.TokenFile = os.Getenv(tokenFileVariable)
	}
	conn, err := rpc.Dial(target, o.dial)
	if err != nil {
		return nil, err
	}
	c := build(conn, o)
	c.conn = conn
	return c, nil
}

// New returns a client that uses a connection of the caller's, who closes it after the client. Options of dialling have no effect.
func New(conn grpc.ClientConnInterface, opts ...Option) *Client { return build(conn, apply(opts)) }

func apply(opts []Option) *options {
	o := &options{timeout: DefaultTimeout, retries: DefaultRetryBudget}
	for _, opt := range opts {
		opt(o)
	}
	return o
}

func build(conn grpc.ClientConnInterface, o *options) *Client {
	c := &Client{service: enqueuev1.NewEnqueueServiceClient(conn), timeout: o.timeout, budget: newBudget(o.retries)}
	c.life, c.end = context.WithCancel(context.Background())
	c.coalescer = coalescer{one: c.unary, many: c.batch, run: c.run, sources: map[string]*line{}}
	c.handler = c.send
	for i := len(o.middleware) - 1; i >= 0; i-- {
		c.handler = o.middleware[i](c.handler)
	}
	return c
}

// Close ends what is under way, waits for it and closes the connection of Dial. Calls that it interrupts may have been accepted.
func (c *Client) Close() error {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.done.Wait()
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// run starts a goroutine of the client, unless it is closed: then f runs here and finds its context ended.
func (c *Client) run(f func()) {
	c.mu.Lock()
	if c.life.Err() != nil {
		c.mu.Unlock()
		f()
		return
	}
	c.done.Add(1)
	c.mu.Unlock()
	go func() {
		defer c.done.Done()
		f()
	}()
}

// Enqueue makes one job durable and returns when it is. The error is an [*Error]; with Refused true the job was certainly not accepted. While
// the service sheds load, part of the calls is refused here without being sent, with RESOURCE_EXHAUSTED and OVERLOADED.
func (c *Client) Enqueue(ctx context.Context, job Job) (Result, error) {
	items := c.handler(ctx, []Job{job})
	if len(items) != 1 {
		return Result{}, errMiddleware
	}
	return items[0].Result, items[0].Err
}

// EnqueueBatch makes several jobs durable and returns a verdict for each, in order. There may be any number: they travel in requests of at
// most 1,000 jobs and 3 MiB, one after the other. Retries carry only those whose fate is open.
func (c *Client) EnqueueBatch(ctx context.Context, jobs []Job) []Item {
	if len(jobs) == 0 {
		return nil
	}
	items := c.handler(ctx, jobs)
	if len(items) != len(jobs) {
		items = make([]Item, len(jobs))
		for i := range items {
			items[i].Err = errMiddleware
		}
	}
	return items
}

var errMiddleware = errors.New("enqueue: a middleware did not return an item for each job")

// newKey is a key of the SDK's own.
func newKey() string {
	var random [10]byte
	rand.Read(random[:]) // never fails
	return envelope.NewKey(time.Now(), random)
}
