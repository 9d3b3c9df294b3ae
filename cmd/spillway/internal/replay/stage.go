package replay

import (
	"context"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/send"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	"github.com/spillway/spillway/cmd/spillway/internal/load/work"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
)

// stage is what the scenario is played on: the product, or the opponent.
type stage interface {
	// broker is the kind of broker, schedulers how many there are.
	broker() string
	schedulers() int
	// ports are where each flow sends its jobs.
	ports(ctx context.Context, run plan.Run) ([]send.Port, error)
	// work runs the handlers until ctx ends, and tells to of them.
	work(ctx context.Context, to work.Events) error
	// dial connects a client of a tenant and returns once it is subscribed.
	dial(ctx context.Context, client client) (socket, error)
	// processes are those whose memory counts, ceiling what one may take in
	// bytes, 0 where nobody says.
	processes() []readyfile.Process
	ceiling(process string) int64
	// operator acts on the flood; nil where nobody can.
	operator(ctx context.Context) (operator, error)
	// account closes the ledger when all is over.
	account(ctx context.Context, s *send.Sender) (ledger tally.Ledger, trimmed bool, err error)
	// troubles are what went wrong in handlers, with how often.
	troubles() map[string]int
	// stop ends everything; with keep, what a cluster holds stays.
	stop(keep bool) error
}

// client is one websocket client.
type client struct {
	number int
	tenant string
	reads  bool
}

// socket is a client's connection.
type socket interface {
	// Next returns the next notification's data, or that something may be
	// missing.
	Next(ctx context.Context) (data []byte, gap bool, err error)
	Close()
}

// operator finds a flood by what the product says, and stops it.
type operator interface {
	// name waits until a source is named, or for ctx.
	name(ctx context.Context) (source string, at time.Time, err error)
	hold(ctx context.Context, source string, within time.Duration) error
	resume(ctx context.Context, source string) error
	close()
}
