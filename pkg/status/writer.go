package status

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

const (
	// idleBeat is the longest pause between beats: four fit into the second for which a beat makes a replica live.
	idleBeat = 250 * time.Millisecond
	// fullEvery is how often marks go out in full.
	fullEvery = 5 * time.Second
	// pokeGap is the shortest pause between beats, so that marks that change all the time cost 200 records a second at most.
	pokeGap = 5 * time.Millisecond
	// writeWithin is how long one record may take. A beat that is older than that says nothing any more.
	writeWithin = time.Second
)

// Producer appends one record: a *produce.Producer.
type Producer interface {
	// Produce waits for the record's offset.
	Produce(ctx context.Context, record kafka.Record) (int64, error)
}

// Writer writes a replica's beats. Poke, Summarise and Beaten may be called from any goroutine.
type Writer struct {
	producer Producer
	topic    string
	collect  func() *logv1.Status
	log      *slog.Logger
	poke     chan struct{} // 1 deep: a pending beat tells of everything before it
	summary  atomic.Pointer[logv1.Status]
	summarys chan struct{} // 1 deep
	beaten   atomic.Pointer[time.Time]

	// Owned by Run. told are the marks as the readers know them; nil: they may not know, the next beat is full.
	told map[markKey]*logv1.SpillMark
	full time.Time
}

// NewWriter returns a writer to topic, the full name. collect returns what is true now, with the complete list of marks; it is called on
// Run's goroutine, must not block for long, and gives the message away. replica and kind must always be the same.
func NewWriter(producer Producer, topic string, collect func() *logv1.Status, log *slog.Logger) *Writer {
	return &Writer{
		producer: producer, topic: topic, collect: collect, log: log,
		poke: make(chan struct{}, 1), summarys: make(chan struct{}, 1),
	}
}

// Poke asks for a beat at once. Call it after the new truth is what collect returns.
func (w *Writer) Poke() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// Summarise asks for a summary beat at once. s has replica and summaries and is given away; one that was not written yet is replaced.
func (w *Writer) Summarise(s *logv1.Status) {
	w.summary.Store(s)
	select {
	case w.summarys <- struct{}{}:
	default:
	}
}

// Beaten is when the last beat that was acknowledged had been collected; zero: never. A replica whose last beat is older than a second is not live in
// the eyes of the others, so it must not act as if it were.
func (w *Writer) Beaten() time.Time {
	if at := w.beaten.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// Control is the control state that a replica's beats acknowledge: a controllog.Follower is one.
type Control interface {
	// Folded is closed when the control log has been read to its end once.
	Folded() <-chan struct{}
	// Changed is closed when the state after the one that was current at the call is there.
	Changed() <-chan struct{}
}

// Follow is Run from when there is a control state on, with a beat at once for each: whoever threw a switch waits for it.
func (w *Writer) Follow(ctx context.Context, control Control) error {
	select {
	case <-control.Folded():
	case <-ctx.Done():
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	var pokes sync.WaitGroup
	defer pokes.Wait()
	defer stop()
	pokes.Go(func() {
		for {
			changed := control.Changed()
			w.Poke()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	return w.Run(ctx)
}

// Pressure is what a beat says of how full the fullest budget of a replica is: value, 0 to 1. From a half on
// it is elevated: work of the lowest priority is about to be refused; from four fifths on severe: so is work of the default one.
func Pressure(value float64) *logv1.Pressure {
	level := logv1.PressureLevel_PRESSURE_LEVEL_NORMAL
	switch {
	case value >= 0.8:
		level = logv1.PressureLevel_PRESSURE_LEVEL_SEVERE
	case value >= 0.5:
		level = logv1.PressureLevel_PRESSURE_LEVEL_ELEVATED
	}
	return &logv1.Pressure{Value: value, Level: level}
}

// Run writes beats until ctx ends.
func (w *Writer) Run(ctx context.Context) error {
	idle := time.NewTimer(0)
	defer idle.Stop()
	var last time.Time
	down := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.summarys:
			if s := w.summary.Swap(nil); s != nil {
				s.At = timestamppb.Now()
				_ = w.write(ctx, s) // the next one comes within a second
			}
			continue
		case <-idle.C:
		case <-w.poke:
			if wait := pokeGap - time.Since(last); wait > 0 {
				idle.Reset(wait)
				continue
			}
		}
		last = time.Now()
		err := w.beat(ctx, last)
		switch {
		case err != nil && ctx.Err() == nil && !down:
			w.log.WarnContext(ctx, "status cannot be written", slog.Any("error", err))
			down = true
		case err == nil && down:
			w.log.InfoContext(ctx, "status is written again")
			down = false
		}
		idle.Reset(idleBeat)
	}
}

func (w *Writer) beat(ctx context.Context, now time.Time) error {
	s := w.collect()
	s.At = timestamppb.New(now)
	all := s.GetMarks()
	s.Full = w.told == nil || now.Sub(w.full) >= fullEvery
	if !s.Full {
		s.Marks = w.changes(all)
	}
	if err := w.write(ctx, s); err != nil {
		w.told = nil
		return err
	}
	if s.Full {
		w.full = now
		w.told = make(map[markKey]*logv1.SpillMark, len(all))
	}
	for _, m := range s.GetMarks() {
		if m.GetCleared() {
			delete(w.told, keyOf(m))
		} else {
			w.told[keyOf(m)] = m
		}
	}
	w.beaten.Store(&now)
	return nil
}

// changes returns the marks that differ from what was told, and those that ended.
func (w *Writer) changes(all []*logv1.SpillMark) []*logv1.SpillMark {
	var changed []*logv1.SpillMark
	present := make(map[markKey]struct{}, len(all))
	for _, m := range all {
		present[keyOf(m)] = struct{}{}
		if old := w.told[keyOf(m)]; old == nil || old.GetLane() != m.GetLane() ||
			drifted(old.GetBacklogJobs(), m.GetBacklogJobs()) || drifted(old.GetBacklogBytes(), m.GetBacklogBytes()) {
			changed = append(changed, m)
		}
	}
	for key := range w.told {
		if _, ok := present[key]; !ok {
			changed = append(changed, &logv1.SpillMark{Source: key.source, Type: key.jobType, Tenant: key.tenant, Cleared: true})
		}
	}
	return changed
}

// drifted reports whether a backlog changed by more than an eighth: a lane that is drained would else be news in every beat.
func drifted(told, now int64) bool {
	return max(told, now)-min(told, now) > told/8
}

func (w *Writer) write(ctx context.Context, s *logv1.Status) error {
	value, err := proto.Marshal(s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	_, err = w.producer.Produce(ctx, kafka.Record{
		Topic: w.topic, Key: []byte(s.GetReplica()), Value: value, Headers: []envelope.Header{envelope.VersionHeader()},
	})
	return err
}
