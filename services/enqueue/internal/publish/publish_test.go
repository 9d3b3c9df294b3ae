package publish

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What may have been written is never refused; what was not is never of unknown fate.
func TestFate(t *testing.T) {
	for _, c := range []struct {
		err  error
		want core.Reason
	}{
		{kafka.ErrFateUnknown, core.FateUnknown},
		{fmt.Errorf("%w: %w", kafka.ErrFateUnknown, kafka.ErrFull), core.FateUnknown},
		{fmt.Errorf("%w: %w", kafka.ErrFateUnknown, context.DeadlineExceeded), core.FateUnknown},
		{errors.New("an error of another kind"), core.FateUnknown},
		{fmt.Errorf("%w: %w", kafka.ErrUnsent, kafka.ErrFull), core.Overloaded},
		{fmt.Errorf("%w: %w", kafka.ErrUnsent, kafka.ErrTooLarge), core.PayloadTooLarge},
		{fmt.Errorf("%w: %w", kafka.ErrUnsent, context.Canceled), core.BrokerUnavailable},
		{kafka.ErrUnsent, core.BrokerUnavailable},
		{fmt.Errorf("%w: %w", errEncode, errors.New("x")), core.Invalid},
	} {
		if got := fate(c.err); got.Reason != c.want {
			t.Errorf("%v: %s, want %s", c.err, got.Reason, c.want)
		}
	}
	if fate(nil) != nil {
		t.Error("a refusal for no error")
	}
}

func TestIndex(t *testing.T) {
	const shards = 8
	shard := int32(envelope.Shard("crm", shards))
	for _, c := range []struct {
		name   string
		mark   *logv1.SpillMark
		known  bool
		common bool
	}{
		{"a lane of its shard", &logv1.SpillMark{Source: "crm", Type: "tag", Tenant: "*", Lane: shard + 2*shards}, true, false},
		{"the common lane", &logv1.SpillMark{Source: "crm", Type: "tag", Tenant: "*", Lane: shard}, true, true},
		{"no lane at all", &logv1.SpillMark{Source: "crm", Type: "tag", Tenant: "*", Lane: -1}, true, true},
		{"a lane of another shard", &logv1.SpillMark{Source: "crm", Type: "tag", Tenant: "*", Lane: shard + 2*shards + 1}, false, false},
	} {
		marks := newIndex([]*logv1.SpillMark{c.mark}, shards, 1).marks["crm"]
		if (marks != nil) != c.known || marks != nil && marks.Common != c.common {
			t.Errorf("%s: %+v", c.name, marks)
		}
	}
}

func TestWhatASourceLeavesOut(t *testing.T) {
	plain := fromSource(&automationv1.Source{})
	if plain.AcceptRate != 20_000 || plain.BacklogJobs != 1_000_000 || plain.BacklogBytes != 1<<30 || plain.Priority != core.Default ||
		plain.Ceiling != core.High || plain.MaxDepth != 100 || plain.KeyWindow != 10*time.Minute || plain.Reject {
		t.Errorf("defaults %+v", plain)
	}
	if given := fromSource(&automationv1.Source{Quota: &automationv1.Quota{}}); given.AcceptRate != 0 || given.BacklogJobs != 0 || given.BacklogBytes != 0 {
		t.Errorf("a quota without fields limits: %+v", given)
	}
}
