package kafka

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// What is known about records that were not acknowledged. Every error of a
// produce wraps exactly one of ErrUnsent and ErrFateUnknown.
var (
	// ErrUnsent: the log does not hold the records and never will because of
	// this attempt. Trying again makes no duplicate.
	ErrUnsent = errors.New("kafka: not written")

	// ErrFateUnknown: the records may have been written. Trying again may
	// make a duplicate, which readers drop by job id.
	ErrFateUnknown = errors.New("kafka: may have been written")

	// ErrFull: a byte budget is used up, the producer's own or the broker's
	// store. Shed load; a retry helps only after something else was freed.
	ErrFull = errors.New("kafka: full")

	// ErrTooLarge: a record above MaxRecordBytes. Never retry.
	ErrTooLarge = errors.New("kafka: record too large")

	// ErrFenced: a commit by a member or generation that is not the group's
	// any more. The partitions are somebody else's; drop the commit.
	ErrFenced = errors.New("kafka: fenced: the generation is over")

	// ErrNoCommit: a partition of the group has no committed offset, which
	// Install writes; the log was not installed or its commits expired.
	ErrNoCommit = errors.New("kafka: no committed offset")

	// ErrWouldEmpty: DeleteRecords was asked to delete a partition's last
	// record.
	ErrWouldEmpty = errors.New("kafka: refusing to delete the last record")
)

// storeFull is the code with which the embedded broker refuses records when
// its store is full: a real broker uses it for quotas of cluster changes only.
const storeFull = kafkago.ThrottlingQuotaExceeded

// Retriable reports whether the call that returned err may succeed when it is
// repeated after a Refresh and a pause with jitter: leaders move, coordinators
// load, brokers die. A missing topic counts too, because a new topic and a
// stale view look the same; the caller's deadline ends the retries.
func Retriable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, ErrFull) || Refused(err) {
		return false
	}
	var code kafkago.Error
	if errors.As(err, &code) {
		switch code {
		case kafkago.UnknownTopicOrPartition, kafkago.LeaderNotAvailable, kafkago.NotLeaderForPartition,
			kafkago.RequestTimedOut, kafkago.BrokerNotAvailable, kafkago.ReplicaNotAvailable, kafkago.NetworkException,
			kafkago.GroupLoadInProgress, kafkago.GroupCoordinatorNotAvailable, kafkago.NotCoordinatorForGroup,
			kafkago.NotEnoughReplicas, kafkago.NotEnoughReplicasAfterAppend, kafkago.RebalanceInProgress,
			kafkago.NotController, kafkago.KafkaStorageError, kafkago.FencedLeaderEpoch, kafkago.UnknownLeaderEpoch,
			kafkago.OffsetNotAvailable, kafkago.UnstableOffsetCommit,
			kafkago.Unknown: // what a coordinator says that is shutting down: nothing is known, as of a broken connection
			return true
		}
		return false
	}
	return local(err) || broken(err)
}

// Refused reports whether brokers turned this client away, or it them: a login
// or a certificate that is not accepted, a right that is missing. A person has
// to act; until then every call ends like this one. Rights are not always
// refused so: a topic that a client may not see looks like a missing one.
func Refused(err error) bool {
	var handshake *handshakeError
	if errors.As(err, &handshake) && handshake.final() {
		return true
	}
	var code kafkago.Error
	if !errors.As(err, &code) {
		return false
	}
	switch code {
	case kafkago.SASLAuthenticationFailed, kafkago.UnsupportedSASLMechanism, kafkago.IllegalSASLState,
		kafkago.TopicAuthorizationFailed, kafkago.GroupAuthorizationFailed, kafkago.ClusterAuthorizationFailed:
		return true
	}
	return false
}

// Fenced reports whether err says that the group has moved on without us: an
// illegal generation or an unknown member.
func Fenced(err error) bool {
	return errors.Is(err, ErrFenced) || errors.Is(err, kafkago.IllegalGeneration) ||
		errors.Is(err, kafkago.UnknownMemberId) || errors.Is(err, kafkago.FencedInstanceID)
}

// OutOfRange reports whether err says that an offset lies below the log start
// or above the high watermark.
func OutOfRange(err error) bool { return errors.Is(err, kafkago.OffsetOutOfRange) }

// local reports errors of the transport's own view: no request was made.
func local(err error) bool {
	return errors.Is(err, protocol.ErrNoTopic) || errors.Is(err, protocol.ErrNoPartition) ||
		errors.Is(err, protocol.ErrNoLeader)
}

// broken reports errors of connections and of our own deadlines.
func broken(err error) bool {
	var unsent *unsentError
	var network net.Error
	return errors.As(err, &unsent) || errors.As(err, &network) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNREFUSED) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// unwritten reports whether err proves that a produce request wrote nothing:
// it never left, or the broker refused it before appending. What is not on
// this list is of unknown fate, a code that a later broker invents included.
func unwritten(err error) bool {
	var unsent *unsentError
	if errors.As(err, &unsent) || local(err) || errors.Is(err, protocol.ErrNoRecord) {
		return true
	}
	var code kafkago.Error
	if !errors.As(err, &code) {
		return false
	}
	switch code {
	case kafkago.InvalidMessage, kafkago.UnknownTopicOrPartition, kafkago.LeaderNotAvailable,
		kafkago.NotLeaderForPartition, kafkago.BrokerNotAvailable, kafkago.MessageSizeTooLarge,
		kafkago.InvalidTopic, kafkago.RecordListTooLarge, kafkago.NotEnoughReplicas, kafkago.InvalidRequiredAcks,
		kafkago.SASLAuthenticationFailed, kafkago.UnsupportedSASLMechanism, kafkago.IllegalSASLState,
		kafkago.TopicAuthorizationFailed, kafkago.ClusterAuthorizationFailed, kafkago.InvalidTimestamp,
		kafkago.UnsupportedVersion, kafkago.UnsupportedForMessageFormat, kafkago.PolicyViolation,
		kafkago.FencedLeaderEpoch, kafkago.UnknownLeaderEpoch, kafkago.InvalidRecord, storeFull:
		return true
	}
	return false
}
