package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// wire is kafka-go's transport without its blind spot: a pool does not notice
// that its idle connections are dead, and hands them out one by one. After a
// broker's restart every one of them would cost an attempt and a pause, with
// dozens of partitions more than any deadline. So the first connection that
// turns out to be dead takes the whole pool with it.
type wire struct {
	*kafkago.Transport
	security Security
	// pool counts the pools so far: of the many calls that fail when a broker
	// dies, only those on the current pool replace it.
	pool atomic.Int64
}

// RoundTrip implements kafkago.RoundTripper.
func (w *wire) RoundTrip(ctx context.Context, addr net.Addr, request kafkago.Request) (kafkago.Response, error) {
	pool := w.pool.Load()
	response, err := w.Transport.RoundTrip(ctx, addr, request)
	err = w.explained(err)
	if err != nil && local(err) {
		// A pool that has never reached a broker knows no topic either. Say
		// that it is the broker which is missing.
		if cause := w.blind(ctx, addr); cause != nil && ctx.Err() == nil {
			err = &unsentError{cause}
		}
	}
	if err != nil && hungUp(err) && w.pool.CompareAndSwap(pool, pool+1) {
		w.renew()
	}
	return response, err
}

// blind returns why the current pool has no view of the cluster, nil if it has
// one. Metadata that is cached takes no request.
func (w *wire) blind(ctx context.Context, addr net.Addr) error {
	_, err := w.Transport.RoundTrip(ctx, addr, &metadata.Request{TopicNames: []string{}})
	return w.explained(err)
}

// explained says whose login it was that brokers did not accept.
func (w *wire) explained(err error) error {
	switch {
	case errors.Is(err, kafkago.SASLAuthenticationFailed):
		return fmt.Errorf("login of user %q refused (unknown user, wrong password, or a user without %s credentials): %w", w.security.User, w.security.Mechanism, err)
	case errors.Is(err, kafkago.UnsupportedSASLMechanism):
		return fmt.Errorf("the brokers have no %s logins: %w", w.security.Mechanism, err)
	}
	return err
}

// renew makes the next call use new connections and ask for the cluster's
// layout. Calls under way are not disturbed.
func (w *wire) renew() { w.CloseIdleConnections() }

// hungUp reports that an established connection was broken by the other side.
func hungUp(err error) bool {
	var unsent *unsentError
	return !errors.As(err, &unsent) &&
		(errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
			errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE))
}
