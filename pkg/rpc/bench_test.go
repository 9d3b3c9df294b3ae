package rpc_test

import (
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spillway/spillway/pkg/rpc"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

// What the chain costs a call on the hot path: a token seen before, an ordinary job, and a frame of 16 results.
func BenchmarkChain(b *testing.B) {
	b.Run("verify", func(b *testing.B) {
		s := signer(b)
		v, token := verifier(b, s), sign(b, s, rpc.Claims{Roles: []rpc.Role{rpc.RoleEnqueue}})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(token, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
	validator, err := protovalidate.New()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("validate job", func(b *testing.B) {
		req := &enqueuev1.EnqueueRequest{Job: &jobv1.JobSpec{Source: "crm-autotag", Tenant: "t1", Type: "tag", Payload: make([]byte, 256),
			IdempotencyKey: "019cb73d-3271-7005-af92-36021a0b95d7"}}
		b.ReportAllocs()
		for b.Loop() {
			if err := validator.Validate(req); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("validate frame", func(b *testing.B) {
		frame := &schedulerv1.WorkRequest{}
		for i := range 16 {
			frame.Results = append(frame.Results, &schedulerv1.Result{
				JobId: "019cb73d-3271-7005-af92-36021a0b95d7", Token: &jobv1.Token{Shard: 1, Epoch: 2, Counter: int64(i)},
				Kind: schedulerv1.ResultKind_RESULT_KIND_SUCCESS, Ran: durationpb.New(time.Second)})
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := validator.Validate(frame); err != nil {
				b.Fatal(err)
			}
		}
	})
}
