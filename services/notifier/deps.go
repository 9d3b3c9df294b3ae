package notifier

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/telemetry"
)

// Deps are what the service is given.
type Deps struct {
	Log       *slog.Logger
	Telemetry *telemetry.Telemetry // nil: nothing is traced or metered
	// Kafka opens a client; the service opens one for each kind of traffic and closes them.
	Kafka func(clientID string) (*kafka.Client, error)
	// Verifier makes the verifier of tokens; issuer is the cluster id, known once the control log is folded.
	Verifier func(issuer func() string) (*rpc.Verifier, error)
	// MACKey authenticates control records; the key of cursors is derived from it. 32 bytes or more.
	MACKey   []byte
	Listener net.Listener // gRPC
	Web      net.Listener // websockets; plaintext HTTP/1.1, so TLS ends before it
	Admin    net.Listener // nil: no admin listener
	// Dial reaches schedulers; nil: the network.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

func (d Deps) validate() error {
	switch {
	case d.Log == nil:
		return errors.New("no log")
	case d.Kafka == nil:
		return errors.New("no way to the broker")
	case d.Verifier == nil:
		return errors.New("no verifier of tokens")
	case len(d.MACKey) == 0:
		return errors.New("no MAC key")
	case d.Listener == nil:
		return errors.New("no listener")
	case d.Web == nil:
		return errors.New("no listener for websockets")
	}
	return nil
}
