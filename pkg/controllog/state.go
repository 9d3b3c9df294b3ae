package controllog

import (
	"crypto/sha256"
	"iter"
	"time"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// State is what a prefix of the control log says. It never changes and may be shared between goroutines; so may the messages that it
// returns, which nobody may write to.
type State struct {
	sequence int64
	tail     [sha256.Size]byte // of the value of the last record; what a writer of the next one has read
	config   *logv1.ClusterConfig
	sources  map[string]*source
	names    []string // of sources, sorted
	switches map[scope]*thrown
	order    []scope // of switches, sorted
	bytes    int64   // of the commands that made the live sources and switches: ≤ MaxStateBytes

	// hash is the XOR of the digests of all live entries, so that a change costs one digest and not a walk. It guards against
	// readers that differ, not against forgers: those do not have the MAC key.
	hash [sha256.Size]byte
}

// source is a live registration.
type source struct {
	message *automationv1.Source
	created int64 // sequence of the registration; revision is in message
	digest  [sha256.Size]byte
	size    int64
}

// thrown is a switch in the state, or the resume that ended one and asked for a ramp.
type thrown struct {
	message *automationv1.Switch
	digest  [sha256.Size]byte
	size    int64
}

// Sequence is the offset of the last folded record, -1 when nothing was folded.
func (s *State) Sequence() int64 { return s.sequence }

// Hash identifies the state, 32 bytes: equal at the same sequence in every replica. It is made from the accepted commands as they lie in the log and
// from their revisions, not from messages marshalled again, whose bytes may differ between builds.
func (s *State) Hash() []byte {
	sum := sha256.Sum256(append([]byte("spillway control state 1\x00"), s.hash[:]...))
	return sum[:]
}

// Config is the first record of the log; nil before it was folded.
func (s *State) Config() *logv1.ClusterConfig { return s.config }

// Source returns a registered source with revision, etag, create_time and update_time. Its state field is not set: that depends on
// the clock, see Effective.
func (s *State) Source(name string) (*automationv1.Source, bool) {
	if src, ok := s.sources[name]; ok {
		return src.message, true
	}
	return nil, false
}

// Sources goes over all sources by name.
func (s *State) Sources() iter.Seq[*automationv1.Source] {
	return func(yield func(*automationv1.Source) bool) {
		for _, name := range s.names {
			if !yield(s.sources[name].message) {
				return
			}
		}
	}
}

// Len is the number of registered sources.
func (s *State) Len() int { return len(s.names) }

// Switches returns the switches that nobody has ended, by scope: sources, tenants, flows. Those whose time is over are among them
// until another takes their place or somebody clears them; [InForce] tells.
func (s *State) Switches() []*automationv1.Switch {
	all := make([]*automationv1.Switch, 0, len(s.order))
	for _, key := range s.order {
		if m := s.switches[key].message; m.GetVerb() != automationv1.Verb_VERB_RESUME {
			all = append(all, m)
		}
	}
	return all
}

// Ramps returns the resumes that asked for a rate to come back with, by scope as [State.Switches] has it, each the last act on its scope. How long a
// ramp lasts is the scheduler's to know.
func (s *State) Ramps() []*automationv1.Switch {
	var all []*automationv1.Switch
	for _, key := range s.order {
		if m := s.switches[key].message; m.GetVerb() == automationv1.Verb_VERB_RESUME {
			all = append(all, m)
		}
	}
	return all
}

// Switch returns the switch on exactly this scope, whether its time is over or not.
func (s *State) Switch(on *automationv1.Scope) (*automationv1.Switch, bool) {
	key, ok := scopeOf(on)
	if !ok {
		return nil, false
	}
	t, ok := s.switches[key]
	if !ok || t.message.GetVerb() == automationv1.Verb_VERB_RESUME {
		return nil, false
	}
	return t.message, true
}

// InForce reports whether the time of a switch is not over.
func InForce(sw *automationv1.Switch, now time.Time) bool {
	return sw.GetUntil() == nil || now.Before(sw.GetUntil().AsTime())
}

// Effect is what the switches make of a flow at a time.
type Effect struct {
	// Held: nothing starts. Also set when Blocked is.
	Held bool
	// Blocked: nothing is accepted either.
	Blocked bool
	// Demote is the ceiling of the flow's priority; PRIORITY_UNSPECIFIED: none.
	Demote jobv1.Priority
	// Switch is the one that decides: the strictest. Nil when no switch is in force.
	Switch *automationv1.Switch
	// Until is when the answer may change without a new record: the earliest end of a switch in force. Zero: never.
	Until time.Time
}

// Effective returns what the switches on the source, on the tenant and on the flow make of a flow. Where they overlap the strictest wins: block,
// hold, the lowest demotion. It costs three look-ups and allocates nothing.
func (s *State) Effective(sourceName, tenant string, now time.Time) Effect {
	var e Effect
	if len(s.switches) == 0 {
		return e
	}
	s.effect(&e, scope{scopeSource, sourceName, ""}, now)
	s.effect(&e, scope{scopeFlow, sourceName, tenant}, now)
	if tenant != "" {
		s.effect(&e, scope{scopeTenant, "", tenant}, now)
	}
	return e
}

func (s *State) effect(e *Effect, key scope, now time.Time) {
	t, ok := s.switches[key]
	if !ok || !InForce(t.message, now) {
		return
	}
	sw := t.message // a resume changes nothing here
	if sw.GetUntil() != nil {
		if until := sw.GetUntil().AsTime(); e.Until.IsZero() || until.Before(e.Until) {
			e.Until = until
		}
	}
	switch sw.GetVerb() {
	case automationv1.Verb_VERB_BLOCK:
		if !e.Blocked {
			e.Held, e.Blocked, e.Switch = true, true, sw
		}
	case automationv1.Verb_VERB_HOLD:
		if !e.Held {
			e.Held, e.Switch = true, sw
		}
	case automationv1.Verb_VERB_DEMOTE:
		if e.Demote == jobv1.Priority_PRIORITY_UNSPECIFIED || sw.GetTo() < e.Demote {
			e.Demote = sw.GetTo()
			if !e.Held {
				e.Switch = sw
			}
		}
	}
}
