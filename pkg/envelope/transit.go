package envelope

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// EncodeTransit makes the header that carries what changes about a job from
// hop to hop. t is not modified.
func EncodeTransit(t *logv1.Transit) Header {
	// Deterministic, so that one transit has one byte form in every process.
	marshal := proto.MarshalOptions{Deterministic: true}
	value, err := marshal.Marshal(t)
	if err != nil {
		// Only text that is not UTF-8 fails, and both texts are for people.
		// A job must not be stuck for want of a replica's printable name.
		t = proto.CloneOf(t)
		t.Writer = strings.ToValidUTF8(t.GetWriter(), "\uFFFD")
		if t.GetOrigin() != nil {
			t.Origin.Topic = strings.ToValidUTF8(t.Origin.GetTopic(), "\uFFFD")
		}
		value, _ = marshal.Marshal(t) // nothing else can fail
	}
	return Header{Key: HeaderTransit, Value: value}
}

// DecodeTransit reads a record's transit header. A record without one is a
// job's first record: the result is then empty, never nil. Negative counters
// are ErrMalformed (they only grow), an unknown cause is ErrUnknownValue.
func DecodeTransit(hs []Header) (*logv1.Transit, error) {
	t := new(logv1.Transit)
	value, ok := Get(hs, HeaderTransit)
	if !ok {
		return t, nil
	}
	if err := proto.Unmarshal(value, t); err != nil {
		return nil, fmt.Errorf("%w: header %s", ErrMalformed, HeaderTransit)
	}
	if t.GetEpoch() < 0 || t.GetAttempts() < 0 || t.GetDelayHops() < 0 || t.GetMoves() < 0 ||
		t.GetOrigin().GetPartition() < 0 || t.GetOrigin().GetOffset() < 0 {
		return nil, fmt.Errorf("%w: header %s: negative number", ErrMalformed, HeaderTransit)
	}
	if at := t.GetReadyAt(); at != nil && !at.IsValid() {
		return nil, fmt.Errorf("%w: header %s: ready_at out of range", ErrMalformed, HeaderTransit)
	}
	if _, known := jobv1.WaitCause_name[int32(t.GetCause())]; !known {
		return nil, fmt.Errorf("%w: header %s: cause %d", ErrUnknownValue, HeaderTransit, t.GetCause())
	}
	return t, nil
}
