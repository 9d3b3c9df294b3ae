package controllog

import (
	"crypto/sha256"
	"slices"
	"strconv"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// entry is a command on its way into the state.
type entry struct {
	command  *logv1.Command
	sequence int64
	value    [sha256.Size]byte
	size     int64
}

// expect refuses a command whose writer saw another revision. current is 0 for what does not exist.
func (e entry) expect(current int64) *Refusal {
	if want := e.command.GetExpectedRevision(); want != AnyRevision && want != current {
		return &Refusal{Err: ErrStaleRevision, Current: current}
	}
	return nil
}

func (f *Fold) putSource(e entry, m *automationv1.Source) *Refusal {
	name := m.GetName()
	if detail := malformed(m); detail != "" {
		return &Refusal{Err: ErrInvalid, Detail: detail}
	}
	old := f.cur.sources[name]
	if r := e.expect(old.revision()); r != nil {
		return r
	}
	if f.cur.bytes-old.weight()+e.size > MaxStateBytes {
		return &Refusal{Err: ErrFull, Detail: "sources and switches take too many bytes"}
	}
	if old == nil && len(f.cur.names) >= MaxSources {
		return &Refusal{Err: ErrFull, Detail: "too many sources"}
	}
	f.own()
	next := &source{message: m, created: e.sequence, size: e.size}
	m.State, m.CreateTime, m.UpdateTime = 0, e.command.GetAt(), e.command.GetAt()
	if old != nil {
		next.created, m.CreateTime = old.created, old.message.GetCreateTime()
		f.flip(old.digest)
	} else {
		at, _ := slices.BinarySearch(f.cur.names, name)
		f.cur.names = slices.Insert(f.cur.names, at, name)
	}
	m.Revision, m.Etag = e.sequence, strconv.FormatInt(e.sequence, 10)
	next.digest = digest('s', name, e.sequence, next.created, e.value)
	f.flip(next.digest)
	f.cur.bytes += e.size - old.weight()
	f.cur.sources[name] = next
	return nil
}

// malformed says why no reader may act on a source. The full rules are automation's; these are what readers rely on.
func malformed(m *automationv1.Source) string {
	switch {
	case !validName(m.GetName()):
		return "source has no valid name"
	case len(m.GetTypes()) == 0 || len(m.GetTypes()) > maxTypes:
		return "source needs 1 to 8 types"
	case !slices.ContainsFunc(m.GetTypes(), func(t string) bool { return !validName(t) }):
		return ""
	}
	return "source has an invalid type"
}

func (f *Fold) deleteSource(e entry, name string) *Refusal {
	old := f.cur.sources[name]
	if old == nil {
		return &Refusal{Err: ErrUnknownSource, Detail: name}
	}
	if r := e.expect(old.revision()); r != nil {
		return r
	}
	// Switches outlive the registration: a hold must not be shaken off by deleting and registering anew.
	f.own()
	at, _ := slices.BinarySearch(f.cur.names, name)
	f.cur.names = slices.Delete(f.cur.names, at, at+1)
	delete(f.cur.sources, name)
	f.flip(old.digest)
	f.cur.bytes -= old.size
	return nil
}

func (f *Fold) setSwitch(e entry, sw *automationv1.Switch) *Refusal {
	key, ok := scopeOf(sw.GetScope())
	if !ok {
		return &Refusal{Err: ErrInvalid, Detail: "switch has no valid scope"}
	}
	switch sw.GetVerb() {
	case automationv1.Verb_VERB_HOLD, automationv1.Verb_VERB_BLOCK:
	case automationv1.Verb_VERB_DEMOTE:
		if sw.GetTo() <= jobv1.Priority_PRIORITY_UNSPECIFIED {
			return &Refusal{Err: ErrInvalid, Detail: "demotion to no priority"}
		}
	default:
		return &Refusal{Err: ErrInvalid, Detail: "not a verb of a switch"}
	}
	if _, known := f.cur.sources[key.source]; key.kind != scopeTenant && !known {
		return &Refusal{Err: ErrUnknownSource, Detail: key.source}
	}
	return f.throw(e, key, sw)
}

// throw puts a switch in the place of the one on its scope.
func (f *Fold) throw(e entry, key scope, sw *automationv1.Switch) *Refusal {
	old := f.cur.switches[key]
	if r := e.expect(old.revision()); r != nil {
		return r
	}
	if f.cur.bytes-old.weight()+e.size > MaxStateBytes {
		return &Refusal{Err: ErrFull, Detail: "sources and switches take too many bytes"}
	}
	if old == nil && len(f.cur.order) >= MaxSwitches {
		return &Refusal{Err: ErrFull, Detail: "too many switches"}
	}
	f.own()
	if old != nil {
		f.flip(old.digest)
	} else {
		at, _ := slices.BinarySearchFunc(f.cur.order, key, scope.compare)
		f.cur.order = slices.Insert(f.cur.order, at, key)
	}
	sw.Sequence = e.sequence
	next := &thrown{message: sw, size: e.size}
	next.digest = digest('w', key.text(), e.sequence, 0, e.value)
	f.flip(next.digest)
	f.cur.bytes += e.size - old.weight()
	f.cur.switches[key] = next
	return nil
}

func (f *Fold) clearSwitch(e entry, c *logv1.ClearSwitch) *Refusal {
	key, ok := scopeOf(c.GetScope())
	if !ok {
		return &Refusal{Err: ErrInvalid, Detail: "no valid scope"}
	}
	if ramp := c.GetRampRate(); ramp != 0 {
		if !(ramp > 0) { // also refuses NaN
			return &Refusal{Err: ErrInvalid, Detail: "ramp_rate is not a rate"}
		}
		return f.throw(e, key, &automationv1.Switch{
			Scope: c.GetScope(), Verb: automationv1.Verb_VERB_RESUME, RampRate: ramp,
			Reason: e.command.GetReason(), Actor: e.command.GetActor(), At: e.command.GetAt(),
		})
	}
	old := f.cur.switches[key]
	if r := e.expect(old.revision()); r != nil {
		return r
	}
	if old == nil {
		return nil // ending what is not there is no error, so that a resume can be repeated
	}
	f.own()
	at, _ := slices.BinarySearchFunc(f.cur.order, key, scope.compare)
	f.cur.order = slices.Delete(f.cur.order, at, at+1)
	delete(f.cur.switches, key)
	f.flip(old.digest)
	f.cur.bytes -= old.size
	return nil
}

func (s *source) revision() int64 {
	if s == nil {
		return NoRevision
	}
	return s.message.GetRevision()
}

func (s *source) weight() int64 {
	if s == nil {
		return 0
	}
	return s.size
}

func (t *thrown) revision() int64 {
	if t == nil {
		return NoRevision
	}
	return t.message.GetSequence()
}

func (t *thrown) weight() int64 {
	if t == nil {
		return 0
	}
	return t.size
}
