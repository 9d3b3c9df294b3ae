package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/spillway/spillway/pkg/config"
)

// localBroker stands in for the address of a broker behind a Unix socket:
// kafka-go wants host:port, and the dialer goes to the socket whatever the
// broker calls itself.
const localBroker = "local-broker:9092"

// The mechanisms by which a client can log in.
const (
	ScramSHA512 = "SCRAM-SHA-512"
	ScramSHA256 = "SCRAM-SHA-256"
	Plain       = "PLAIN" // shows the password to the broker: only over TLS
)

// Security says how connections to the brokers are protected and who this
// client is to them. The zero value is plain text and nobody.
type Security struct {
	// TLS, if not nil, is used on every connection. A certificate has to name
	// the host that was dialled, unless ServerName is set.
	TLS *tls.Config

	// Mechanism is how to log in: ScramSHA512, ScramSHA256 or Plain. Empty: no
	// login, and User and Password are empty too.
	Mechanism string
	User      string
	Password  config.Secret

	// Reread, if not nil, returns the password as it is now. It is called for
	// each login, so that a changed one takes effect with the next connection.
	// Password is then only what it was at first.
	Reread func() (config.Secret, error)
}

// Validate says what is wrong with s.
func (s Security) Validate() error {
	if s.Mechanism == "" {
		if s.User != "" || !s.Password.IsZero() {
			return errors.New("a user or password is given, but no SASL mechanism to log in with")
		}
		return nil
	}
	switch {
	case !slices.Contains([]string{ScramSHA512, ScramSHA256, Plain}, s.Mechanism):
		return fmt.Errorf("SASL mechanism %q is none of %s, %s and %s", s.Mechanism, ScramSHA512, ScramSHA256, Plain)
	case s.Mechanism == Plain && s.TLS == nil:
		return errors.New("SASL PLAIN without TLS would send the password in clear: use TLS, or SCRAM-SHA-512")
	case s.User == "" || s.Password.IsZero():
		return fmt.Errorf("SASL %s needs a user and a password", s.Mechanism)
	}
	return nil
}

// login returns the mechanism in kafka-go's form, nil for none.
func (s Security) login() (sasl.Mechanism, error) {
	if s.Mechanism == "" || s.Reread == nil {
		return s.fixed()
	}
	return &rereading{s}, nil
}

// rereading is a mechanism with the password of the moment.
type rereading struct{ security Security }

// Name implements sasl.Mechanism.
func (r *rereading) Name() string { return r.security.Mechanism }

// Start implements sasl.Mechanism.
func (r *rereading) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	now := r.security
	var err error
	if now.Password, err = now.Reread(); err != nil {
		return nil, nil, &unsentError{fmt.Errorf("password of user %q: %w", now.User, err)}
	}
	mechanism, err := now.fixed()
	if err != nil {
		return nil, nil, &unsentError{err}
	}
	return mechanism.Start(ctx)
}

// fixed returns the mechanism with the password that s holds.
func (s Security) fixed() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case ScramSHA512:
		return scram.Mechanism(scram.SHA512, s.User, s.Password.Reveal())
	case ScramSHA256:
		return scram.Mechanism(scram.SHA256, s.User, s.Password.Reveal())
	case Plain:
		return &plain.Mechanism{Username: s.User, Password: s.Password.Reveal()}, nil // a pointer, which %+v does not follow
	}
	return nil, nil
}

// dial connects to a broker.
type dial func(ctx context.Context, network, address string) (net.Conn, error)

// dialer returns the dial function and the bootstrap addresses of config. All
// connections are made by it: there is no other way to a broker.
func dialer(config Config) (dial, []string, error) {
	if len(config.Addresses) == 0 {
		return nil, nil, errors.New("kafka: no address given")
	}
	if err := config.Security.Validate(); err != nil {
		return nil, nil, fmt.Errorf("kafka: %w", err)
	}
	connect := dial(config.Dial)
	if connect == nil {
		connect = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	for _, address := range config.Addresses {
		path, local := strings.CutPrefix(address, "unix:")
		switch {
		case !local:
			if _, _, err := net.SplitHostPort(address); err != nil {
				return nil, nil, fmt.Errorf("kafka: address %q: %w", address, err)
			}
		case len(config.Addresses) > 1:
			return nil, nil, fmt.Errorf("kafka: %q must be the only address: a local broker is alone", address)
		case path == "":
			return nil, nil, fmt.Errorf("kafka: address %q names no socket", address)
		case config.Security.TLS != nil || config.Security.Mechanism != "":
			return nil, nil, fmt.Errorf("kafka: %q: a local broker knows neither TLS nor a login; the socket's directory protects it", address)
		default:
			return marked(func(ctx context.Context, _, _ string) (net.Conn, error) {
				return connect(ctx, "unix", path)
			}), []string{localBroker}, nil
		}
	}
	if config.Security.TLS != nil {
		connect = encrypted(connect, config.Security.TLS)
	}
	if config.Security.Mechanism != "" {
		connect = bounded(connect)
	}
	return marked(connect), config.Addresses, nil
}

// encrypted makes TLS connections. It shakes hands itself: kafka-go's transport
// would do it in the first request, where a certificate that is refused looks
// like a broken connection, of which one cannot tell what was sent.
func encrypted(connect dial, config *tls.Config) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := connect(ctx, network, address)
		if err != nil {
			return nil, err
		}
		own := config
		if own.ServerName == "" {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				conn.Close()
				return nil, err
			}
			own = config.Clone()
			own.ServerName = host
		}
		secure := tls.Client(conn, own)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, &handshakeError{address: address, err: err}
		}
		return secure, nil
	}
}

// handshakeError is a TLS handshake that failed.
type handshakeError struct {
	address string
	err     error
}

// Error says what to look at.
func (e *handshakeError) Error() string {
	hint := ""
	var record tls.RecordHeaderError
	switch {
	case errors.As(e.err, &record):
		hint = " (no TLS is spoken on this port)"
	case e.untrusted():
		hint = " (is this the cluster's CA, and does the certificate name this host?)"
	}
	return fmt.Sprintf("TLS handshake with %s: %v%s", e.address, e.err, hint)
}

// Unwrap returns the cause.
func (e *handshakeError) Unwrap() error { return e.err }

// untrusted reports that the broker's certificate was refused.
func (e *handshakeError) untrusted() bool {
	var untrusted *tls.CertificateVerificationError
	return errors.As(e.err, &untrusted)
}

// final reports that another handshake with the same broker fails, too.
func (e *handshakeError) final() bool {
	var record tls.RecordHeaderError
	return e.untrusted() || errors.As(e.err, &record)
}

// bounded gives an exchange without a deadline one: kafka-go logs in without, so
// that a broker which freezes just then would keep a goroutine and a connection
// of every attempt until it wakes up.
func bounded(connect dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := connect(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &boundedConn{Conn: conn}, nil
	}
}

// boundedConn sets deadlines where its user lifts them. On an idle connection
// they do no harm: they are for reads and writes, and each write renews them.
type boundedConn struct {
	net.Conn
	explicit atomic.Bool // the deadlines are the user's
}

// Write implements net.Conn.
func (c *boundedConn) Write(b []byte) (int, error) {
	if !c.explicit.Load() {
		if err := c.Conn.SetDeadline(time.Now().Add(CallTimeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

// SetDeadline implements net.Conn.
func (c *boundedConn) SetDeadline(t time.Time) error { return c.Conn.SetDeadline(c.limit(t)) }

// SetReadDeadline implements net.Conn.
func (c *boundedConn) SetReadDeadline(t time.Time) error { return c.Conn.SetReadDeadline(c.limit(t)) }

// SetWriteDeadline implements net.Conn.
func (c *boundedConn) SetWriteDeadline(t time.Time) error { return c.Conn.SetWriteDeadline(c.limit(t)) }

func (c *boundedConn) limit(t time.Time) time.Time {
	c.explicit.Store(!t.IsZero())
	if t.IsZero() {
		return time.Now().Add(CallTimeout)
	}
	return t
}

// marked makes errors of connecting recognisable: a request that found no
// connection has not been sent, whatever the operating system calls it.
func marked(connect dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := connect(ctx, network, address)
		if err != nil {
			return nil, &unsentError{err}
		}
		return conn, nil
	}
}

// unsentError is a failure before anything was sent: to connect, mostly.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// brokers is a list of bootstrap addresses in the comma-joined form in which
// kafka-go's transport takes several.
type brokers struct{ networks, addresses string }

func bootstrap(addresses []string) net.Addr {
	networks := strings.TrimSuffix(strings.Repeat("tcp,", len(addresses)), ",")
	return brokers{networks, strings.Join(addresses, ",")}
}

func (b brokers) Network() string { return b.networks }
func (b brokers) String() string  { return b.addresses }
