package publish

import (
	"time"

	"github.com/spillway/spillway/pkg/controllog"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// defaultPublishRate is that of a source without a quota, in notifications per second; automation gives new sources the same.
const defaultPublishRate = 20_000

// view is a core.View of the latest control state. It remembers sources in the form of the core by the message they were made of, which the fold
// never changes, so a source is read once for each of its revisions. The room's mutex guards it.
type view struct {
	state    *controllog.State
	replicas int
	known    map[string]reading
}

type reading struct {
	message *automationv1.Source
	source  *core.Source
}

// slack is how many more readings than sources are kept before the old ones are dropped.
const slack = 64

// refresh takes the latest state.
func (v *view) refresh(state *controllog.State, replicas int) {
	v.state, v.replicas = state, replicas
	if len(v.known) > state.Len()+slack {
		clear(v.known)
	}
}

// Source implements core.View.
func (v *view) Source(name string) *core.Source {
	message, ok := v.state.Source(name)
	if !ok {
		return nil
	}
	if r := v.known[name]; r.message == message {
		return r.source
	}
	source := &core.Source{Principals: message.GetPrincipals(), PublishRate: defaultPublishRate}
	if q := message.GetQuota(); q != nil { // of a quota that is given, an absent field is no limit
		source.PublishRate = q.GetPublishRate()
	}
	v.known[name] = reading{message, source}
	return source
}

// Effect implements core.View.
func (v *view) Effect(source, tenant string, now time.Time) core.Effect {
	e := v.state.Effective(source, tenant, now)
	if !e.Blocked {
		return core.Effect{}
	}
	out := core.Effect{Blocked: true, Actor: e.Switch.GetActor(), Why: e.Switch.GetReason()}
	if until := e.Switch.GetUntil(); until != nil {
		out.Until = until.AsTime()
	}
	return out
}

// Replicas implements core.View.
func (v *view) Replicas() int { return v.replicas }
