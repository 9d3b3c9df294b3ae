package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// The table of what may be repeated, and what a failed append proves.
func TestErrorTable(t *testing.T) {
	refused := &unsentError{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}
	for _, c := range []struct {
		err                  error
		retriable, unwritten bool
	}{
		{kafkago.UnknownTopicOrPartition, true, true},
		{kafkago.LeaderNotAvailable, true, true},
		{kafkago.NotLeaderForPartition, true, true},
		{kafkago.NotEnoughReplicas, true, true},
		{kafkago.BrokerNotAvailable, true, true}, // the transport's own: no connection
		{kafkago.RequestTimedOut, true, false},
		{kafkago.NotEnoughReplicasAfterAppend, true, false},
		{kafkago.KafkaStorageError, true, false},
		{kafkago.GroupLoadInProgress, true, false},
		{kafkago.GroupCoordinatorNotAvailable, true, false},
		{kafkago.NotCoordinatorForGroup, true, false},
		{kafkago.RebalanceInProgress, true, false},
		{kafkago.Unknown, true, false},
		{kafkago.OffsetOutOfRange, false, false},
		{kafkago.MessageSizeTooLarge, false, true},
		{kafkago.OffsetMetadataTooLarge, false, false},
		{kafkago.IllegalGeneration, false, false},
		{kafkago.UnknownMemberId, false, false},
		{kafkago.InvalidSessionTimeout, false, false},
		{kafkago.TopicAuthorizationFailed, false, true},
		{kafkago.GroupAuthorizationFailed, false, false},
		{kafkago.SASLAuthenticationFailed, false, true}, // only while connecting
		{kafkago.InvalidConfiguration, false, false},
		{kafkago.Error(9999), false, false},
		{protocol.NewErrNoTopic("t"), true, true},
		{protocol.NewErrNoPartition("t", 1), true, true},
		{protocol.NewErrNoLeader("t", 1), true, true},
		{refused, true, true},
		{syscall.ECONNRESET, true, false},
		{syscall.EPIPE, true, false},
		{io.ErrUnexpectedEOF, true, false},
		{io.EOF, true, false},
		{os.ErrDeadlineExceeded, true, false},
		{context.DeadlineExceeded, true, false},
		{context.Canceled, false, false},
		{errors.New("anything"), false, false},
	} {
		for _, err := range []error{c.err, fmt.Errorf("wrapped: %w", c.err)} {
			if got := Retriable(err); got != c.retriable {
				t.Errorf("Retriable(%v) = %v", err, got)
			}
			if got := unwritten(err); got != c.unwritten {
				t.Errorf("unwritten(%v) = %v", err, got)
			}
		}
	}
	if Retriable(nil) || Retriable(fmt.Errorf("%w: %w", ErrFull, kafkago.NotLeaderForPartition)) {
		t.Error("nil or ErrFull is retriable")
	}
}

// The answer's error code arrives as a throttle time, with a real throttle
// time shifted above it.
func TestSwapped(t *testing.T) {
	for throttle, want := range map[int32]error{
		0: nil, 25: kafkago.UnknownMemberId, 27: kafkago.RebalanceInProgress,
		300<<16 | 22: kafkago.IllegalGeneration, 300 << 16: nil, 0xffff: kafkago.Unknown,
	} {
		if got := swapped(throttle); !errors.Is(got, want) || (got == nil) != (want == nil) {
			t.Errorf("swapped(%#x) = %v, want %v", throttle, got, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, bad := range [][]string{nil, {"host"}, {"unix:"}, {"unix:/s", "host:9092"}, {"host:9092", "unix:/s"}} {
		if _, err := New(Config{Addresses: bad}); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
	var network, address string
	dial := func(_ context.Context, n, a string) (net.Conn, error) {
		network, address = n, a
		return nil, errors.New("no")
	}
	connect, addresses, err := dialer(Config{Addresses: []string{"unix:/run/s"}, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	_, err = connect(t.Context(), "tcp", addresses[0])
	if network != "unix" || address != "/run/s" || !unwritten(err) {
		t.Errorf("dialled %s %s (%v)", network, address, err)
	}
	c, err := New(Config{Addresses: []string{"a:1", "b:2"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.client.Addr; got.Network() != "tcp,tcp" || got.String() != "a:1,b:2" {
		t.Errorf("bootstrap is %s %s", got.Network(), got)
	}
}

func TestWeaknesses(t *testing.T) {
	l := Layout{Topics: Topics{Prefix: "p."}, Shards: 2, Lanes: 2, Durability: Replicated}
	for _, spec := range l.specs() {
		settings := make(map[string]string)
		for _, entry := range spec.config(l).ConfigEntries {
			settings[entry.ConfigName] = entry.ConfigValue
		}
		if weak := spec.weaknesses(l, settings); len(weak) > 0 {
			t.Errorf("what Install sets is weak: %v", weak)
		}
		for setting, value := range map[string]string{
			"cleanup.policy": "compact", "retention.ms": "1000", "retention.bytes": "1", "max.message.bytes": "1000",
			"min.insync.replicas": "1", "unclean.leader.election.enable": "true",
		} {
			was := settings[setting]
			settings[setting] = value
			if weak := spec.weaknesses(l, settings); len(weak) != 1 || weak[0].(*WeakSettingError).Setting != setting {
				t.Errorf("%s: %s=%s passes: %v", spec.name, setting, value, weak)
			}
			settings[setting] = was
		}
	}
}

func TestPrefixOfALayout(t *testing.T) {
	for prefix, ok := range map[string]bool{
		"spillway.": true, "a-": true, "team_x_": true, ".": true, "": false, "a": false, "a/b.": false, "ü.": false, strings.Repeat("a", 100) + ".": false,
	} {
		l := Layout{Topics: Topics{Prefix: prefix}, Shards: 2, Lanes: 2, Durability: Single}
		if err := l.Validate(); (err == nil) != ok {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}
