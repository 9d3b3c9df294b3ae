package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

const (
	// CallTimeout bounds every call that has no earlier deadline. Half of it
	// is told to the broker as its own time limit, so that the answer "timed
	// out" still arrives.
	CallTimeout = 10 * time.Second

	// dialTimeout bounds connecting, version negotiation included.
	dialTimeout = 3 * time.Second

	// idleTimeout closes unused connections before brokers do (10 min).
	idleTimeout = 5 * time.Minute

	// refreshTimeout bounds one forced metadata request: it is a millisecond
	// of work, and a broker that does not answer it will not serve us either.
	refreshTimeout = 3 * time.Second

	// refusedFor is how long Ready bears to be turned away: a broker that has
	// just begun may not know all users yet.
	refusedFor = time.Second

	// gather is how long a refresh waits for others that need one too: when a
	// broker goes, all its partitions find out within a millisecond or two.
	gather = time.Millisecond

	// failedFor is how long a refresh that failed stands for those of others:
	// short beside the half second between their attempts.
	failedFor = 50 * time.Millisecond

	// retryPause is the pause between two looks at a cluster that is not
	// ready yet; the callers' deadlines bound how often it is taken.
	retryPause = 50 * time.Millisecond
)

// Config says how a Client reaches the log.
type Config struct {
	// Addresses are the bootstrap brokers as host:port; list all of them, any
	// one may be down. Or one local broker, as unix:/path/to/socket.
	Addresses []string

	// ClientID names this client to the broker. The embedded broker refuses
	// records of client ids that begin with "enqueue" first when its store
	// fills up.
	ClientID string

	// Topics limits the cached cluster view to these topics. Empty: all
	// topics of the cluster, which Install needs.
	Topics []string

	// Security protects the connections and says who this client is.
	Security Security

	// Dial replaces the network, for brokers in the same process. Nil: TCP or
	// the Unix socket named in Addresses.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client speaks to the log. It is safe for concurrent use.
type Client struct {
	config    Config
	transport *wire
	client    *kafkago.Client

	// refreshes counts the forced refreshes that were begun; served is the number
	// of the last one whose result counts for others, outcome that result. They
	// are guarded by mu, the work itself by the one token in turn.
	mu        sync.Mutex
	turn      chan struct{}
	refreshes int64
	served    int64
	outcome   error
	failed    time.Time // when outcome was made, if it is a failure
}

// New returns a Client. It does no I/O: a broker that is down shows at the
// first call, and Ready waits for it.
func New(config Config) (*Client, error) {
	dial, addresses, err := dialer(config)
	if err != nil {
		return nil, err
	}
	login, err := config.Security.login()
	if err != nil {
		return nil, fmt.Errorf("kafka: %s login of %q: %w", config.Security.Mechanism, config.Security.User, err)
	}
	ttl := 10 * time.Second // hot path: our own topics only, a small answer
	if len(config.Topics) == 0 {
		ttl = 30 * time.Second // the whole cluster's view, for admin work
	}
	transport := &wire{security: config.Security, Transport: &kafkago.Transport{
		Dial:           dial,
		SASL:           login,
		DialTimeout:    dialTimeout,
		IdleTimeout:    idleTimeout,
		MetadataTTL:    ttl,
		MetadataTopics: slices.Clone(config.Topics),
		ClientID:       config.ClientID,
	}}
	c := &Client{
		config:    config,
		transport: transport,
		client: &kafkago.Client{
			Addr:      bootstrap(addresses),
			Timeout:   CallTimeout,
			Transport: transport,
		},
		turn: make(chan struct{}, 1),
	}
	return c, nil
}

// Close closes the client's idle connections at once and those in use when
// their call ends; calls after Close connect anew, so make none.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Kafka returns the kafka-go client behind c, for packages under pkg/kafka.
func (c *Client) Kafka() *kafkago.Client { return c.client }

// ClientID returns the name under which the broker knows this client.
func (c *Client) ClientID() string { return c.config.ClientID }

// Refresh asks the cluster for its layout now and waits until c uses the
// answer. Nil means "asked", not "changed": retry with jitter. Refreshes are
// serialised, and one that began after the call started serves every waiter,
// with its failure too. A failure is good for failedFor: while brokers are away,
// one asks for all.
func (c *Client) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	c.mu.Lock()
	asked := c.refreshes
	c.mu.Unlock()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return fmt.Errorf("kafka: refresh: %w", ctx.Err())
	}
	c.mu.Lock()
	if c.served > asked || c.outcome != nil && time.Since(c.failed) < failedFor {
		err := c.outcome
		c.mu.Unlock()
		return err
	}
	c.mu.Unlock()
	if !sleep(ctx, gather) {
		return fmt.Errorf("kafka: refresh: %w", ctx.Err())
	}
	c.mu.Lock()
	c.refreshes++
	mine := c.refreshes
	c.mu.Unlock()

	// "!" is no legal topic name: nothing is ever created, and because the
	// cache cannot know it the transport has to ask and then re-reads.
	_, err := c.transport.RoundTrip(ctx, c.client.Addr, &metadata.Request{
		TopicNames:             []string{"!"},
		AllowAutoTopicCreation: true,
	})
	if err != nil {
		c.forget(ctx)
		err = fmt.Errorf("kafka: refresh: %w", err)
	}
	if err == nil || ctx.Err() == nil { // our own impatience is nobody else's result
		c.mu.Lock()
		c.served, c.outcome, c.failed = mine, err, time.Now()
		c.mu.Unlock()
	}
	return err
}

// forget drops a transport that has never seen the cluster. It would keep the
// error of its very first look until a random time within the TTL, and answer
// every refresh with it; anew, it asks. One that has a view keeps it: the
// leaders it knows are the best guess while brokers are away.
func (c *Client) forget(ctx context.Context) {
	if ctx.Err() == nil && c.transport.blind(ctx, c.client.Addr) != nil {
		c.transport.renew()
	}
}

// Ready waits until a broker answers and a controller is known, or until ctx
// ends; the error then says what was missing. It does not wait while brokers
// turn this client away, see Refused.
func (c *Client) Ready(ctx context.Context) error {
	var last error // more than that the time is over
	pause := retryPause
	for began := time.Now(); ; {
		err := c.ready(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if hungUp(err) { // which brokers write into their logs
			pause = min(2*pause, refusedFor)
		}
		if Refused(err) && time.Since(began) > refusedFor || !sleep(ctx, pause) {
			return fmt.Errorf("kafka: not ready at %s: %w", strings.Join(c.config.Addresses, ","), c.guess(last))
		}
	}
}

// guess adds what a broker that hangs up does not say.
func (c *Client) guess(err error) error {
	if !hungUp(err) {
		return err
	}
	s := c.config.Security
	switch {
	case s.TLS == nil && s.Mechanism == "":
		return fmt.Errorf("%w (brokers that want TLS or a login hang up like this)", err)
	case s.TLS == nil:
		return fmt.Errorf("%w (brokers that want TLS hang up like this)", err)
	case s.Mechanism == "":
		return fmt.Errorf("%w (brokers that want a login hang up like this)", err)
	}
	return fmt.Errorf("%w (some brokers hang up like this on a user or password that is wrong)", err)
}

func (c *Client) ready(ctx context.Context) error {
	if err := c.Refresh(ctx); err != nil {
		return err
	}
	view, err := c.client.Metadata(ctx, &kafkago.MetadataRequest{Topics: []string{}})
	switch {
	case err != nil:
		return err
	case len(view.Brokers) == 0:
		return errors.New("no broker known")
	case view.Controller.Host == "":
		return errors.New("no controller elected")
	}
	return nil
}

// Partitions returns how many partitions topic has. A topic that the cached
// view does not hold is asked for until ctx ends or CallTimeout passes.
func (c *Client) Partitions(ctx context.Context, topic string) (int, error) {
	found, err := c.describe(ctx, topic)
	if err != nil {
		return 0, err
	}
	return len(found.Partitions), nil
}

// describe returns the cached view of topic, refreshing it while the topic is
// missing or a partition of it has no leader.
func (c *Client) describe(ctx context.Context, topic string) (kafkago.Topic, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	for {
		found, err := c.look(ctx, topic)
		if err == nil || !Retriable(err) {
			return found, err
		}
		if c.Refresh(ctx) == nil {
			if found, err = c.look(ctx, topic); err == nil {
				return found, nil
			}
		}
		if !sleep(ctx, retryPause) {
			return found, fmt.Errorf("kafka: topic %s: %w (not installed, or this client has no right to see it)", topic, err)
		}
	}
}

func (c *Client) look(ctx context.Context, topic string) (kafkago.Topic, error) {
	view, err := c.client.Metadata(ctx, &kafkago.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return kafkago.Topic{}, err
	}
	for _, t := range view.Topics {
		if t.Name != topic {
			continue
		}
		if t.Error != nil {
			return kafkago.Topic{}, t.Error
		}
		if len(t.Partitions) == 0 {
			return kafkago.Topic{}, protocol.NewErrNoTopic(topic)
		}
		return t, nil
	}
	return kafkago.Topic{}, protocol.NewErrNoTopic(topic)
}

// retry repeats call while its error may pass, until ctx ends: a fresh broker
// has no coordinator yet, a new topic no leader.
func (c *Client) retry(ctx context.Context, call func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*CallTimeout)
	defer cancel()
	for {
		err := call()
		if err == nil || !Retriable(err) {
			return err
		}
		if c.Refresh(ctx) != nil && ctx.Err() != nil || !sleep(ctx, retryPause) {
			return err
		}
	}
}

// sleep waits d and reports whether ctx is still alive after it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
