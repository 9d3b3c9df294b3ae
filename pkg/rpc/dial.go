package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/spillway/spillway/pkg/telemetry"
)

const (
	// Client keepalive: a dead peer is noticed within 25 s. The server's
	// MinTime of 10 s allows it.
	pingEvery   = 20 * time.Second
	pingTimeout = 5 * time.Second

	// A server that is away is tried again after firstTry, then after ever longer
	// pauses up to lastTry: a restart takes less than a second, and gRPC's own
	// 2 minutes would make an outage that much longer for some callers.
	// connectLimit is for one try: a host that does not answer.
	firstTry     = 100 * time.Millisecond
	lastTry      = 5 * time.Second
	connectLimit = 5 * time.Second

	// maxReply bounds what a client accepts in one message: twice what the
	// largest server sends.
	maxReply = 8 << 20

	// tokenAge is how long a token that was read from a file is used before
	// the file is read again, so that rotation needs no restart.
	tokenAge = 10 * time.Second

	// Several addresses of one service share the calls.
	serviceConfig = `{"loadBalancingConfig":[{"round_robin":{}}]}`
)

// DialConfig is how to reach a service. The zero value dials without a token.
type DialConfig struct {
	// Token is sent with every call, as is.
	Token string
	// TokenFile names a file that holds the token; it is read again every
	// 10 s. Ignored when Token is set.
	TokenFile string
	// Telemetry traces and meters the calls; nil does not.
	Telemetry *telemetry.Telemetry
	// Dialer opens connections; nil uses the network.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// Options are gRPC's own, applied last.
	Options []grpc.DialOption
}

// Dial makes a connection to a service; it connects in the background and
// again whenever it has to. Service configs that a resolver brings are
// ignored. The connection is plaintext, to this machine only: any other
// address fails the handshake, before the token is sent.
func Dial(target string, cfg DialConfig) (*grpc.ClientConn, error) {
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(localCredentials{}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: firstTry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastTry}, MinConnectTimeout: connectLimit,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
		grpc.WithUserAgent("spillway"),
	}
	switch {
	case cfg.Token != "":
		opts = append(opts, grpc.WithPerRPCCredentials(&bearer{token: cfg.Token}))
	case cfg.TokenFile != "":
		b := &bearer{file: cfg.TokenFile}
		if _, err := b.get(time.Now()); err != nil {
			return nil, err
		}
		opts = append(opts, grpc.WithPerRPCCredentials(b))
	}
	calls, err := newTracing(cfg.Telemetry, trace.SpanKindClient, telemetry.MetricClientCalls)
	if err != nil {
		return nil, err
	}
	if !calls.off() {
		opts = append(opts, grpc.WithChainUnaryInterceptor(calls.client))
	}
	if cfg.Dialer != nil {
		opts = append(opts, grpc.WithContextDialer(cfg.Dialer))
	}
	return grpc.NewClient(target, append(opts, cfg.Options...)...)
}

// bearer adds the token to each call. It demands no transport security,
// because localCredentials already refuses every peer that would need it.
type bearer struct {
	file string

	mu    sync.Mutex
	token string
	read  time.Time
}

var _ credentials.PerRPCCredentials = (*bearer)(nil)

func (b *bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, _ := credentials.RequestInfoFromContext(ctx)
	if _, local := info.AuthInfo.(localInfo); !local {
		return nil, errors.New("a token is sent over local connections only")
	}
	token, err := b.get(time.Now())
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (*bearer) RequireTransportSecurity() bool { return false }

// get is the current token. A file that has become unreadable is only an error
// when it never was readable.
func (b *bearer) get(now time.Time) (string, error) {
	if b.file == "" {
		return b.token, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.token != "" && now.Sub(b.read) < tokenAge {
		return b.token, nil
	}
	token, err := ReadTokenFile(b.file)
	if err == nil {
		b.token = token
	} else if b.token == "" {
		return "", err
	}
	b.read = now
	return b.token, nil
}

// InMemory is the network name of addresses that never leave the process;
// rpctest's listeners have it.
const InMemory = "memory"

// isLocal tells whether an address cannot be reached from another machine.
func isLocal(addr net.Addr) bool {
	switch a := addr.(type) {
	case nil:
		return false
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	default:
		return a.Network() == InMemory
	}
}

// checkListener is the rule that plaintext is spoken on this machine only.
func checkListener(l net.Listener) error {
	if !isLocal(l.Addr()) {
		return fmt.Errorf("listener %s: plaintext is served on loopback addresses and Unix sockets only", l.Addr())
	}
	return nil
}

// localCredentials is plaintext that refuses to speak to another machine, on
// either side and for each connection: so a token cannot leave by a name that
// resolves elsewhere.
type localCredentials struct{}

type localInfo struct{ credentials.CommonAuthInfo }

func (localInfo) AuthType() string                       { return "local" }
func (localInfo) ValidateAuthority(string) error         { return nil }
func (localCredentials) OverrideServerName(string) error { return nil }

func (localCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "local"}
}

func (c localCredentials) Clone() credentials.TransportCredentials { return c }

func (localCredentials) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return localHandshake(conn, conn.RemoteAddr())
}

func (localCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	// A Unix peer has no name of its own, so its socket's is looked at.
	return localHandshake(conn, conn.LocalAddr())
}

func localHandshake(conn net.Conn, addr net.Addr) (net.Conn, credentials.AuthInfo, error) {
	if !isLocal(addr) {
		return nil, nil, fmt.Errorf("plaintext to %s is refused: not an address of this machine", addr)
	}
	return conn, localInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
}
