package produce

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
)

// Record is one record to be written.
type Record = kafka.Record

const (
	// maxBatchRecords and maxBatchBytes bound a batch: it must fit a fetch of
	// 320 KiB per partition, and more brings no throughput. A bigger record
	// travels alone.
	maxBatchRecords = 1000
	maxBatchBytes   = 256 << 10

	// DefaultMaxBytes and DefaultDeadline stand in for zeros in Config. The
	// deadline outlasts the failure of a broker (15 s at Kafka's defaults).
	DefaultMaxBytes = 64 << 20
	DefaultDeadline = 20 * time.Second
)

// Config says how much a Producer may hold and how long it tries.
type Config struct {
	// MaxBytes bounds the records whose result is not known yet, by
	// Record.Size. Zero: DefaultMaxBytes.
	MaxBytes int64

	// Deadline is how long after Send a record may still be tried. Zero:
	// DefaultDeadline.
	Deadline time.Duration

	// Gate is asked before each request; its error fails the batch, which is
	// then as unsent as the attempts before it left it. Nil: always open. It
	// must be quick, and runs on the partition's goroutine.
	Gate func() error
}

// Producer batches records by partition. New makes one, Run drives it.
type Producer struct {
	client *kafka.Client
	config Config

	mu sync.Mutex
	// ctx is Run's context while Run lasts, nil before. Guarded by mu.
	ctx    context.Context
	closed bool // Run has ended: nothing is taken any more
	// partitions holds a queue for every partition that was ever sent to: the
	// topics' fixed partition counts bound it. Guarded by mu.
	partitions map[partitionKey]*partition
	held       int64         // bytes taken and not yet answered; ≤ MaxBytes
	records    int           // records taken and not yet answered
	quiet      chan struct{} // closed when records is 0; nil while nobody waits
	drivers    sync.WaitGroup
}

type partitionKey struct {
	topic     string
	partition int
}

// partition is one queue. All fields are guarded by Producer.mu.
type partition struct {
	key   partitionKey
	queue []*item
	// driven says that a goroutine owns the partition. It ends when it finds
	// the queue empty, so an idle partition costs no goroutine.
	driven bool
}

// item is a record on its way. Its state is guarded by Producer.mu.
type item struct {
	record   Record
	size     int64
	deadline time.Time
	done     func(offset int64, err error)
	state    state
}

// state of an item:
//
//	waiting ──attempt──▶ sent ──result──▶ ended
//	   ▲  │               │                 ▲
//	   │  └──caller left──┼─────────────────┘
//	   └──proved unsent───┘
type state uint8

const (
	// waiting: no attempt can have written the record; it may be dropped.
	waiting state = iota
	// sent: an attempt is under way, or has ended without proof that it wrote
	// nothing.
	sent
	// ended: the result is decided and done has been or is being called, or
	// the caller has left with its answer.
	ended
)

var (
	// errStopped is why records fail once Run has ended.
	errStopped = errors.New("producer stopped")
	// errDeadline is why records fail whose deadline passed between attempts.
	errDeadline = fmt.Errorf("delivery %w", context.DeadlineExceeded)
)

// New returns a Producer. It does no I/O and starts nothing; records that are
// sent before Run wait for it.
func New(client *kafka.Client, config Config) *Producer {
	if config.MaxBytes <= 0 {
		config.MaxBytes = DefaultMaxBytes
	}
	if config.Deadline <= 0 {
		config.Deadline = DefaultDeadline
	}
	if config.Gate == nil {
		config.Gate = func() error { return nil }
	}
	return &Producer{client: client, config: config, partitions: make(map[partitionKey]*partition)}
}

// Run writes until ctx ends. Then it fails what is queued as unsent and what
// is in flight as of unknown fate, and returns nil when every done has run.
// Flush first to lose nothing. Run may be called once.
func (p *Producer) Run(ctx context.Context) error {
	p.mu.Lock()
	if p.ctx != nil {
		p.mu.Unlock()
		return errors.New("produce: Run called twice")
	}
	p.ctx = ctx
	for _, part := range p.partitions {
		if len(part.queue) > 0 {
			p.drive(part)
		}
	}
	p.mu.Unlock()

	<-ctx.Done()
	p.mu.Lock()
	p.closed = true // from here on no driver is started: Wait sees them all
	p.mu.Unlock()
	p.drivers.Wait()
	return nil
}

// Send takes rec and returns at once; done is called with its offset or with
// an error that wraps kafka.ErrUnsent or kafka.ErrFateUnknown. done runs on
// the goroutine that writes the partition: it must not block, and may Send.
// When Send itself returns an error, rec was not taken and done never runs:
// kafka.ErrFull (over the byte budget) or kafka.ErrTooLarge, both with
// kafka.ErrUnsent.
func (p *Producer) Send(rec Record, done func(offset int64, err error)) error {
	_, err := p.send(rec, done)
	return err
}

func (p *Producer) send(rec Record, done func(offset int64, err error)) (*item, error) {
	size := int64(rec.Size())
	if size > kafka.MaxRecordBytes {
		return nil, fmt.Errorf("produce: %d bytes to %s/%d: %w: %w", size, rec.Topic, rec.Partition, kafka.ErrUnsent, kafka.ErrTooLarge)
	}
	it := &item{record: rec, size: size, deadline: time.Now().Add(p.config.Deadline), done: done}
	key := partitionKey{rec.Topic, rec.Partition}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, fmt.Errorf("produce: %w: %w", kafka.ErrUnsent, errStopped)
	case p.held+size > p.config.MaxBytes:
		return nil, fmt.Errorf("produce: %d bytes to %s/%d: %w: %w", size, rec.Topic, rec.Partition, kafka.ErrUnsent, kafka.ErrFull)
	}
	p.held += size
	p.records++
	part := p.partitions[key]
	if part == nil {
		part = &partition{key: key}
		p.partitions[key] = part
	}
	part.queue = append(part.queue, it)
	if p.ctx != nil && !part.driven {
		p.drive(part)
	}
	return it, nil
}

// drive starts the goroutine that owns part. The caller holds mu.
func (p *Producer) drive(part *partition) {
	part.driven = true
	p.drivers.Add(1)
	go p.driver(p.ctx, part)
}

// Produce sends rec and waits for its offset. When ctx ends first the error
// wraps ctx's and says what is known: kafka.ErrUnsent (the record was still
// waiting and is dropped) or kafka.ErrFateUnknown (it is on its way and may
// yet be written).
func (p *Producer) Produce(ctx context.Context, rec Record) (int64, error) {
	type result struct {
		offset int64
		err    error
	}
	results := make(chan result, 1)
	it, err := p.send(rec, func(offset int64, err error) { results <- result{offset, err} })
	if err != nil {
		return 0, err
	}
	select {
	case r := <-results:
		return r.offset, r.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	at := it.state
	if at == waiting {
		it.state = ended
		p.held -= it.size
		p.forget(1)
	}
	p.mu.Unlock()
	switch at {
	case waiting:
		return 0, &failure{partitionKey{rec.Topic, rec.Partition}, kafka.ErrUnsent, ctx.Err()}
	case sent:
		return 0, &failure{partitionKey{rec.Topic, rec.Partition}, kafka.ErrFateUnknown, ctx.Err()}
	default: // its done is about to run: the truth beats the deadline
		r := <-results
		return r.offset, r.err
	}
}

// Flush waits until every record taken so far has its result, or ctx ends.
// While others keep sending it waits for their records too.
func (p *Producer) Flush(ctx context.Context) error {
	p.mu.Lock()
	if p.records == 0 {
		p.mu.Unlock()
		return nil
	}
	if p.quiet == nil {
		p.quiet = make(chan struct{})
	}
	quiet := p.quiet
	p.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("produce: flush: %w", ctx.Err())
	}
}

// Held returns the bytes and the records whose result is not known yet.
func (p *Producer) Held() (bytes int64, records int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held, p.records
}

// forget counts n records as answered. The caller holds mu.
func (p *Producer) forget(n int) {
	p.records -= n
	if p.records == 0 && p.quiet != nil {
		close(p.quiet)
		p.quiet = nil
	}
}
