package kafka_test

import (
	"context"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
)

const deleteRecords kafkatest.Request = 21

// TestDeleteRecordsGoesOn: a leader that has moved and a view without the topic are asked again; a leader that does not know the offset yet is left
// alone; what is refused for good is told.
func TestDeleteRecordsGoesOn(t *testing.T) {
	for _, c := range []struct {
		name  string
		code  int16
		count int
		first int64 // of the log, then
		fails bool
	}{
		{"unknown topic", 3, 2, 5, false},
		{"not the leader", 6, 2, 5, false},
		{"timed out", 7, 1, 5, false},
		{"out of range", 1, 1, 0, false},
		{"no right", 29, 1, 0, true},
		{"not the leader, for too long", 6, -1, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, ctx context.Context, broker *kafkatest.Broker, client *kafka.Client) {
				write(t, ctx, client, 0, 10)
				defer broker.Fault(deleteRecords, "t", c.code, c.count)()
				begin := time.Now()
				if err := client.DeleteRecords(ctx, "t", map[int]int64{0: 5}); (err != nil) != c.fails {
					t.Fatalf("error is %v", err)
				}
				if took := time.Since(begin); took > kafka.CallTimeout+time.Second {
					t.Errorf("it took %v", took)
				}
				if ends, err := client.Ends(ctx, "t", []int{0}); err != nil || ends[0].First != c.first {
					t.Errorf("the log begins at %d, %v, want %d", ends[0].First, err, c.first)
				}
			})
		})
	}
}

// TestDeleteRecordsByLeader: one request for each leader, and a partition that has moved since the view was taken goes to where it is now.
func TestDeleteRecordsByLeader(t *testing.T) {
	broker := kafkatest.StartCluster(t, 3)
	broker.CreateTopic(t, "t", 12)
	client := broker.Client(t, "test")
	upTo := map[int]int64{}
	for p := range 12 {
		write(t, t.Context(), client, p, 10)
		upTo[p] = int64(p%9) + 1
	}
	leaders := map[int]bool{}
	for p := range 12 {
		leaders[broker.Leader("t", p)] = true
	}
	sent := broker.Count(deleteRecords)
	if err := client.DeleteRecords(t.Context(), "t", upTo); err != nil {
		t.Fatal(err)
	}
	if n := sent.Load(); n != int64(len(leaders)) {
		t.Errorf("%d requests for %d leaders", n, len(leaders))
	}
	for p := range 12 {
		upTo[p] = 9
	}
	broker.Move(t, "t", 0, (broker.Leader("t", 0)+1)%3)
	if err := client.DeleteRecords(t.Context(), "t", upTo); err != nil {
		t.Fatal(err)
	}
	partitions := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	ends, err := client.Ends(t.Context(), "t", partitions)
	if err != nil {
		t.Fatal(err)
	}
	for p, r := range ends {
		if r != (kafka.Range{First: 9, Next: 10}) {
			t.Errorf("partition %d holds %v", p, r)
		}
	}
}
