package controllog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
)

const (
	// pollWait is how long the broker may keep a fetch waiting. Two polls and their way there and back must fit into the 500 ms for
	// which grants trust the state, with room for a late wake-up; 200 ms is the design's bound.
	pollWait = 100 * time.Millisecond
	// callSlack is what a fetch may take beyond its wait before it counts as lost. kafka-go keeps a cancelled connection busy until the broker
	// answers, so this must not be shorter than a busy broker.
	callSlack = 2 * time.Second
	// fetchBytes bounds one fetch and with it what a fold holds beside its state.
	fetchBytes = 1 << 20
	// Retries wait from retryMin, doubling, to retryMax, each with jitter.
	retryMin = 10 * time.Millisecond
	retryMax = 200 * time.Millisecond
	// refusedPause is the pause after brokers have turned us away: somebody has to act, and each login costs them work.
	refusedPause = 2 * time.Second
	// readyFor is how long the last known state is good enough to be called ready. Grants have a far stricter rule, see Confirmed.
	readyFor = 30 * time.Second
	// repeatAfter is how often the log says that the control log still cannot be read, and why: a wrong password does not heal by itself.
	repeatAfter = time.Minute
	// lagFor is how long the log's end may lie before what was read. A leader that has just been elected does not know its end until the
	// other replicas have asked it for more, moments later; a log that was truncated or replaced never does. Nothing is confirmed meanwhile.
	lagFor = 15 * time.Second
	// verdictWindow is how many verdicts are kept for writers that read their records back, within seconds at most.
	verdictWindow = 4096
)

// Log is what a follower reads from: a *kafka.Client that nothing else uses, so that no other traffic can delay it.
type Log interface {
	// Fetch is kafka.Client.Fetch.
	Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error)
	// Refresh is kafka.Client.Refresh.
	Refresh(ctx context.Context) error
}

// Follower folds the control log as the broker receives it. All methods may be called from any goroutine.
type Follower struct {
	log    Log
	topic  string
	out    *slog.Logger
	state  atomic.Pointer[State]
	fresh  atomic.Pointer[time.Time]
	folded chan struct{} // closed when the log was folded to its end once

	mu       sync.Mutex
	fold     *Fold
	changed  chan struct{} // closed and replaced with every new state
	verdicts []Verdict     // the last verdictWindow, a ring by verdictAt
	at       int
	stop     error
	trouble  error // why the log cannot be read at the moment
}

// NewFollower returns a follower of topic, which is the full name. key is the installation's MAC key. No I/O happens before Run.
func NewFollower(log Log, topic string, key []byte, out *slog.Logger) *Follower {
	f := &Follower{
		log: log, topic: topic, out: out, fold: NewFold(topic, key),
		folded: make(chan struct{}), changed: make(chan struct{}),
	}
	f.state.Store(f.fold.State())
	return f
}

// Run follows the log until ctx ends. When the fold stops it says so loudly and stays, so that the process can say why it is not ready and
// do what needs no control; its error then is why. It retries everything else for ever.
func (f *Follower) Run(ctx context.Context) error {
	var next int64
	pause := retryMin
	var down time.Time // when it was last said that the log cannot be read; zero while it can
	var end int64      // the furthest that the log's end was seen
	var lag time.Time  // since when it is said to lie before that; zero: it is not
	for ctx.Err() == nil {
		sent := time.Now()
		batch, err := f.fetch(ctx, next)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if kafka.OutOfRange(err) {
				return f.halt(ctx, &StopError{Sequence: next, Reason: "the log was cut or replaced: " + err.Error()})
			}
			f.note(err)
			if now := time.Now(); now.Sub(down) >= repeatAfter {
				f.out.WarnContext(ctx, "control log cannot be read", slog.Int64("sequence", next-1), slog.Any("error", err))
				down = now
			}
			if kafka.Refused(err) {
				pause = refusedPause
			}
			f.recover(ctx, &pause)
			continue
		}
		if !down.IsZero() {
			f.note(nil)
			f.out.InfoContext(ctx, "control log is read again", slog.Int64("sequence", next-1))
		}
		down, pause = time.Time{}, retryMin
		if batch.HighWatermark < end {
			// It proves nothing about what is newer, were it the end of what we have read.
			if lag.IsZero() {
				lag = sent
			}
			if sent.Sub(lag) > lagFor {
				return f.halt(ctx, &StopError{Sequence: next, Reason: fmt.Sprintf("the log ends at %d and has ended at %d before", batch.HighWatermark, end)})
			}
		} else {
			end, lag = batch.HighWatermark, time.Time{}
		}
		if len(batch.Messages) > 0 {
			if err := f.apply(ctx, batch.Messages); err != nil {
				return f.halt(ctx, err)
			}
			next = batch.Messages[len(batch.Messages)-1].Offset + 1
		}
		if lag.IsZero() && next >= batch.HighWatermark {
			f.confirm(sent, len(batch.Messages) == 0)
		}
	}
	return nil
}

// note keeps why the log cannot be read, for Ready.
func (f *Follower) note(err error) {
	f.mu.Lock()
	f.trouble = err
	f.mu.Unlock()
}

func (f *Follower) fetch(ctx context.Context, next int64) (kafka.Batch, error) {
	ctx, cancel := context.WithTimeout(ctx, pollWait+callSlack)
	defer cancel()
	return f.log.Fetch(ctx, f.topic, 0, next, fetchBytes, pollWait)
}

// recover waits a little and asks for new metadata: the leader may have moved.
func (f *Follower) recover(ctx context.Context, pause *time.Duration) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(*pause/2 + rand.N(*pause)):
	}
	*pause = min(2**pause, retryMax)
	ctx, cancel := context.WithTimeout(ctx, callSlack)
	defer cancel()
	_ = f.log.Refresh(ctx) // the next fetch tells whether it helped
}

func (f *Follower) apply(ctx context.Context, messages []kafka.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range messages {
		m := &messages[i]
		v, err := f.fold.Apply(Record{Offset: m.Offset, Value: m.Value, Headers: m.Headers})
		if err != nil {
			f.publish()
			return err
		}
		if len(f.verdicts) < verdictWindow {
			f.verdicts = append(f.verdicts, v)
		} else {
			f.verdicts[f.at] = v
			f.at = (f.at + 1) % verdictWindow
		}
		switch {
		case v.Refusal != nil && errors.Is(v.Refusal, ErrForged):
			f.out.ErrorContext(ctx, "control record is not authentic", slog.Int64("sequence", v.Sequence))
		case v.Chain == ChainBroken:
			f.out.ErrorContext(ctx, "control log was tampered with before this record", slog.Int64("sequence", v.Sequence))
		}
	}
	f.publish()
	return nil
}

// publish makes the fold's state the one that everybody sees. f.mu is held.
func (f *Follower) publish() {
	f.state.Store(f.fold.State())
	close(f.changed)
	f.changed = make(chan struct{})
}

// confirm notes that the broker has said that there is nothing newer. What an answer proves is the broker's state when it was made, not when it
// was read: this process may have been frozen in between, and a grant on the strength of an old answer would break a hold. An empty
// answer is made after pollWait, one with records at once, at the earliest when the request was sent.
func (f *Follower) confirm(sent time.Time, empty bool) {
	at := sent
	if empty {
		at = sent.Add(pollWait)
		if now := time.Now(); now.Before(at) {
			at = now
		}
	}
	f.fresh.Store(&at)
	select {
	case <-f.folded:
	default:
		close(f.folded)
	}
}

// halt ends the following for good and waits for ctx.
func (f *Follower) halt(ctx context.Context, err error) error {
	f.mu.Lock()
	f.stop = err
	close(f.changed) // whoever waits shall see it
	f.changed = make(chan struct{})
	f.mu.Unlock()
	f.out.ErrorContext(ctx, "control log cannot be followed any further", slog.Any("error", err))
	<-ctx.Done()
	return err
}

// State returns the current state, never nil.
func (f *Follower) State() *State { return f.state.Load() }

// Confirmed is the latest time, on this process's monotonic clock, at which the broker is known to have had nothing newer than State, or
// had what State was made from a moment later. Zero: never. Grants need it to be at most 500 ms ago.
func (f *Follower) Confirmed() time.Time {
	if at := f.fresh.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// Folded is closed when the log was folded to the end that it had then. Nothing may be granted before.
func (f *Follower) Folded() <-chan struct{} { return f.folded }

// Changed is closed when a record was folded after this call; call it again for the next. Take it before State.
func (f *Follower) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Wait returns the first state seen that has folded sequence. It ends with ctx or when the fold stops.
func (f *Follower) Wait(ctx context.Context, sequence int64) (*State, error) {
	for {
		f.mu.Lock()
		changed, stop := f.changed, f.stop
		f.mu.Unlock()
		if s := f.State(); s.Sequence() >= sequence {
			return s, nil
		}
		if stop != nil {
			return nil, stop
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// Ready says why the state must not be relied on, or nil: the fold stopped, has not reached the log's end yet, or the broker has not
// confirmed it for 30 s. The error names the cause where one is known, such as a login that brokers refuse.
func (f *Follower) Ready() error {
	f.mu.Lock()
	stop, trouble := f.stop, f.trouble
	f.mu.Unlock()
	if stop != nil {
		return stop
	}
	because := func(text string) error {
		if trouble == nil {
			return errors.New(text)
		}
		return fmt.Errorf("%s: %w", text, trouble)
	}
	at := f.Confirmed()
	if at.IsZero() {
		return because("control log is not folded yet")
	}
	if state := f.State(); state.Config() == nil {
		if state.Sequence() >= 0 {
			return ErrOtherKey
		}
		return errors.New("control log is empty: nothing was installed")
	}
	if age := time.Since(at); age > readyFor {
		return because(fmt.Sprintf("control log was last confirmed %s ago", age.Round(time.Second)))
	}
	return nil
}

// verdict finds what the fold made of a folded record.
func (f *Follower) verdict(sequence int64) (Verdict, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range slices.Backward(f.verdicts) { // order does not matter: sequences are unique
		if v.Sequence == sequence {
			return v, true
		}
	}
	return Verdict{}, false
}

// Requested finds the accepted command with a request id, among the last RequestWindow.
func (f *Follower) Requested(id string) (int64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fold.Request(id)
}
