package core

// Every is the tenant of a mark that holds for all tenants.
const Every = "*"

// Mark says that a flow, or all of a (source, type), writes to a lane.
type Mark struct {
	// Tenant is Every for all.
	Tenant string
	Type   string
	// Lane is the partition of the spill topic; Common says that it is the lane of last resort.
	Lane   int32
	Common bool
	// Jobs and Bytes wait in the lane.
	Jobs, Bytes int64
}

// Marks is what spills of one source. It is immutable once built.
type Marks struct {
	// Jobs and Bytes wait in all its lanes together, as last reported.
	Jobs, Bytes int64
	// Common says that some of it is in the common lane, because no other was free.
	Common bool
	types  map[string]typeMarks
}

type typeMarks struct {
	lane    int32 // of the (source, type); it holds one (source, type) and so do all marks of it
	every   bool
	tenants map[string]struct{}
}

// NewMarks digests the marks of one source. Marks of several tenants that share a lane report the same backlog: it is counted once.
func NewMarks(marks []Mark) *Marks {
	m := &Marks{types: make(map[string]typeMarks, 1)}
	type load struct{ jobs, bytes int64 }
	lanes := make(map[int32]load, 1)
	for _, mark := range marks {
		lanes[mark.Lane] = load{max(lanes[mark.Lane].jobs, mark.Jobs), max(lanes[mark.Lane].bytes, mark.Bytes)}
		if mark.Common {
			m.Common = true
			continue
		}
		t, ok := m.types[mark.Type]
		if !ok {
			t.tenants = make(map[string]struct{}, 1)
		}
		t.lane = mark.Lane
		if mark.Tenant == Every {
			t.every = true
		} else {
			t.tenants[mark.Tenant] = struct{}{}
		}
		m.types[mark.Type] = t
	}
	for _, l := range lanes {
		m.Jobs += l.jobs
		m.Bytes += l.bytes
	}
	return m
}

// lane returns the lane that a job of the tenant and type must go to. over asks for the lane even when only other tenants spill: there is one,
// and its pace is the source's quota.
func (m *Marks) lane(tenant, typ string, over bool) (int32, bool) {
	if m == nil {
		return NoLane, false
	}
	t, ok := m.types[typ]
	if !ok {
		return NoLane, false
	}
	if _, marked := t.tenants[tenant]; !marked && !t.every && !over {
		return NoLane, false
	}
	return t.lane, true
}
