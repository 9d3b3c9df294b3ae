package deliver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spillway/spillway/services/notifier/internal/core"
)

// Config says how much a replica takes on. What is zero gets the value in parentheses.
type Config struct {
	// Topic is the full name of the log of notifications.
	Topic string
	// Partitions is how many it has, 1 to 4096.
	Partitions int
	// RingBytes is what the rings of all partitions hold together (64 MiB).
	RingBytes int64
	// Sessions is how many there may be at once (20,000). More are refused before the upgrade.
	Sessions int
	// PerUser is how many of them a user of a tenant may have (20); PerAddress how many a network address may (0: all, for replicas behind a proxy).
	PerUser, PerAddress int
	// Channels is how many a session may subscribe to beside system (64).
	Channels int
	// Origins are the exact origins that browsers may come from. Empty: no browser may.
	Origins []string
	// HelloWithin is how long a client has for its hello (5 s).
	HelloWithin time.Duration
	// PingEvery is how often a client is pinged (25 s); two pings without a word from it end the session.
	PingEvery time.Duration
	// StallAfter is how long a client may take nothing although something waits for it (10 s).
	StallAfter time.Duration
	// Grace is how long a session lives on after its token has expired (60 s).
	Grace time.Duration
	// DrainOver is the time over which sessions are sent away (10 s); a shorter deadline of Drain's context shortens it.
	DrainOver time.Duration
	// Back is how many records of each partition are read at start before what is new, so that clients of the replica before this one find where they
	// were (4,096). What the ring cannot hold is read in vain.
	Back int64
}

func (c Config) defaults() Config {
	c.RingBytes = cmp.Or(c.RingBytes, 64<<20)
	c.Sessions = cmp.Or(c.Sessions, 20_000)
	c.PerUser = cmp.Or(c.PerUser, 20)
	c.PerAddress = cmp.Or(c.PerAddress, c.Sessions)
	c.Channels = cmp.Or(c.Channels, 64)
	c.HelloWithin = cmp.Or(c.HelloWithin, 5*time.Second)
	c.PingEvery = cmp.Or(c.PingEvery, 25*time.Second)
	c.StallAfter = cmp.Or(c.StallAfter, 10*time.Second)
	c.Grace = cmp.Or(c.Grace, time.Minute)
	c.DrainOver = cmp.Or(c.DrainOver, 10*time.Second)
	c.Back = cmp.Or(c.Back, 4096)
	return c
}

// Room holds the sessions of one replica.
type Room struct {
	cfg   Config
	ports Ports
}

// New wires a room. It starts nothing and does no I/O.
func New(cfg Config, ports Ports) (*Room, error) {
	switch {
	case cfg.Topic == "" || cfg.Partitions < 1 || cfg.Partitions > 4096:
		return nil, fmt.Errorf("deliver: topic %q with %d partitions", cfg.Topic, cfg.Partitions)
	case ports.Log == nil || ports.Verify == nil || ports.Cluster == nil || ports.Out == nil:
		return nil, errors.New("deliver: a port is missing")
	case len(ports.CursorKey) < 32:
		return nil, fmt.Errorf("deliver: a key of cursors of %d bytes, want 32 or more", len(ports.CursorKey))
	}
	return &Room{cfg: cfg.defaults(), ports: ports}, nil
}

// Run reads the log and serves the sessions until ctx ends; then it closes those that Drain has left. Call it once.
func (r *Room) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// ServeHTTP takes websockets at /v1/ws. Before Run has read every partition to its end it answers 503, and so it does when the room is full.
func (r *Room) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, core.CloseUnready.Reason(), http.StatusServiceUnavailable)
}

// Drain sends all sessions away, each in its slot of the time that there is, and returns when they are gone or ctx ends. No others are taken from
// its call on. Run must still be running.
func (r *Room) Drain(context.Context) {}

// Check says why the room's view of the log cannot be relied on, or nil: every partition was read to its end once, and each end was confirmed
// within the last 30 s.
func (r *Room) Check() error { return errors.New("not read yet") }
