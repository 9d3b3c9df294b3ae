package publish

import (
	"context"
	"slices"
	"sync"
	"time"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

const (
	// learnWithin is how long a call waits for its source to be registered.
	learnWithin = 2 * time.Second
	// learnPause is how long to wait for the fold before asking again: another replica may have been faster, and its record be on its way.
	learnPause = 100 * time.Millisecond
	// maxTypes is how many types a source may declare.
	maxTypes = 8
	// maxLearning bounds the names that are being registered at the same time: automation is no hot path.
	maxLearning = 32
)

// local registers unknown sources and types with the default quota, for whoever asks: local mode's convenience, and only its.
type local struct {
	control   Control
	registrar Registrar

	mu       sync.Mutex
	learning map[string]chan struct{} // by source, closed when its call has ended: one at a time
}

func newLocal(control Control, registrar Registrar) *local {
	return &local{control: control, registrar: registrar, learning: map[string]chan struct{}{}}
}

// learn registers what the refused jobs lack and says whether deciding again may end otherwise.
func (l *local) learn(ctx context.Context, jobs []core.Job, results []core.Result, judged func()) bool {
	type want struct{ source, typ string }
	var wants []want
	for i := range results {
		if w := (want{jobs[i].Source, jobs[i].Type}); results[i].Refusal != nil && results[i].Refusal.Unregistered && !slices.Contains(wants, w) && len(wants) < maxLearning {
			wants = append(wants, w)
		}
	}
	if len(wants) == 0 {
		return false
	}
	judged() // it may take long, and holds more than it says: local mode pays for its convenience
	ctx, cancel := context.WithTimeout(ctx, learnWithin)
	defer cancel()
	learnt := false
	for _, w := range wants {
		learnt = l.ensure(ctx, w.source, w.typ) || learnt
	}
	return learnt
}

// ensure returns true when the control log, as this replica has folded it, knows the type of the source; false when that cannot be or ctx ended.
func (l *local) ensure(ctx context.Context, source, typ string) bool {
	for ctx.Err() == nil {
		changed := l.control.Changed()
		registered, known := l.control.State().Source(source)
		switch {
		case known && slices.Contains(registered.GetTypes(), typ):
			return true
		case known && len(registered.GetTypes()) >= maxTypes:
			return false
		}
		ended, mine := l.turn(source)
		switch {
		case ended == nil: // too many names at once
			return false
		case mine && known:
			_ = l.registrar.Extend(ctx, source, append(slices.Clone(registered.GetTypes()), typ), registered.GetEtag()) // the fold tells how it went
			l.end(source, ended)
		case mine:
			_ = l.registrar.Register(ctx, &automationv1.Source{Name: source, Types: []string{typ}, Principals: []string{"*"}})
			l.end(source, ended)
		default:
			select {
			case <-ended:
			case <-ctx.Done():
				return false
			}
		}
		select {
		case <-changed:
		case <-time.After(learnPause):
		case <-ctx.Done():
		}
	}
	return false
}

// turn takes the turn to register the source; mine is false when somebody else has it, until ended is closed.
func (l *local) turn(source string) (ended chan struct{}, mine bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ended, ok := l.learning[source]; ok {
		return ended, false
	}
	if len(l.learning) >= maxLearning {
		return nil, false
	}
	ended = make(chan struct{})
	l.learning[source] = ended
	return ended, true
}

func (l *local) end(source string, ended chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.learning, source)
	close(ended)
}
