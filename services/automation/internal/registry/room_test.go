package registry

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spillway/spillway/services/automation/internal/core"
)

// log is a control log in memory: a Control that accepts everything once a request id.
type log struct {
	mu       sync.Mutex
	switches []core.Switch
	ramps    []core.Switch
	changes  []core.Change
	away     error
}

func (l *log) Ready() error { return nil }
func (l *log) Source(name string) (core.Source, bool) {
	return core.Source{Name: name, Revision: 1}, true
}
func (l *log) Sources(string, string, int) []core.Source { return nil }
func (l *log) Switch(core.Scope) (core.Switch, bool)     { return core.Switch{}, false }
func (l *log) Switches() []core.Switch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.switches
}

func (l *log) Ramps() []core.Switch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ramps
}

func (l *log) Requested(id string) (sequence int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.find(id)
}

func (l *log) find(id string) (sequence int64, ok bool) {
	for i, c := range l.changes {
		if c.RequestID == id {
			return int64(i), true
		}
	}
	return 0, false
}

func (l *log) Append(_ context.Context, c core.Change) (int64, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil {
		return 0, false, l.away
	}
	if at, ok := l.find(c.RequestID); ok {
		return at, true, nil
	}
	l.changes = append(l.changes, c)
	if c.Clear != nil {
		l.switches, l.ramps = nil, nil
	}
	return int64(len(l.changes) - 1), false, nil
}

// fail breaks the log, or mends it with nil.
func (l *log) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = err
}

// written is a copy of the changes so far.
func (l *log) written() []core.Change {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.changes)
}

// alone is a fleet of nobody.
type alone struct{ changed chan struct{} }

func (a alone) View() core.View          { return core.View{} }
func (a alone) Changed() <-chan struct{} { return a.changed }
func (a alone) Backlogs() []core.Backlog { return nil }

// TestExpiredIsNotedOnceAndRemovedLater: owners go by their own clocks, so the record of an expiry is for the audit; a day later the
// switch leaves the state.
func TestExpiredIsNotedOnceAndRemovedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope := core.Scope{Kind: core.OfSource, Source: "crm"}
		l := &log{switches: []core.Switch{
			{Scope: scope, Verb: core.Hold, Until: time.Now().Add(time.Minute), Sequence: 41},
		}}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- New(l, alone{}, slog.New(slog.DiscardHandler)).Run(ctx) }()
		time.Sleep(59 * time.Second)
		if got := l.written(); len(got) > 0 {
			t.Fatalf("noted too early: %+v", got)
		}
		l.fail(errors.New("away"))
		time.Sleep(3 * time.Second)
		l.fail(nil)
		time.Sleep(time.Hour)
		if got := l.written(); len(got) != 1 || got[0].Note == nil || got[0].Note.Sequence != 41 || got[0].Actor != system {
			t.Fatalf("got %+v", got)
		}
		time.Sleep(24 * time.Hour)
		if got := l.written(); len(got) != 2 || got[1].Clear == nil || got[1].Expected != 41 {
			t.Fatalf("got %+v", got)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestRampIsRemovedLater: a ramp is over after minutes; an hour later it leaves the state, or it would keep a place there for ever.
func TestRampIsRemovedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{ramps: []core.Switch{{Scope: core.Scope{Kind: core.OfSource, Source: "crm"}, Verb: core.Resume, Ramp: 10, At: time.Now(), Sequence: 41}}}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- New(l, alone{}, slog.New(slog.DiscardHandler)).Run(ctx) }()
		time.Sleep(keepRamp - time.Second)
		if got := l.written(); len(got) > 0 {
			t.Fatalf("removed too early: %+v", got)
		}
		time.Sleep(time.Hour)
		if got := l.written(); len(got) != 1 || got[0].Clear == nil || got[0].Clear.Ramp != 0 || got[0].Expected != 41 || got[0].Actor != system {
			t.Fatalf("got %+v", got)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestRepeatedResume: a repeated request answers with the ramp that is there, and not at all when another resume has come since.
func TestRepeatedResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		room := New(l, alone{}, slog.New(slog.DiscardHandler))
		order := core.Order{Scope: core.Scope{Kind: core.OfSource, Source: "crm"}, Verb: core.Resume, Reason: "r", RequestID: "x", Ramp: 10}
		first, err := room.Throw(t.Context(), order)
		if err != nil {
			t.Fatal(err)
		}
		l.ramps = []core.Switch{{Scope: order.Scope, Verb: core.Resume, Ramp: 10, Sequence: first.Switch.Sequence}}
		order.Ramp = 500
		if again, err := room.Throw(t.Context(), order); err != nil || again.Switch.Ramp != 10 {
			t.Errorf("repeated: %+v, %v", again.Switch, err)
		}
		l.ramps[0].Sequence++
		_, err = room.Throw(t.Context(), order)
		if refusal := (*core.Refusal)(nil); !errors.As(err, &refusal) || refusal.Reason != core.StaleRevision {
			t.Errorf("repeated when another has come: %v", err)
		}
	})
}

// TestProofNeedsTime: with no view of the others a switch is proven when no scheduler can grant any more, and not earlier; a caller that
// leaves earlier gets no proof.
func TestProofNeedsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room := New(&log{}, alone{}, slog.New(slog.DiscardHandler))
		order := core.Order{Scope: core.Scope{Kind: core.OfSource, Source: "crm"}, Verb: core.Hold, Reason: "r"}
		thrown, err := room.Throw(t.Context(), order)
		if err != nil || thrown.Proof.Took != core.GrantsEnd {
			t.Errorf("took %v, %v", thrown.Proof.Took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), core.GrantsEnd/2)
		defer cancel()
		_, err = room.Throw(ctx, order)
		if refusal := (*core.Refusal)(nil); !errors.As(err, &refusal) || refusal.Reason != core.Unconfirmed {
			t.Errorf("got %v", err)
		}
	})
}
