package automation

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/controllog"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/automation/internal/api"
	"github.com/spillway/spillway/services/automation/internal/core"
)

// control is the control log in core's words: registry.Control.
type control struct {
	follower *controllog.Follower
	writer   *controllog.Writer
}

func (c control) Ready() error {
	select {
	case <-c.follower.Folded():
		return c.follower.Ready()
	default:
		return errors.New("control log is not folded yet")
	}
}

func (c control) Source(name string) (core.Source, bool) {
	state := c.follower.State()
	m, ok := state.Source(name)
	if !ok {
		return core.Source{}, false
	}
	return source(state, m, time.Now()), true
}

func source(state *controllog.State, m *automationv1.Source, now time.Time) core.Source {
	s := api.FromSource(m)
	s.State = core.Active
	if sw, ok := state.Switch(api.ToScope(core.Scope{Kind: core.OfSource, Source: s.Name})); ok {
		s.State = core.StateOf(api.FromSwitch(sw), now)
	}
	return s
}

func (c control) Sources(prefix, after string, limit int) []core.Source {
	state, now := c.follower.State(), time.Now()
	var list []core.Source
	for m := range state.Sources() {
		if len(list) == limit {
			break
		}
		if m.GetName() > after && strings.HasPrefix(m.GetName(), prefix) {
			list = append(list, source(state, m, now))
		}
	}
	return list
}

func (c control) Switch(scope core.Scope) (core.Switch, bool) {
	m, ok := c.follower.State().Switch(api.ToScope(scope))
	return api.FromSwitch(m), ok
}

func (c control) Switches() []core.Switch {
	return fromSwitches(c.follower.State().Switches())
}

func (c control) Ramps() []core.Switch { return fromSwitches(c.follower.State().Ramps()) }

func fromSwitches(all []*automationv1.Switch) []core.Switch {
	list := make([]core.Switch, len(all))
	for i, m := range all {
		list[i] = api.FromSwitch(m)
	}
	return list
}

func (c control) Requested(id string) (int64, bool) { return c.follower.Requested(id) }

// Append writes a change as a command and translates what the fold or the log has against it.
func (c control) Append(ctx context.Context, change core.Change) (sequence int64, repeated bool, err error) {
	sequence, err = c.writer.Append(ctx, command(change))
	if err == nil {
		return sequence, false, nil
	}
	refused := (*controllog.Refusal)(nil)
	if !errors.As(err, &refused) {
		if errors.Is(err, controllog.ErrUnavailable) {
			return 0, false, core.NotWritten()
		}
		return 0, false, core.NotReadBack()
	}
	switch refused.Err {
	case controllog.ErrRepeated:
		return refused.Current, true, nil
	case controllog.ErrConflict:
		return 0, false, &core.Refusal{Reason: core.Conflict, Message: "the request_id was used for another change"}
	case controllog.ErrStaleRevision:
		return 0, false, core.Stale("somebody else has changed it meanwhile", refused.Current)
	case controllog.ErrUnknownSource:
		return 0, false, core.NoSource(refused.Detail)
	case controllog.ErrFull:
		return 0, false, &core.Refusal{Reason: core.Full, Message: "the registry is full: " + refused.Detail}
	}
	return 0, false, &core.Refusal{Reason: core.Invalid, Message: "the control log refuses the change: " + refused.Detail}
}

func command(c core.Change) *logv1.Command {
	m := &logv1.Command{
		RequestId: c.RequestID, Actor: c.Actor, Reason: c.Reason, At: timestamppb.New(c.At), ExpectedRevision: c.Expected,
	}
	switch {
	case c.Put != nil:
		s := api.ToSource(*c.Put)
		// What automation says of a source follows from the log, it is not in it.
		s.Revision, s.Etag, s.State, s.CreateTime, s.UpdateTime = 0, "", 0, nil, nil
		m.Act = &logv1.Command_PutSource{PutSource: &logv1.PutSource{Source: s}}
	case c.Delete != "":
		m.Act = &logv1.Command_DeleteSource{DeleteSource: &logv1.DeleteSource{Name: c.Delete}}
	case c.Throw != nil:
		m.Act = &logv1.Command_SetSwitch{SetSwitch: &logv1.SetSwitch{Switch: api.ToSwitch(*c.Throw)}}
	case c.Clear != nil:
		m.Act = &logv1.Command_ClearSwitch{ClearSwitch: &logv1.ClearSwitch{Scope: api.ToScope(c.Clear.Scope), RampRate: c.Clear.Ramp}}
	case c.Note != nil:
		m.Act = &logv1.Command_Observed{Observed: &logv1.Observed{What: "expired", Scope: api.ToScope(c.Note.Scope), Sequence: c.Note.Sequence}}
	}
	return m
}
