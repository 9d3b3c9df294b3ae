package client

import (
	"context"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// Parent is the job whose handler is running. pkg/worker puts it into the handler's context.
type Parent struct {
	// JobID and Source are the running job's.
	JobID, Source string
	// Priority is the running job's; a child is never more urgent (a callback that outranks its parents starves them).
	Priority Priority
	// Depth is the number of jobs between it and the first of its chain.
	Depth int32
}

type parentKey struct{}

// WithParent returns a context in which enqueued jobs are children of p.
func WithParent(ctx context.Context, p Parent) context.Context {
	return context.WithValue(ctx, parentKey{}, &p)
}

// ParentFrom returns the job whose handler the context belongs to; ok is false outside of handlers.
func ParentFrom(ctx context.Context) (p Parent, ok bool) {
	v, ok := ctx.Value(parentKey{}).(*Parent)
	if !ok {
		return Parent{}, false
	}
	return *v, true
}

// bequeath gives a child what it inherits.
func (p *Parent) bequeath(s *jobv1.JobSpec) {
	if s.Source == "" {
		s.Source = p.Source
	}
	own := jobv1.Priority(p.Priority)
	if own != jobv1.Priority_PRIORITY_UNSPECIFIED && (s.Priority == jobv1.Priority_PRIORITY_UNSPECIFIED || s.Priority > own) {
		s.Priority = own
	}
	s.ParentJobId, s.Depth = p.JobID, p.Depth+1
}
