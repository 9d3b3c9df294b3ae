package automation

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/pkg/lifecycle"
	"github.com/spillway/spillway/pkg/status"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/automation/internal/registry"
)

const (
	// produceBytes bounds what waits to be written: a few dozen of the largest commands.
	produceBytes = 8 << 20
	// produceWithin is how long a record is tried. Callers wait three seconds for it to be read back.
	produceWithin = 2 * time.Second
)

// desk is the registry with everything that it acts through: all of a replica but its servers.
type desk struct {
	cfg      Config
	id       string // unique for the life of the process
	clients  []*kafka.Client
	producer *produce.Producer
	follower *controllog.Follower
	reader   *status.Reader
	beats    *status.Writer
	room     *registry.Room
}

func newDesk(cfg Config, log *slog.Logger, open func(clientID string) (*kafka.Client, error), macKey []byte) (*desk, error) {
	d := &desk{cfg: cfg, id: cfg.Replica + "-" + strings.ToLower(rand.Text()[:8])}
	topics := kafka.Topics{Prefix: cfg.Prefix}
	// Three clients, because one request at a time is in flight on a connection and the log is followed on one of its own.
	for _, kind := range []string{"control", "status", "writes"} {
		c, err := open("automation." + kind + "." + cfg.Replica)
		if err != nil {
			d.close()
			return nil, err
		}
		d.clients = append(d.clients, c)
	}
	d.producer = produce.New(d.clients[2], produce.Config{MaxBytes: produceBytes, Deadline: produceWithin})
	d.follower = controllog.NewFollower(d.clients[0], topics.Control(), macKey, log)
	d.reader = status.NewReader(d.clients[1], topics.Status(), log)
	d.beats = status.NewWriter(d.producer, topics.Status(), d.beat, log)
	d.room = registry.New(
		control{follower: d.follower, writer: controllog.NewWriter(d.producer, d.follower, topics.Control(), macKey)},
		fleet{reader: d.reader, self: d.id}, log,
	)
	return d, nil
}

func (d *desk) close() {
	for _, c := range d.clients {
		c.Close()
	}
}

// start runs what the registry acts through.
func (d *desk) start(g *lifecycle.Group) {
	g.Go("producer", d.producer.Run)
	g.Go("control", d.follower.Run)
	g.Go("status", d.reader.Run)
	g.Go("beats", d.runBeats)
	g.Go("acknowledge", d.acknowledge)
}

// runBeats writes beats once there is a control state to speak of.
func (d *desk) runBeats(ctx context.Context) error {
	select {
	case <-d.follower.Folded():
		return d.beats.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// acknowledge tells the others at once of every new control state, and refuses to serve another installation's.
func (d *desk) acknowledge(ctx context.Context) error {
	for {
		changed := d.follower.Changed()
		if c := d.follower.State().Config(); c != nil && c.GetPrefix() != d.cfg.Prefix {
			return fmt.Errorf("the control log is of an installation with prefix %q, not %q", c.GetPrefix(), d.cfg.Prefix)
		}
		d.beats.Poke()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// beat is what status says of this replica.
func (d *desk) beat() *logv1.Status {
	state := d.follower.State()
	return &logv1.Status{
		Replica: d.id, Kind: logv1.ReplicaKind_REPLICA_KIND_AUTOMATION, Address: d.cfg.Address,
		AppliedSequence: state.Sequence(), StateHash: state.Hash(),
	}
}
