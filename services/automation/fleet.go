package automation

import (
	"github.com/spillway/spillway/pkg/status"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/automation/internal/core"
)

// fleet is status in core's words: registry.Fleet.
type fleet struct {
	reader *status.Reader
	self   string
}

func (f fleet) Changed() <-chan struct{} { return f.reader.Changed() }

func (f fleet) View() core.View {
	since, unbroken := f.reader.Since()
	v := core.View{Self: f.self, Since: since, Broken: !unbroken}
	for _, r := range f.reader.Live(logv1.ReplicaKind_REPLICA_KIND_UNSPECIFIED) {
		if service, ok := serviceOf[r.Kind]; ok {
			v.Replicas = append(v.Replicas, core.Replica{
				Name: r.Replica, Service: service, Applied: r.AppliedSequence, Running: r.HeldRunning, Seen: r.Seen,
			})
		}
	}
	return v
}

// serviceOf are the services that act on switches. The notifier does not.
var serviceOf = map[logv1.ReplicaKind]core.Service{
	logv1.ReplicaKind_REPLICA_KIND_SCHEDULER:  core.Scheduler,
	logv1.ReplicaKind_REPLICA_KIND_ENQUEUE:    core.Enqueue,
	logv1.ReplicaKind_REPLICA_KIND_AUTOMATION: core.Automation,
}

func (f fleet) Backlogs() []core.Backlog {
	marks := f.reader.Marks()
	list := make([]core.Backlog, 0, len(marks))
	for _, m := range marks {
		list = append(list, core.Backlog{Source: m.GetSource(), Tenant: m.GetTenant(), Type: m.GetType(), Jobs: m.GetBacklogJobs(), Bytes: m.GetBacklogBytes()})
	}
	return list
}
