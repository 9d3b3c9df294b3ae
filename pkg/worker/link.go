package worker

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"

	"github.com/spillway/spillway/pkg/rpc"
)

const (
	// welcomeWait is how long a replica may take to welcome a worker before the connection is given up.
	welcomeWait = 10 * time.Second
	// startedWait is how long a Started receipt waits for a frame to ride on. A job that ends sooner needs none. A
	// replica that must know at once asks, by Revoke.
	startedWait = 50 * time.Millisecond
	// maxFrame keeps a frame below the 1 MiB that the scheduler reads.
	maxFrame = 512 << 10
	// receiveFrame is the largest frame that is read: as many jobs of the largest size as fit a scheduler's frame.
	receiveFrame = 16 << 20
)

var (
	errNotWelcome = errors.New("worker: no welcome within 10 s")
	errDuplicate  = errors.New("worker: the replica has a newer stream")
	errDrained    = errors.New("worker: the replica ends the stream")
	errClosed     = errors.New("worker: closed")
)

// link is one stream to one replica, from dialling until it has ended. A new connection is a new link. Its owner is
// Worker.mu, but for key, address and wake, which never change.
type link struct {
	key     string // its name in the divider
	address string
	boot    bool // dialled from Config.Schedulers
	wake    chan struct{}
	cancel  context.CancelCauseFunc

	replica  string // from Welcome; "": not welcomed yet
	open     bool   // the stream exists
	closed   bool
	drained  bool // the replica will end it: another stream is opened beside it
	welcomed time.Time

	// What the writer has to write, in order of arrival.
	hello    bool
	shards   map[int32]int64 // of an Ownership to be answered, with their epochs; nil: none
	results  []*report
	returned []*wireToken
	refused  []*wireToken // returned because the worker drains
	started  []*lease
	urgent   bool // write Started now
	renew    bool
	draining bool
}

func (w *Worker) newLink(address string, boot bool) *link {
	w.linkCount++
	l := &link{key: address + "#" + strconv.Itoa(w.linkCount), address: address, boot: boot, wake: make(chan struct{}, 1)}
	w.links = append(w.links, l)
	return l
}

// signal wakes the writer; it never blocks.
func (l *link) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// pending reports whether something has to be written now.
func (l *link) pending(now time.Time) bool {
	return l.hello || l.shards != nil || l.renew || l.draining || len(l.results)+len(l.returned)+len(l.refused) > 0 ||
		len(l.started) > 0 && (l.urgent || !now.Before(l.startedDue()))
}

// startedDue is when the oldest Started receipt has to be written. Only valid if there is one.
func (l *link) startedDue() time.Time { return l.started[0].arrived.Add(startedWait) }

// serve runs a link to its end and reports why it ended.
func (w *Worker) serve(ctx context.Context, l *link) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errClosed)
	w.mu.Lock()
	l.cancel = cancel
	w.mu.Unlock()

	conn, err := rpc.Dial(l.address, w.dialConfig())
	if err != nil {
		return w.closed(l, err)
	}
	defer conn.Close()
	welcome := time.AfterFunc(welcomeWait, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if l.replica == "" {
			cancel(errNotWelcome)
		}
	})
	defer welcome.Stop()
	stream, err := schedulerv1.NewWorkerServiceClient(conn).Work(ctx, grpc.MaxCallRecvMsgSize(receiveFrame))
	if err != nil {
		return w.closed(l, err)
	}

	w.mu.Lock()
	l.open, l.hello = true, true
	l.draining = w.draining
	w.slots.Open(time.Now(), l.key)
	w.flush(time.Now())
	w.mu.Unlock()

	var writer sync.WaitGroup
	writer.Go(func() {
		if err := w.write(ctx, l, stream); err != nil {
			cancel(err)
		}
	})
	err = w.read(l, stream)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	err = w.closed(l, err)
	cancel(errClosed)
	writer.Wait()
	return err
}

// read applies frames until the stream ends.
func (w *Worker) read(l *link, stream grpc.BidiStreamingClient[schedulerv1.WorkRequest, schedulerv1.WorkResponse]) error {
	for {
		frame, err := stream.Recv()
		if err != nil {
			return err
		}
		w.apply(l, frame)
	}
}

// write sends what has come up whenever it is woken. A job that ends while a frame is written is in the next one.
func (w *Worker) write(ctx context.Context, l *link, stream grpc.BidiStreamingClient[schedulerv1.WorkRequest, schedulerv1.WorkResponse]) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
		}
		// Others that are about to finish a job get to put it into this frame: a frame costs more than a job.
		runtime.Gosched()
		for {
			w.mu.Lock()
			frame, more := w.frame(l, time.Now())
			w.mu.Unlock()
			if frame == nil {
				break
			}
			if err := stream.Send(frame); err != nil {
				return err // the reader gets the status
			}
			if !more {
				break
			}
		}
	}
}

// closed ends a link: its bid and tickets are void, its results wait for the shard's next owner.
func (w *Worker) closed(l *link, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.closed {
		return err
	}
	l.closed = true
	if l.drained {
		err = errDrained
	}
	for _, r := range l.results {
		r.queued = false
	}
	l.results, l.returned, l.refused, l.started, l.shards = nil, nil, nil, nil, nil
	for _, held := range w.leases {
		if held.from == l {
			held.renewSent, held.told = time.Time{}, true // Hello.held tells the next stream
		}
	}
	now := time.Now()
	w.slots.Close(now, l.key)
	w.flush(now)
	return err
}

// flush wakes every writer that has something to write and the clock if it would sleep too long. Every change of state
// ends with it.
func (w *Worker) flush(now time.Time) {
	for _, l := range w.links {
		if !l.open || l.closed {
			continue
		}
		w.trim(l)
		due := w.slots.Due(l.key)
		if l.pending(now) || !due.IsZero() && !now.Before(due) {
			l.signal() // and the clock need not wake for it
			continue
		}
		w.need(due)
		if len(l.started) > 0 {
			w.need(l.startedDue())
		}
	}
	w.need(w.slots.Next())
}

// trim drops Started receipts that are not needed any more: the result says it all.
func (w *Worker) trim(l *link) {
	for len(l.started) > 0 && (l.started[0].told || w.leases[l.started[0].token] != l.started[0]) {
		l.started[0] = nil
		l.started = l.started[1:]
	}
}

// need makes sure that the clock wakes at a time; zero: never.
func (w *Worker) need(at time.Time) {
	if at.IsZero() || !w.armed.IsZero() && !at.Before(w.armed) {
		return
	}
	w.armed = at
	if w.awake {
		return // the clock is computing its next sleep
	}
	select {
	case w.clockWake <- struct{}{}:
	default:
	}
}
