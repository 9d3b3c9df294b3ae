package deliver

import (
	"context"
	"log/slog"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/telemetry"
	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

// Log is what the room reads from: a *kafka.Client that nothing else uses. Its methods are called by several goroutines at once.
type Log interface {
	// Fetch is kafka.Client.Fetch.
	Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error)
	// Ends is kafka.Client.Ends.
	Ends(ctx context.Context, topic string, partitions []int) (map[int]kafka.Range, error)
	// Refresh is kafka.Client.Refresh.
	Refresh(ctx context.Context) error
}

// Ports are what the room acts through.
type Ports struct {
	Log Log
	// Verify judges a subscriber's token. An error that wraps rpc.ErrNotReady means that it cannot be judged now; any other that it is refused.
	Verify func(token string, now time.Time) (core.Subscriber, error)
	// Cluster is the id of the installation, 1 to 64 bytes once the room runs; cursors hold it.
	Cluster func() string
	// CursorKey authenticates cursors: 32 bytes or more, the same in all replicas.
	CursorKey []byte
	Out       *slog.Logger
	Telemetry *telemetry.Telemetry // nil: nothing is traced or metered
}

// Conn is a websocket that never makes a writer wait: a *socket.Conn. Read is for one goroutine, everything else for any.
type Conn interface {
	// Read waits for one text message, valid until the next Read.
	Read() ([]byte, error)
	// Hold holds the peer to other bounds from the next message on; it is the reader's, too.
	Hold(maxMessage int, budget *socket.Budget)
	// Write tries once to write frames and returns how many are taken: one that was begun is, and its rest goes first, by Flush or the next Write.
	Write(frames ...[]byte) (whole int, err error)
	// Flush tries the rest of a frame that was begun; clear: there is none (any more).
	Flush() (clear bool, err error)
	// Waiting is how many bytes of a frame that was begun wait.
	Waiting() int
	// LastTaken is when the peer's side last took a byte.
	LastTaken() time.Time
	// Close sends a close frame if it can without waiting, and closes. Read returns an error then.
	Close(code int, reason string) error
}
