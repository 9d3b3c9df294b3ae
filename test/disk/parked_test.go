package disk

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/test/product"
)

// TestLedgerAccountsForParkedRecords: records that nobody can read are neither accepted nor lost, but parked; a job whose id can be read has its
// outcome. The ledger says so before and after a restart.
func TestLedgerAccountsForParkedRecords(t *testing.T) {
	dir := t.TempDir()
	d := product.StartDev(t, dir)
	f := d.File()
	topics := kafka.Topics{Prefix: f.Prefix}
	c, err := client.Dial(f.Endpoints.Enqueue, client.WithToken(f.Tokens.Service))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Enqueue(t.Context(), client.Job{Source: "crm", Type: "tag"}); err != nil { // there is no worker: it waits
		t.Fatal(err)
	}
	log, err := kafka.New(kafka.Config{Addresses: strings.Split(f.Broker.Address, ","), ClientID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	shard := envelope.Shard("crm", 8)
	job := func(n byte, priority jobv1.Priority) []byte {
		value, err := proto.Marshal(&jobv1.Job{Id: envelope.NewJobID(time.Now(), shard, [8]byte{n}).String(), AcceptedAt: timestamppb.Now(),
			Spec: &jobv1.JobSpec{Source: "crm", Type: "tag", Priority: priority}})
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	later := kafka.Header{Key: envelope.HeaderVersion, Value: []byte("2")}
	for _, r := range []struct {
		topic   string
		value   []byte
		headers []kafka.Header
	}{
		{topics.Jobs("default"), job(1, jobv1.Priority_PRIORITY_LOW), []kafka.Header{later}},
		{topics.Jobs("critical"), []byte("garbage"), []kafka.Header{envelope.VersionHeader()}},
		{topics.Spill(), nil, nil},
		{topics.Spill(), job(2, jobv1.Priority_PRIORITY_LOW), []kafka.Header{later}},
		{topics.Jobs("bulk"), job(3, 77), []kafka.Header{envelope.VersionHeader()}}, // dead
	} {
		if _, err := log.Append(t.Context(), r.topic, shard, []kafka.Record{{Value: r.value, Headers: r.headers}}); err != nil {
			t.Fatal(err)
		}
	}
	want := ledger{Accepted: 2, Dead: 1, Waiting: 1, Parked: 4}
	holds := func() {
		var l ledger
		product.Until(t, 30*time.Second, "the records are parked", func() bool { l = readLedger(t, d); return l == want })
	}
	holds()
	killAll(t, d)
	d = product.StartDev(t, dir)
	holds()
}
