// Package api speaks spillway.enqueue.v1: it turns requests into jobs of the core, and what became of them into responses and statuses.
//
// A job of a batch is judged on its own, so a bad one harms no other: that is why the fields of its items are checked here, by core.Check, and
// not by the validator that every request passes before it comes here.
package api

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/receive"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

// maxBatchBytes is the contract's bound of a batch. It is below the largest message that the server takes, so that the refusal can say why.
const maxBatchBytes = 3 << 20

// atOnce is how many requests of a method are received at the same time: of batches 4 × 4 MiB, twice for the message and its bytes: a quarter of the smallest process;
// of single jobs, apart, so that none waits behind batches, 32 × 256 KiB of the largest that is accepted.
func atOnce(method string) int {
	if method == "EnqueueBatch" {
		return 4
	}
	return 32
}

// Publisher makes jobs durable. Publish returns a result for each job, in order, once its fate is known or ctx has ended; jobs that failed
// core.Check never get there. It calls judged when it holds no job's Record any more, before it waits for the log.
type Publisher interface {
	Publish(ctx context.Context, caller core.Caller, jobs []core.Job, judged func()) []core.Result
}

// Handler is the EnqueueService.
type Handler struct {
	enqueuev1.UnimplementedEnqueueServiceServer
	publisher Publisher
}

// Roles names the role that every method needs.
func Roles() map[string]rpc.Role {
	return map[string]rpc.Role{
		enqueuev1.EnqueueService_Enqueue_FullMethodName:      rpc.RoleEnqueue,
		enqueuev1.EnqueueService_EnqueueBatch_FullMethodName: rpc.RoleEnqueue,
	}
}

// Register adds the service to the server.
func Register(s grpc.ServiceRegistrar, p Publisher) {
	s.RegisterService(receive.Bounded(enqueuev1.EnqueueService_ServiceDesc, atOnce), &Handler{publisher: p})
}

// Enqueue accepts one job.
func (h *Handler) Enqueue(ctx context.Context, req *enqueuev1.EnqueueRequest) (*enqueuev1.EnqueueResponse, error) {
	job, refusal := fromSpec(req.GetJob())
	if refusal != nil {
		return nil, failure(req.GetJob().GetSource(), refusal)
	}
	job.Bytes += callBytes
	req.Job = nil // the job's Record holds it, for no longer than it is needed
	r := h.publisher.Publish(ctx, caller(ctx), []core.Job{job}, func() { receive.Judged(ctx) })[0]
	if r.Refusal != nil {
		return nil, failure(job.Source, r.Refusal)
	}
	return response(&r), nil
}

// EnqueueBatch accepts several jobs, each on its own.
func (h *Handler) EnqueueBatch(ctx context.Context, req *enqueuev1.EnqueueBatchRequest) (*enqueuev1.EnqueueBatchResponse, error) {
	if size := proto.Size(req); size > maxBatchBytes {
		return nil, failure("", &core.Refusal{
			Reason: core.Invalid, Message: "the batch is too large",
			Violations: []core.Violation{{Field: "jobs", Description: fmt.Sprintf("have %d bytes, at most %d are allowed", size, maxBatchBytes)}},
		})
	}
	items := make([]*enqueuev1.EnqueueBatchResponse_Item, len(req.GetJobs()))
	jobs := make([]core.Job, 0, len(items))
	places := make([]int, 0, len(items)) // of jobs in items
	for i, spec := range req.GetJobs() {
		job, refusal := fromSpec(spec)
		if refusal != nil {
			items[i] = itemError(spec.GetSource(), refusal)
			continue
		}
		jobs, places = append(jobs, job), append(places, i)
	}
	// From here on only the jobs' Records hold the specs: what is refused, and what is encoded, is garbage while the rest waits for the log. Else
	// a batch of which one job is accepted would hold its 3 MiB for the price of that one.
	req.Jobs = nil
	if len(jobs) > 0 {
		jobs[0].Bytes += callBytes
		for n, r := range h.publisher.Publish(ctx, caller(ctx), jobs, func() { receive.Judged(ctx) }) {
			if i := places[n]; r.Refusal != nil {
				items[i] = itemError(jobs[n].Source, r.Refusal)
			} else {
				items[i] = &enqueuev1.EnqueueBatchResponse_Item{Result: &enqueuev1.EnqueueBatchResponse_Item_Ok{Ok: response(&r)}}
			}
		}
	}
	return &enqueuev1.EnqueueBatchResponse{Items: items}, nil
}

func caller(ctx context.Context) core.Caller {
	c, ok := rpc.CallerFrom(ctx)
	if !ok { // a server without authorisation in front: nobody's principal, and of no source
		return core.Caller{Sources: []string{}}
	}
	return core.Caller{Subject: c.Subject, Sources: c.Sources, Types: c.Types}
}
