package envelope

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// TestGoldenRecords holds the values of outcomes and control (formats 3 and 4): what is in a log for ever must mean the same for ever. A field
// that is added changes no line; a line that changes is a broken format.
func TestGoldenRecords(t *testing.T) {
	at := func(second int64) *timestamppb.Timestamp { return timestamppb.New(time.Unix(1_600_000_000+second, 5)) }
	token := &jobv1.Token{Shard: 3, Epoch: 70, Counter: 9}
	flow := &automationv1.Scope{Scope: &automationv1.Scope_Flow{Flow: &automationv1.Flow{Source: "crm", Tenant: "t1"}}}
	const job = "01890a5d-ac96-7003-8abc-0123456789ab"
	records := []struct {
		name string
		m    proto.Message
	}{
		{"fence", &logv1.JobEvent{Event: &logv1.JobEvent_Fence{Fence: &logv1.OwnerFence{Replica: "scheduler-0-1a2b", At: at(1)}}}},
		{"attempt", &logv1.JobEvent{Epoch: 70, Event: &logv1.JobEvent_Attempt{Attempt: &logv1.AttemptFailed{
			JobId: job, Source: "crm", Token: token, RetryAt: at(4), Attempt: &jobv1.Attempt{
				Number: 2, Worker: "w", StartedAt: at(2), EndedAt: at(3), Error: "broken", ErrorType: "RUN_TIMEOUT", Counted: true,
			},
		}}}},
		{"settled", &logv1.JobEvent{Epoch: 70, Event: &logv1.JobEvent_Settled{Settled: &logv1.Settled{
			JobId: job, Source: "crm", Tenant: "t1", Type: "tag", Outcome: jobv1.Outcome_OUTCOME_DEAD, Token: token, Attempts: 3, AcceptedAt: at(5),
			SettledAt: at(6), Waits: []*jobv1.Wait{{Cause: jobv1.WaitCause_WAIT_CAUSE_SPILL, Duration: durationpb.New(time.Second)}},
			Ran: durationpb.New(20 * time.Millisecond), PayloadSha256: []byte{1, 2, 3}, Reason: "max_attempts",
		}}}},
		{"purge", &logv1.JobEvent{Epoch: 70, Event: &logv1.JobEvent_Purge{Purge: &logv1.PurgeReceipt{
			Id: "p", Scope: flow, Jobs: 4, Bytes: 5, UndoUntil: at(7),
			Lanes:  []*logv1.PurgeReceipt_LaneRange{{Lane: 11, From: 1, To: 9, Completed: []byte{4}}},
			Delays: []*logv1.PurgeReceipt_DelayCut{{Tier: "15s", Partition: 3, Offset: 8}},
		}}}},
		{"handover", &logv1.JobEvent{Epoch: 70, Event: &logv1.JobEvent_Handover{Handover: &logv1.Handover{Leases: []*logv1.HeldLease{
			{JobId: job, Source: "crm", Token: token, WorkerId: "w", ExpiresIn: durationpb.New(9 * time.Second)},
		}}}}},
		{"handover in quarantine", &logv1.JobEvent{Epoch: 70, Event: &logv1.JobEvent_Handover{Handover: &logv1.Handover{
			Number: 2, Quarantine: durationpb.New(7 * time.Second), Quarantined: []*logv1.Home{{Topic: "jobs.high", Partition: 3, Offset: 41}},
		}}}},
		{"cluster config", &logv1.Command{
			Format: 1, RequestId: "install-c", Actor: "spillway install", Reason: "first installation", At: at(8),
			Act: &logv1.Command_ClusterConfig{ClusterConfig: &logv1.ClusterConfig{ClusterId: "c", FormatVersion: 1, Shards: 8, Lanes: 16, Prefix: "spillway."}},
		}},
		{"put source", &logv1.Command{Format: 1, ExpectedRevision: -1, Act: &logv1.Command_PutSource{PutSource: &logv1.PutSource{
			Source: &automationv1.Source{Name: "crm", Types: []string{"tag"}, Principals: []string{"*"}, Weight: 100},
		}}}},
		{"delete source", &logv1.Command{Format: 1, ExpectedRevision: 6, Act: &logv1.Command_DeleteSource{DeleteSource: &logv1.DeleteSource{Name: "crm"}}}},
		{"set switch", &logv1.Command{Format: 1, Act: &logv1.Command_SetSwitch{SetSwitch: &logv1.SetSwitch{CancelRunning: true, Switch: &automationv1.Switch{
			Scope: flow, Verb: automationv1.Verb_VERB_DEMOTE, Reason: "r", Actor: "a", At: at(9), Until: at(10), To: jobv1.Priority_PRIORITY_BULK,
		}}}}},
		{"clear switch", &logv1.Command{Format: 1, Act: &logv1.Command_ClearSwitch{ClearSwitch: &logv1.ClearSwitch{Scope: flow, RampRate: 2.5}}}},
		{"purge command", &logv1.Command{Format: 1, Act: &logv1.Command_Purge{Purge: &logv1.Purge{Id: "p", Scope: flow, Erase: true}}}},
		{"undo purge", &logv1.Command{Format: 1, Act: &logv1.Command_UndoPurge{UndoPurge: &logv1.UndoPurge{Id: "p"}}}},
		{"observed", &logv1.Command{Format: 1, Act: &logv1.Command_Observed{Observed: &logv1.Observed{What: "expired", Scope: flow, Sequence: 12}}}},
	}
	var b strings.Builder
	for _, r := range records {
		value, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.m)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(r.name + " " + hex.EncodeToString(value) + "\n")
	}
	golden(t, "records.txt", b.String())
}
