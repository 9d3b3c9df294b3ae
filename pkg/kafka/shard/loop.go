package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
)

const (
	// FetchBytes is what one fetch asks for and reserves. It is more than a full
	// produce batch (256 KiB) or one job of the default limit, so only jobs above
	// that limit come as an oversized batch; and not more, so that a flooded
	// partition takes little of the budget at a time.
	FetchBytes = 320 << 10
	// FetchWait is how long the broker holds a fetch that finds nothing. A new
	// record wakes it in less than a millisecond; longer saves little.
	FetchWait = 500 * time.Millisecond

	// offerPause bounds how late a loop offers again what was not taken, should
	// nobody call Resume.
	offerPause = 50 * time.Millisecond
	// brokenFetches is how often in a row a fetch may fail in a way that does not
	// look like a passing one before the loop gives up: half a minute at most.
	brokenFetches = 30
)

// Fetcher is what a Loop needs of the log; a kafka.Client is one. One request
// for many partitions can later hide behind it: it would gather the calls of the
// loops of one broker and answer each.
type Fetcher interface {
	// Fetch is kafka.Client.Fetch.
	Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error)
	// Ends is kafka.Client.Ends.
	Ends(ctx context.Context, topic string, partitions []int) (map[int]kafka.Range, error)
	// Refresh is kafka.Client.Refresh.
	Refresh(ctx context.Context) error
}

// LoopConfig says what a Loop reads and whom it serves.
type LoopConfig struct {
	Fetch     Fetcher
	Topic     string
	Partition int
	// From is the offset of the first record wanted, usually the committed one.
	From int64
	// Budget is shared by all loops of a replica.
	Budget *Budget
	// Hold, if not 0, bounds the bytes that this loop alone may have delivered
	// and not got back, so that one flooded partition cannot use up Budget.
	Hold int64
	// Deliver takes records in offset order and says how many of them it took.
	// For each one taken the receiver calls Release once, with the record's Size.
	// What it did not take stays with the loop and is offered again after Resume,
	// or soon. Calls are one after the other; an error ends the loop.
	Deliver func(ctx context.Context, records []kafka.Message) (taken int, err error)
	// Reset, if not nil, hears that the loop went from one offset to another that
	// is not the next one, because the log does not hold it: forward to the start
	// of the log (records expired or were deleted), or back to it (the partition
	// was truncated or made anew, which is worth waking somebody). Records from to
	// on follow; the receiver begins a new account of the partition. It runs
	// between calls of Deliver.
	Reset func(from, to int64)
	// Log hears of resets and of fetches that fail.
	Log *slog.Logger
}

// Loop reads one partition. Run drives it; the other methods may be called from
// any goroutine at any time, also from within Deliver and after Run returned.
type Loop struct {
	config LoopConfig
	log    *slog.Logger // names the partition
	next   atomic.Int64 // offset after the last record taken
	end    atomic.Int64 // high watermark of the last answer, -1 before it

	mu     sync.Mutex
	paused bool
	held   int64         // bytes fetched and not released
	wake   chan struct{} // 1-deep: Resume or Release since it was last drained
}

// NewLoop returns a loop that Run starts.
func NewLoop(config LoopConfig) *Loop {
	l := &Loop{
		config: config,
		log:    config.Log.With("topic", config.Topic, "partition", config.Partition),
		wake:   make(chan struct{}, 1),
	}
	l.next.Store(config.From)
	l.end.Store(-1)
	return l
}

// Pause stops reading: no call of Deliver begins after it has returned. One that
// runs goes on, a fetch that is on its way is kept until Resume.
func (l *Loop) Pause() {
	l.mu.Lock()
	l.paused = true
	l.mu.Unlock()
}

// Resume lets the loop go on, and offers again what Deliver has not taken.
func (l *Loop) Resume() {
	l.mu.Lock()
	l.paused = false
	l.mu.Unlock()
	l.poke()
}

// Paused reports whether Pause was called last.
func (l *Loop) Paused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused
}

// Release gives back the bytes of records that Deliver took: settled, diverted
// or dropped, they are not in memory any more.
func (l *Loop) Release(bytes int) {
	l.mu.Lock()
	l.held -= int64(bytes)
	l.mu.Unlock()
	l.config.Budget.Release(int64(bytes))
	if l.config.Hold > 0 {
		l.poke()
	}
}

// Next is the offset after the last record that Deliver took.
func (l *Loop) Next() int64 { return l.next.Load() }

// End is the partition's high watermark by the last answer of the broker, -1
// before the first one. End minus Next is what is still to be read.
func (l *Loop) End() int64 { return l.end.Load() }

// Held is how many bytes were delivered, or wait to be, and are not released.
func (l *Loop) Held() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// Run reads until ctx ends, which is no error, until Deliver fails, or until
// fetching has failed for good. Passing failures are retried.
func (l *Loop) Run(ctx context.Context) error {
	err := l.run(ctx)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("shard: %s/%d at %d: %w", l.config.Topic, l.config.Partition, l.next.Load(), err)
}

func (l *Loop) run(ctx context.Context) error {
	empty := newBackoff(5*time.Millisecond, FetchWait)
	for {
		if err := l.wait(ctx, func() bool { return !l.paused && (l.config.Hold == 0 || l.held < l.config.Hold) }); err != nil {
			return err
		}
		batch, err := l.fetch(ctx)
		if err != nil {
			return err
		}
		l.end.Store(batch.HighWatermark)
		if len(batch.Messages) == 0 {
			// Nothing came though something is there: cut off by the limit, or a
			// stretch without records. Such an answer does not wait for FetchWait.
			if batch.HighWatermark > l.next.Load() && !empty.sleep(ctx) {
				return ctx.Err()
			}
			continue
		}
		empty.reset()
		if err := l.deliver(ctx, batch.Messages); err != nil {
			return err
		}
	}
}

// deliver offers records until all are taken. What is left when it fails is
// released: nobody else knows of it.
func (l *Loop) deliver(ctx context.Context, records []kafka.Message) error {
	defer func() {
		left := 0
		for i := range records {
			left += records[i].Size()
		}
		if left > 0 {
			l.Release(left)
		}
	}()
	for {
		if err := l.wait(ctx, func() bool { return !l.paused }); err != nil {
			return err
		}
		n, err := l.config.Deliver(ctx, records)
		if n > 0 {
			l.next.Store(records[n-1].Offset + 1)
			records = records[n:]
		}
		if err != nil || len(records) == 0 {
			return err
		}
		select { // a Resume since the offer counts: wait does not drain before
		case <-l.wake:
		case <-time.After(offerPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wait returns when open, which runs under mu, holds. It leaves wake drained, so
// that a token found later was put there after open was looked at.
func (l *Loop) wait(ctx context.Context, open func() bool) error {
	for {
		select {
		case <-l.wake:
		default:
		}
		l.mu.Lock()
		ok := open()
		l.mu.Unlock()
		if ok {
			return ctx.Err()
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *Loop) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// fetch reserves bytes, fetches and returns what was reserved too much. It
// repairs and retries.
func (l *Loop) fetch(ctx context.Context) (kafka.Batch, error) {
	retry := newBackoff(20*time.Millisecond, time.Second)
	broken := 0
	for {
		if err := l.config.Budget.Acquire(ctx, FetchBytes); err != nil {
			return kafka.Batch{}, err
		}
		batch, err := l.config.Fetch.Fetch(ctx, l.config.Topic, l.config.Partition, l.next.Load(), FetchBytes, FetchWait)
		if err == nil {
			l.mu.Lock()
			l.held += int64(batch.Bytes)
			l.mu.Unlock()
			l.config.Budget.Release(FetchBytes - int64(batch.Bytes)) // takes more if it is negative
			return batch, nil
		}
		l.config.Budget.Release(FetchBytes) // a broken partition must not starve the others
		switch {
		case ctx.Err() != nil:
			return kafka.Batch{}, ctx.Err()
		case kafka.OutOfRange(err):
			err = l.repair(ctx)
			if err == nil {
				continue
			}
		case !kafka.Retriable(err):
			if broken++; broken >= brokenFetches {
				return kafka.Batch{}, err
			}
		}
		l.config.Budget.trouble.about(l.log, err)
		_ = l.config.Fetch.Refresh(ctx) // "asked", not "changed": the retry tells
		if !retry.sleep(ctx) {
			return kafka.Batch{}, ctx.Err()
		}
	}
}

// errInRange: the broker refused an offset that its own ends contain. It has
// changed its mind, or a deletion overtook us: fetch again.
var errInRange = errors.New("offset out of range, yet within the partition's ends")

// repair moves an offset that the log does not hold to the log's start, never to
// its end. Above the end two looks must agree, because a leader that has just
// been elected may lag behind itself.
func (l *Loop) repair(ctx context.Context) error {
	from := l.next.Load()
	for look := 0; ; look++ {
		ends, err := l.config.Fetch.Ends(ctx, l.config.Topic, []int{l.config.Partition})
		if err != nil {
			return err
		}
		held := ends[l.config.Partition]
		log := l.log.With("offset", from, "log_start", held.First, "end", held.Next)
		switch {
		case from < held.First:
			log.Warn("records were deleted before they were read, going on at the log start", "skipped", held.First-from)
		case from <= held.Next:
			return errInRange
		case look == 0:
			_ = l.config.Fetch.Refresh(ctx)
			if !sleep(ctx, 200*time.Millisecond) {
				return ctx.Err()
			}
			continue
		default:
			log.Error("offset above the end of the partition: it was truncated or made anew; reading again from the log start")
		}
		l.next.Store(held.First)
		if l.config.Reset != nil {
			l.config.Reset(from, held.First)
		}
		return nil
	}
}
