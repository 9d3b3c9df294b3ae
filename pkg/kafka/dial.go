package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
)

// localBroker stands in for the address of a broker behind a Unix socket:
// kafka-go wants host:port, and the dialer goes to the socket whatever the
// broker calls itself.
const localBroker = "local-broker:9092"

// dialer returns the dial function and the bootstrap addresses of config.
func dialer(config Config) (func(ctx context.Context, network, address string) (net.Conn, error), []string, error) {
	if len(config.Addresses) == 0 {
		return nil, nil, errors.New("kafka: no address given")
	}
	dial := config.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
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
		default:
			return marked(func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dial(ctx, "unix", path)
			}), []string{localBroker}, nil
		}
	}
	return marked(dial), config.Addresses, nil
}

// marked makes errors of connecting recognisable: a request that found no
// connection has not been sent, whatever the operating system calls it.
func marked(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
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
