package controllog

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/kafka"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// Producer appends one record with all acknowledgements: a *produce.Producer. Its errors wrap kafka.ErrUnsent or kafka.ErrFateUnknown.
type Producer interface {
	// Produce waits for the record's offset.
	Produce(ctx context.Context, record kafka.Record) (int64, error)
}

// Writer appends commands and answers with the fold's verdict. It may be used by many goroutines; each has one command on its way.
type Writer struct {
	producer Producer
	follower *Follower
	topic    string
	key      []byte
}

// NewWriter returns a writer to topic, the full name, that reads back through follower. key is the installation's MAC key.
func NewWriter(producer Producer, follower *Follower, topic string, key []byte) *Writer {
	return &Writer{producer: producer, follower: follower, topic: topic, key: key}
}

// Append writes c, whose format it sets, and returns its sequence once this replica has folded it and the fold has accepted it. The state then
// holds it. ctx needs a deadline.
//
// Errors: a *Refusal when the fold refused the command, with the sentinel to test for; ErrUnavailable when the command is not in the
// log; ErrNotConfirmed when it may be. After ErrRepeated the earlier command with this request id stands: Refusal.Current.
func (w *Writer) Append(ctx context.Context, c *logv1.Command) (sequence int64, err error) {
	c.Format = Format
	value, err := proto.Marshal(c)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(value) > MaxCommandBytes {
		return 0, &Refusal{Err: ErrFull, Sequence: -1, Detail: "command is too large"}
	}
	seen := w.follower.State()
	sequence, err = w.producer.Produce(ctx, kafka.Record{Topic: w.topic, Value: value, Headers: seal(w.topic, w.key, value, seen.tail[:])})
	switch {
	case err == nil:
		sequence, err = w.readBack(ctx, sequence)
		// A producer that lost an answer writes again: then the fold refuses the second copy because of the first.
		if r, ok := errors.AsType[*Refusal](err); ok && errors.Is(r, ErrRepeated) && r.Current > seen.Sequence() {
			return r.Current, nil
		}
		return sequence, err
	case errors.Is(err, kafka.ErrFateUnknown) && c.GetRequestId() != "":
		return w.find(ctx, c.GetRequestId(), err)
	case errors.Is(err, kafka.ErrUnsent):
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return 0, fmt.Errorf("%w: %w", ErrNotConfirmed, err)
	}
}

func (w *Writer) readBack(ctx context.Context, sequence int64) (int64, error) {
	if _, err := w.follower.Wait(ctx, sequence); err != nil {
		return 0, fmt.Errorf("%w: record %d: %w", ErrNotConfirmed, sequence, err)
	}
	v, ok := w.follower.verdict(sequence)
	switch {
	case !ok:
		return 0, fmt.Errorf("%w: record %d: read too long ago", ErrNotConfirmed, sequence)
	case v.Refusal != nil:
		return sequence, v.Refusal
	}
	return sequence, nil
}

// find waits for a command whose produce had no answer to come up in the log.
func (w *Writer) find(ctx context.Context, id string, cause error) (int64, error) {
	for {
		changed := w.follower.Changed()
		if sequence, ok := w.follower.Requested(id); ok {
			return sequence, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", ErrNotConfirmed, cause)
		case <-changed:
		}
	}
}
