// Package registry is automation's verb room: it writes what core decides to the control log, reads it back, and waits for the proof
// that it is in force. It keeps nothing of its own: the log is the state.
package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spillway/spillway/services/automation/internal/core"
)

const (
	// appendWithin bounds writing a record and reading it back: longer than a short stall of the broker, shorter than a person's patience. What
	// could not be read back by then is answered NOT_CONFIRMED.
	appendWithin = 3 * time.Second
	// races is how often a decision is made anew because somebody else was faster.
	races = 5
	// sweepEvery is how often switches are looked at whose time is over.
	sweepEvery = time.Second
	// keepExpired is how long a switch stays in the state after its time: owners go by their own clocks, and no clock is a day off.
	keepExpired = 24 * time.Hour
	// keepRamp is the same of a resume that asked for a rate: its ramp lasts minutes, and a script may throw thousands.
	keepRamp = time.Hour
	// system is the actor of what nobody asked for.
	system = "spillway"
)

// Room is safe for concurrent use.
type Room struct {
	control Control
	fleet   Fleet
	log     *slog.Logger
}

// New returns a room. It starts nothing.
func New(control Control, fleet Fleet, log *slog.Logger) *Room {
	return &Room{control: control, fleet: fleet, log: log}
}

// Run keeps the log tidy until ctx ends: it notes expired switches for the audit and removes them a day later.
func (r *Room) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.sweep(ctx, time.Now())
		}
	}
}

// sweep writes at most one record a switch and phase: the request id makes it once for all replicas.
func (r *Room) sweep(ctx context.Context, now time.Time) {
	if r.control.Ready() != nil {
		return
	}
	for _, s := range r.control.Switches() {
		if s.InForce(now) {
			continue
		}
		id := "expired-" + strconv.FormatInt(s.Sequence, 10)
		c := core.Change{RequestID: id, Actor: system, Reason: "its time is over", At: now, Expected: core.AnyRevision}
		if now.Sub(s.Until) >= keepExpired {
			c.RequestID, c.Clear, c.Expected = "removed-"+id, &core.Switch{Scope: s.Scope}, s.Sequence
		} else if _, noted := r.control.Requested(id); !noted {
			c.Note = &core.Expired{Scope: s.Scope, Sequence: s.Sequence}
		} else {
			continue
		}
		if _, _, err := r.append(ctx, c); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "expired switch was not noted", slog.Int64("sequence", s.Sequence), slog.Any("error", err))
			return // the log is away: the next tick tries again
		}
	}
	for _, s := range r.control.Ramps() { // each is over after minutes, and would keep its place in the state
		if now.Sub(s.At).Abs() < keepRamp { // one of a clock that is wrong has no ramp either
			continue
		}
		_, _, err := r.append(ctx, core.Change{
			RequestID: "removed-ramp-" + strconv.FormatInt(s.Sequence, 10), Actor: system, Reason: "its ramp is over", At: now,
			Clear: &core.Switch{Scope: s.Scope}, Expected: s.Sequence,
		})
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "a ramp that is over was not removed", slog.Int64("sequence", s.Sequence), slog.Any("error", err))
			return
		}
	}
}

// Source returns a source.
func (r *Room) Source(name string) (core.Source, error) {
	if r.control.Ready() != nil {
		return core.Source{}, core.NotRead()
	}
	s, ok := r.control.Source(name)
	if !ok {
		return core.Source{}, core.NoSource(name)
	}
	return s, nil
}

// Sources returns up to limit sources whose names have the prefix, by name, the first after a name.
func (r *Room) Sources(prefix, after string, limit int) ([]core.Source, error) {
	if r.control.Ready() != nil {
		return nil, core.NotRead()
	}
	return r.control.Sources(prefix, after, limit), nil
}

// Register registers a source. The same content again changes nothing and answers what is there.
func (r *Room) Register(ctx context.Context, want core.Source, req core.Request) (core.Source, error) {
	return r.put(ctx, want.Name, req, func(have *core.Source) (core.Source, bool, *core.Refusal) {
		return core.Register(have, want)
	})
}

// Update changes a source by edit, which gets a copy of what is there and is called again when somebody else was faster.
func (r *Room) Update(ctx context.Context, name, etag string, edit func(core.Source) (core.Source, error), req core.Request) (core.Source, error) {
	return r.put(ctx, name, req, func(have *core.Source) (core.Source, bool, *core.Refusal) {
		if have == nil {
			return core.Source{}, false, core.NoSource(name)
		}
		if refusal := have.Seen(etag); refusal != nil {
			if _, made := r.control.Requested(req.ID); made && req.ID != "" { // a retry of what made the etag stale
				return *have, false, nil
			}
			return core.Source{}, false, refusal
		}
		edited, err := edit(*have)
		if refusal := (*core.Refusal)(nil); errors.As(err, &refusal) {
			return core.Source{}, false, refusal
		}
		return core.Update(*have, edited)
	})
}

// put decides on what is there, writes, and decides again if the log says that something else was there.
func (r *Room) put(ctx context.Context, name string, req core.Request, decide func(have *core.Source) (core.Source, bool, *core.Refusal)) (core.Source, error) {
	for try := 1; ; try++ {
		if r.control.Ready() != nil {
			return core.Source{}, core.NotRead()
		}
		var have *core.Source
		c := core.Change{RequestID: requestID(req.ID), Actor: req.Actor, Reason: req.Reason, At: time.Now()}
		if s, ok := r.control.Source(name); ok {
			have, c.Expected = &s, s.Revision
		}
		next, write, refusal := decide(have)
		if refusal != nil {
			return core.Source{}, refusal
		}
		if !write || req.ValidateOnly {
			return next, nil
		}
		c.Put = &next
		sequence, _, err := r.append(ctx, c)
		if stale(err) && try < races {
			continue
		}
		if err != nil {
			return core.Source{}, err
		}
		r.settle(ctx, sequence)
		if s, ok := r.control.Source(name); ok {
			return s, nil
		}
		return core.Source{}, core.Stale("the source was deleted again", 0)
	}
}

// Delete removes a source that has no work waiting.
func (r *Room) Delete(ctx context.Context, name, etag string, req core.Request) error {
	for try := 1; ; try++ {
		have, err := r.Source(name)
		if err != nil {
			if _, made := r.control.Requested(req.ID); made && req.ID != "" {
				return nil
			}
			return err
		}
		if refusal := have.Seen(etag); refusal != nil {
			return refusal
		}
		waits := core.PreviewOf(core.Scope{Kind: core.OfSource, Source: name}, r.fleet.Backlogs(), 0)
		if waits.Jobs > 0 || waits.Bytes > 0 {
			return core.Backlogged(name, waits.Jobs, waits.Bytes)
		}
		if req.ValidateOnly {
			return nil
		}
		sequence, _, err := r.append(ctx, core.Change{
			RequestID: requestID(req.ID), Actor: req.Actor, Reason: req.Reason, At: time.Now(), Expected: have.Revision, Delete: name,
		})
		if stale(err) && try < races {
			continue
		}
		if err == nil {
			r.settle(ctx, sequence)
		}
		return err
	}
}

// Switches returns up to limit switches in force whose source or tenant has the prefix, the first after a scope. A zero scope is before
// all.
func (r *Room) Switches(prefix string, after core.Scope, limit int) ([]core.Switch, error) {
	if r.control.Ready() != nil {
		return nil, core.NotRead()
	}
	now := time.Now()
	var found []core.Switch
	for _, s := range r.control.Switches() {
		if len(found) == limit {
			break
		}
		named := strings.HasPrefix(s.Scope.Source, prefix) && s.Scope.Kind != core.OfTenant ||
			strings.HasPrefix(s.Scope.Tenant, prefix) && s.Scope.Kind != core.OfSource
		if named && s.InForce(now) && s.Scope.Compare(after) > 0 {
			found = append(found, s)
		}
	}
	return found, nil
}

// Throw carries out an order and proves it.
func (r *Room) Throw(ctx context.Context, o core.Order) (core.Thrown, error) {
	arrived := time.Now()
	if refusal := o.Validate(); refusal != nil {
		return core.Thrown{}, refusal
	}
	if r.control.Ready() != nil {
		return core.Thrown{}, core.NotRead()
	}
	standing, stands := r.control.Switch(o.Scope)
	if _, known := r.control.Source(o.Scope.Source); !known && o.Scope.Kind != core.OfTenant && (o.Verb != core.Resume || !stands && r.ramp(o.Scope) == nil) {
		return core.Thrown{}, core.NoSource(o.Scope.Source)
	}
	t := core.Thrown{Preview: core.PreviewOf(o.Scope, r.fleet.Backlogs(), standing.Sequence)}
	if o.ValidateOnly {
		return t, nil
	}
	if o.PreviewEtag != "" && o.PreviewEtag != t.Preview.Etag {
		return core.Thrown{}, &core.Refusal{Reason: core.StalePreview, Message: "what the switch touches has changed since the preview"}
	}
	s := o.Switch(arrived)
	c := core.Change{RequestID: requestID(o.RequestID), Actor: o.Actor, Reason: o.Reason, At: arrived, Expected: core.AnyRevision}
	if o.Verb == core.Resume {
		c.Clear = &s
	} else {
		c.Throw = &s
	}
	sequence, repeated, err := r.append(ctx, c)
	if err != nil {
		return core.Thrown{}, err
	}
	s.Sequence = sequence
	if repeated {
		if s, err = r.again(s); err != nil {
			return core.Thrown{}, err
		}
	}
	t.Switch = s
	t.Proof, err = r.prove(ctx, sequence, o.Verb)
	t.Proof.Took = time.Since(arrived)
	t.Preview.Running = t.Proof.Running
	r.log.InfoContext(ctx, "switch", slog.String("verb", o.Verb.String()), slog.String("source", o.Scope.Source), slog.String("tenant", o.Scope.Tenant),
		slog.String("actor", o.Actor), slog.Int64("sequence", sequence), slog.Duration("took", t.Proof.Took),
		slog.Int("acks", len(t.Proof.Acks)), slog.Any("silent", t.Proof.Silent), slog.Bool("proven", err == nil))
	if err != nil {
		return core.Thrown{}, err
	}
	return t, nil
}

// again finds the switch that a repeated request had thrown. If something else is there now, answering OK would be a lie about the present.
func (r *Room) again(s core.Switch) (core.Switch, error) {
	now, stands := r.control.Switch(s.Scope)
	switch ramp := r.ramp(s.Scope); {
	case s.Verb == core.Resume && ramp != nil && ramp.Sequence == s.Sequence:
		return *ramp, nil
	case s.Verb == core.Resume && ramp != nil:
		return core.Switch{}, core.Stale("the request was carried out before, and another resume has come since", ramp.Sequence)
	case s.Verb == core.Resume && !stands:
		return s, nil
	case s.Verb != core.Resume && stands && now.Sequence == s.Sequence:
		return now, nil
	}
	return core.Switch{}, core.Stale("the request was carried out before, and another switch has come since", now.Sequence)
}

// ramp is the resume with a rate on exactly a scope, also when its ramp is over; nil: there is none.
func (r *Room) ramp(on core.Scope) *core.Switch {
	all := r.control.Ramps()
	if i := slices.IndexFunc(all, func(s core.Switch) bool { return s.Scope == on }); i >= 0 {
		return &all[i]
	}
	return nil
}

// prove waits until a change is in force everywhere. It takes at most core.GrantsEnd.
func (r *Room) prove(ctx context.Context, sequence int64, verb core.Verb) (core.Proof, error) {
	ledger := core.NewLedger(sequence, verb, time.Now())
	for {
		changed := r.fleet.Changed()
		proof, done, again, refusal := ledger.Prove(time.Now(), r.fleet.View())
		if refusal != nil {
			refusal.Metadata["sequence"] = strconv.FormatInt(sequence, 10)
			return core.Proof{}, refusal
		}
		if done {
			return proof, nil
		}
		timer := time.NewTimer(time.Until(again))
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			refusal := core.NotReadBack()
			refusal.Metadata = map[string]string{"sequence": strconv.FormatInt(sequence, 10)}
			return core.Proof{}, refusal
		}
		timer.Stop()
	}
}

// settle gives everybody the time to act on a change of the registry, so that whoever has the answer can rely on it. Nobody's silence
// undoes the change.
func (r *Room) settle(ctx context.Context, sequence int64) { _, _ = r.prove(ctx, sequence, 0) }

// append writes a change and reads it back, within the time that callers wait.
func (r *Room) append(ctx context.Context, c core.Change) (int64, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, appendWithin)
	defer cancel()
	return r.control.Append(ctx, c)
}

func stale(err error) bool {
	refusal := (*core.Refusal)(nil)
	return errors.As(err, &refusal) && refusal.Reason == core.StaleRevision
}

// requestID makes an id for a caller that has none: then the producer's own retries are still recognised.
func requestID(id string) string {
	if id != "" {
		return id
	}
	return rand.Text()
}
