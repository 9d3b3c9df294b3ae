package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/spillway/spillway/pkg/kafka"
)

const (
	// DefaultMaxBytes caps the store: what can be read back in a few seconds
	// and within a memory limit of one and a half times that.
	DefaultMaxBytes = 1 << 30

	// minMaxBytes leaves room for the segments' fixed costs.
	minMaxBytes = 1 << 20

	scanEvery = 2 * time.Second // a walk over some 500 files, 2 ms
	trimEvery = time.Minute
	trimTime  = 30 * time.Second // bound of one trim

	// never is the interval of kfake's own retention and cleaning, in
	// milliseconds: 100 years.
	never = "3153600000000"

	// lockWait is how long Run waits for the directory's former broker: one
	// whose parent was killed closes its store first, which takes seconds.
	// lockPoll is how often it looks.
	lockWait = 15 * time.Second
	lockPoll = 50 * time.Millisecond
)

// Config says where the broker lives.
type Config struct {
	// Dir is the data directory, mode 0700, made if it is not there.
	Dir string
	// Socket is the path of the Unix socket, in a directory of mode 0700.
	Socket string
	// MaxBytes caps the store. Zero: DefaultMaxBytes.
	MaxBytes int64
	// Prefix is that of the installation's topics. Empty: kafka.DefaultPrefix.
	Prefix string
	// Log takes the few events worth telling. Nil: none.
	Log *slog.Logger
}

// Broker is a running embedded broker. Serve its chores with Serve, end it
// with Close.
type Broker struct {
	config  Config
	topics  kafka.Topics
	lock    *os.File
	store   *store
	cluster *kfake.Cluster
	client  *kafka.Client // our own way in, for trimming
}

// Run serves until ctx ends and then closes cleanly. It returns nil after a
// clean end. While another broker has the directory open it waits up to 15 s
// for that one to end.
func Run(ctx context.Context, config Config) error {
	began := time.Now()
	b, err := Start(config)
	for errors.Is(err, ErrLocked) && time.Since(began) < lockWait {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lockPoll):
		}
		b, err = Start(config)
	}
	if err != nil {
		return err
	}
	defer b.Close()
	b.Serve(ctx)
	return nil
}

// Start opens the store and serves the socket: when it returns, clients may
// connect. It takes seconds for a full store.
func Start(config Config) (*Broker, error) {
	if config.MaxBytes == 0 {
		config.MaxBytes = DefaultMaxBytes
	}
	if config.Prefix == "" {
		config.Prefix = kafka.DefaultPrefix
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.MaxBytes < minMaxBytes {
		return nil, fmt.Errorf("broker: a store of %d bytes, want at least %d", config.MaxBytes, minMaxBytes)
	}
	if err := checkMemory(config.MaxBytes); err != nil {
		return nil, err
	}
	for _, dir := range []string{config.Dir, filepath.Dir(config.Socket)} {
		if err := private(dir); err != nil {
			return nil, err
		}
	}
	b := &Broker{config: config, topics: kafka.Topics{Prefix: config.Prefix}}
	if err := b.open(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Broker) open() (err error) {
	if b.lock, err = lock(b.config.Dir); err != nil {
		return err
	}
	b.store = &store{dir: filepath.Join(b.config.Dir, "log"), limit: b.config.MaxBytes, log: b.config.Log}
	if err := os.MkdirAll(b.store.dir, 0o700); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	// kfake listens before it has read the store. Until it has, and until the
	// commits are checked, nobody is let in.
	door := &door{open: make(chan struct{}), closed: make(chan struct{})}
	begin := time.Now()
	b.cluster, err = kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.DataDir(b.store.dir),
		kfake.WithLogger(logger{b.config.Log}),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": never}),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return &guarded{door, b.store}, nil }),
	)
	if err != nil {
		return fmt.Errorf("broker: open the store: %w", err)
	}
	b.store.cluster = b.cluster
	if err := checkCommits(b.cluster, b.topics); err != nil {
		return err
	}
	if err := b.store.scan(); err != nil {
		return err
	}
	debug.FreeOSMemory() // what reading the store took
	b.cluster.ControlKey(int16(kmsg.JoinGroup), shortenRebalance)
	if door.Listener, err = listen(b.config.Socket); err != nil {
		return err
	}
	close(door.open)
	b.client, err = kafka.New(kafka.Config{Addresses: []string{"unix:" + b.config.Socket}, ClientID: "broker"})
	if err != nil {
		return err
	}
	b.config.Log.Info("broker serves", slog.String("socket", b.config.Socket),
		slog.Int64("store_bytes", b.store.used.Load()), slog.Duration("took", time.Since(begin)))
	return nil
}

// Serve measures and trims the store until ctx ends.
func (b *Broker) Serve(ctx context.Context) {
	scan, trims := time.NewTicker(scanEvery), time.NewTicker(trimEvery)
	defer scan.Stop()
	defer trims.Stop()
	b.trim(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-scan.C:
			if err := b.store.scan(); err != nil {
				b.config.Log.Error("store not measured", slog.Any("error", err))
			}
		case <-trims.C:
			b.trim(ctx)
		}
	}
}

func (b *Broker) trim(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, trimTime)
	defer cancel()
	if err := trim(ctx, b.cluster, b.client, b.topics, time.Now()); err != nil && ctx.Err() == nil {
		b.config.Log.Warn("store not trimmed", slog.Any("error", err))
	}
}

// Close ends the broker: connections break, snapshots are written, the socket
// goes, the lock is given back.
func (b *Broker) Close() error {
	if b.client != nil {
		b.client.Close()
	}
	if b.cluster != nil {
		b.cluster.Close()
	}
	if b.lock == nil {
		return nil
	}
	if err := b.lock.Close(); err != nil {
		return fmt.Errorf("broker: unlock: %w", err)
	}
	return nil
}

// door is a listener that can be there before its socket is. Closing it ends
// Accept whether or not it was ever opened.
type door struct {
	net.Listener // set before open is closed
	open         chan struct{}
	once         sync.Once
	closed       chan struct{}
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case <-d.open:
		return d.Listener.Accept()
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. kfake calls it more than once.
func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	select {
	case <-d.open:
		return d.Listener.Close() // removes the socket file
	default:
		return nil
	}
}
