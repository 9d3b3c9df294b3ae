package produce

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
)

// Pauses between attempts double from firstPause to maxPause; each is drawn
// evenly from zero to that. The refresh before the pause takes its own time,
// so the first retry after a moved leader comes within milliseconds.
const (
	firstPause = 5 * time.Millisecond
	maxPause   = 500 * time.Millisecond

	// attemptTime bounds one attempt. A broker that is alive answers within half of
	// CallTimeout, if only that the others were too slow; one whose machine is gone
	// never does, and the partition has a new leader by then.
	attemptTime = kafka.CallTimeout/2 + time.Second
)

// driver owns one partition until its queue is empty or ctx ends.
type driver struct {
	p    *Producer
	part *partition
	// batch are the items of the current batch that have no result yet.
	batch []*item
	// records is the batch in the form of the request. It is reused only
	// after an answer: a request that was given up may still be reading it.
	records []Record
	// ambiguous: an earlier attempt of this batch may have written it.
	ambiguous bool
	// last is why the batch's last attempt failed.
	last error
}

func (p *Producer) driver(ctx context.Context, part *partition) {
	defer p.drivers.Done()
	d := &driver{p: p, part: part}
	for d.next() {
		d.deliver(ctx)
	}
}

// next takes the next batch off the queue, or ends the driver's ownership.
func (d *driver) next() bool {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	queue := d.part.queue
	n, bytes := 0, int64(0)
	for n < len(queue) && n < maxBatchRecords && (n == 0 || bytes+queue[n].size <= maxBatchBytes) {
		bytes += queue[n].size
		n++
	}
	d.batch = append(d.batch[:0], queue[:n]...)
	clear(queue[:n]) // or the array would keep them alive
	d.part.queue = queue[n:]
	d.ambiguous, d.last = false, nil
	d.part.driven = n > 0
	return n > 0
}

// deliver tries the batch until every item of it has a result.
func (d *driver) deliver(ctx context.Context) {
	for attempt := 0; d.begin(ctx); attempt++ {
		if err := d.p.config.Gate(); err != nil {
			d.finish(d.batch, 0, d.verdict(fmt.Errorf("gate: %w", err)))
			return
		}
		base, err := d.attempt(ctx)
		if err == nil {
			d.finish(d.batch, base, nil)
			return
		}
		d.last = err
		if !errors.Is(err, kafka.ErrUnsent) {
			d.ambiguous = true
		}
		if !kafka.Retriable(err) {
			d.finish(d.batch, 0, d.verdict(err))
			return
		}
		d.recede()
		d.pause(ctx, attempt)
	}
}

// begin readies the batch for an attempt: who left is forgotten, who is past
// the deadline fails, the rest count as sent from now on. It reports whether
// there is anything to send.
func (d *driver) begin(ctx context.Context) bool {
	if ctx.Err() != nil {
		d.finish(d.batch, 0, d.verdict(errStopped))
		return false
	}
	now := time.Now()
	var late []*item
	d.p.mu.Lock()
	live := d.batch[:0]
	for _, it := range d.batch {
		switch {
		case it.state == ended:
		case now.Before(it.deadline):
			it.state = sent
			live = append(live, it)
		default:
			late = append(late, it)
		}
	}
	clear(d.batch[len(live):])
	d.batch = live
	d.p.mu.Unlock()
	if len(late) > 0 {
		cause := errDeadline
		if d.last != nil {
			cause = fmt.Errorf("%w, last attempt: %w", errDeadline, d.last)
		}
		d.finish(late, 0, d.verdict(cause))
	}
	return len(live) > 0
}

// attempt makes one request, which ends after attemptTime or at the latest deadline
// in the batch.
func (d *driver) attempt(ctx context.Context) (int64, error) {
	d.records = d.records[:0]
	for _, it := range d.batch {
		d.records = append(d.records, it.record)
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, attemptTime)
	defer stop()
	base, err := d.p.client.Append(ctx, d.part.key.topic, d.part.key.partition, d.records)
	if err != nil {
		d.records = nil
	}
	return base, err
}

// bound ends ctx at the deadline of the batch's youngest record, the last one.
func (d *driver) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithDeadline(ctx, d.batch[len(d.batch)-1].deadline)
}

// recede puts the batch back to waiting after an attempt that wrote nothing,
// unless an earlier one may have.
func (d *driver) recede() {
	if d.ambiguous {
		return
	}
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	for _, it := range d.batch {
		if it.state == sent {
			it.state = waiting
		}
	}
}

// pause refreshes the view of the cluster, which is what most failures need,
// and waits a little.
func (d *driver) pause(ctx context.Context, attempt int) {
	ctx, cancel := d.bound(ctx)
	defer cancel()
	_ = d.p.client.Refresh(ctx) // if it fails, so does the next attempt
	limit := min(firstPause<<min(attempt, 10), maxPause)
	timer := time.NewTimer(rand.N(limit))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// verdict says what is known about the batch now that cause has ended it.
func (d *driver) verdict(cause error) error {
	known := kafka.ErrUnsent
	if d.ambiguous {
		known = kafka.ErrFateUnknown
	}
	return &failure{d.part.key, known, cause}
}

// finish gives items their result: the bytes come back first, so that done may
// Send again; the records count as answered when their done has run.
func (d *driver) finish(items []*item, base int64, err error) {
	d.p.mu.Lock()
	live := items[:0] // all of them after an attempt: who is sent cannot leave
	for _, it := range items {
		if it.state != ended {
			it.state = ended
			d.p.held -= it.size
			live = append(live, it)
		}
	}
	d.p.mu.Unlock()
	for i, it := range live {
		if err != nil {
			it.done(0, err)
		} else {
			it.done(base+int64(i), nil)
		}
	}
	d.p.mu.Lock()
	d.p.forget(len(live))
	d.p.mu.Unlock()
}

// failure is the error of a record: what is known about it, and the cause of
// the last attempt without that attempt's own claim. A batch whose first
// attempt may have been written is not unsent because its last one was.
type failure struct {
	key   partitionKey
	known error // kafka.ErrUnsent or kafka.ErrFateUnknown
	cause error
}

// Error implements error.
func (f *failure) Error() string {
	return fmt.Sprintf("produce: to %s/%d: %v: %v", f.key.topic, f.key.partition, f.known, f.cause)
}

// Is makes errors.Is see what is known, and all of the cause but its claim.
func (f *failure) Is(target error) bool {
	if target == kafka.ErrUnsent || target == kafka.ErrFateUnknown {
		return target == f.known
	}
	return errors.Is(f.cause, target)
}

// As makes errors.As see the cause.
func (f *failure) As(target any) bool { return errors.As(f.cause, target) }
