package deliver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/lifecycle"
	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/frame"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

const (
	// leastKey is the least length of a MAC key in bytes: that of the hash.
	leastKey = 32
	// readyFor is how long ago the log's end may have been confirmed: as the control log's.
	readyFor = 30 * time.Second
	// drainSlack is what a drain leaves of its context's time for the last sockets to close; drainTick is how exact its slots are;
	// drainSlot is the longest of them: fifty sessions a second that come back are nothing to the other replicas.
	drainSlack = 500 * time.Millisecond
	drainTick  = 10 * time.Millisecond
	drainSlot  = 20 * time.Millisecond
)

// Config says how much a replica takes on. What is zero gets the value in parentheses.
type Config struct {
	// Topic is the full name of the log of notifications.
	Topic string
	// Partitions is how many it has, 1 to 4096.
	Partitions int
	// RingBytes is what the rings of all partitions hold together (32 MiB).
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
	// DrainOver is the time over which sessions are sent away (10 s); a shorter deadline of Drain's context shortens it, and so do few sessions:
	// none has more than 20 ms to itself.
	DrainOver time.Duration
	// Back is how many records of each partition are read at start before what is new, so that clients of the replica before this one find where they
	// were (4,096). What the ring cannot hold is read in vain.
	Back int64
}

func (c Config) defaults() Config {
	c.RingBytes = cmp.Or(c.RingBytes, 32<<20)
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
	cfg        Config
	ports      Ports
	partitions []*partition
	sweeper    sweeper
	meters     meters
	socket     socket.Config
	budget     *socket.Budget  // of messages after hello
	ctx        context.Context // Run's
	catching   chan struct{}   // holds one for each partition that fetches and is not level

	mu        sync.Mutex
	running   bool // Run runs: sessions may begin
	entering  int  // sessions that are being upgraded
	strangers int  // they, and those that have not said hello
	leaving   bool // Drain was called: none may begin any more
	sessions  map[*session]struct{}
	users     map[string]int // sessions by user
	addresses map[string]int // sessions by network address
	readers   sync.WaitGroup // of sessions
}

// New wires a room. It starts nothing and does no I/O.
func New(cfg Config, ports Ports) (*Room, error) {
	switch {
	case cfg.Topic == "" || cfg.Partitions < 1 || cfg.Partitions > envelope.MaxShards:
		return nil, fmt.Errorf("deliver: topic %q with %d partitions", cfg.Topic, cfg.Partitions)
	case ports.Log == nil || ports.Verify == nil || ports.Cluster == nil || ports.Out == nil:
		return nil, errors.New("deliver: a port is missing")
	case len(ports.CursorKey) < leastKey:
		return nil, fmt.Errorf("deliver: a key of cursors of %d bytes, want %d or more", len(ports.CursorKey), leastKey)
	}
	r := &Room{
		cfg: cfg.defaults(), ports: ports, sessions: map[*session]struct{}{}, users: map[string]int{}, addresses: map[string]int{},
		catching: make(chan struct{}, catchUps), socket: socket.Config{Origins: cfg.Origins, MaxMessage: maxHello},
		budget: socket.NewBudget(assembling, freeMessage),
	}
	r.socket.Budget = socket.NewBudget(strangersBytes, freeHello)
	r.sweeper = newSweeper(r)
	for n := range cfg.Partitions {
		r.partitions = append(r.partitions, newPartition(r, n))
	}
	r.meters = newMeters(r)
	return r, nil
}

// Run reads the log and serves the sessions until ctx ends; then it closes those that Drain has left, and returns when they are gone, within
// seconds. Call it once.
func (r *Room) Run(ctx context.Context) error {
	group := lifecycle.NewGroup(ctx)
	r.mu.Lock()
	r.ctx, r.running = group.Context(), true
	r.mu.Unlock()
	for _, p := range r.partitions {
		group.Go(fmt.Sprintf("fetch %d", p.number), p.fetch)
		group.Go(fmt.Sprintf("partition %d", p.number), p.run)
	}
	group.Go("sweeper", r.sweeper.run)
	group.Go("clock", r.clock)
	err := group.Wait()
	r.mu.Lock()
	r.running = false
	r.mu.Unlock()
	for _, s := range r.all() {
		s.close(core.CloseDraining)
	}
	r.readers.Wait() // a socket that was closed ends its reader within two seconds
	return err
}

// Drain sends all sessions away, each in its slot of the time that there is, and returns when they are gone or ctx ends. No others are taken from
// its call on. Run must still be running.
func (r *Room) Drain(ctx context.Context) {
	r.mu.Lock()
	r.leaving = true
	r.mu.Unlock()
	leaving := r.all()
	over := min(r.cfg.DrainOver, time.Duration(len(leaving))*drainSlot)
	if deadline, ok := ctx.Deadline(); ok {
		over = min(over, max(0, time.Until(deadline)-drainSlack))
	}
	rand.Shuffle(len(leaving), func(i, j int) { leaving[i], leaving[j] = leaving[j], leaving[i] })
	slot := func(i int) time.Duration { return over * time.Duration(i+1) / time.Duration(len(leaving)) }
	for i, s := range leaving {
		s.offer(frame.Go{Code: int(core.CloseDraining), After: slot(i)}.Append(nil))
	}
	begun := time.Now()
	for i, s := range leaving {
		if wait := time.Until(begun.Add(slot(i))); wait > drainTick || i == len(leaving)-1 { // some at a time
			select {
			case <-ctx.Done():
				return // Run closes the rest
			case <-time.After(wait):
			}
		}
		s.close(core.CloseDraining)
	}
	for r.Sessions() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(drainTick):
		}
	}
}

// Sessions is how many there are.
func (r *Room) Sessions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions)
}

// Check says why the room's view of the log cannot be relied on, or nil: every partition was read to its end once, and each end was confirmed
// within the last 30 s.
func (r *Room) Check() error {
	now := time.Now()
	for _, p := range r.partitions {
		confirmed := p.confirmed.Load()
		switch {
		case confirmed == nil:
			return fmt.Errorf("partition %d was not read to its end yet", p.number)
		case now.Sub(*confirmed) > readyFor:
			return fmt.Errorf("partition %d was last read to its end at %s", p.number, confirmed.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// read tells whether every partition was read to its end once.
func (r *Room) read() bool {
	return !slices.ContainsFunc(r.partitions, func(p *partition) bool { return p.confirmed.Load() == nil })
}

func (r *Room) all() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.sessions))
}
