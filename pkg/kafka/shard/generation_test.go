package shard_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/shard"
	"github.com/spillway/spillway/pkg/offsets"
)

func TestCommitIsFencedAndCarriesMetadata(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		topic := layout.Jobs("high")
		a := join(t, broker, "a")
		eventually(t, 5*time.Second, "a owns", func() bool { return a.generation() != nil })
		old := a.generation()
		ctx := t.Context()

		first, err := old.Committed(ctx, topic, []int{0, 3})
		if err != nil || first[3].Offset != 0 || !reflect.DeepEqual(first[3].Meta, offsets.Metadata{}) {
			t.Fatalf("after install: %+v, %v", first, err)
		}
		want := offsets.Metadata{Drained: true, Source: "s", Type: "x", Counts: "n:1", Done: offsets.Ranges{{Gap: 1, Length: 5}}}
		text, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := old.Commit(ctx, []kafka.Commit{{Topic: topic, Partition: 3, Offset: 7, Metadata: text}}); err != nil {
			t.Fatal(err)
		}

		b := join(t, broker, "b")
		eventually(t, 5*time.Second, "b owns a part", func() bool { return len(b.shards()) == 2 && len(a.shards()) == 2 })
		if err := old.Commit(ctx, []kafka.Commit{{Topic: topic, Partition: 3, Offset: 9, Metadata: "1;;-;-;"}}); !errors.Is(err, kafka.ErrFenced) {
			t.Errorf("commit of the past: %v", err)
		}
		if old.Alive(time.Now()) {
			t.Error("a fenced generation is alive")
		}
		got, err := b.generation().Committed(ctx, topic, []int{3})
		if err != nil || got[3].Offset != 7 || !reflect.DeepEqual(got[3].Meta, want) {
			t.Errorf("the next owner reads %+v, %v", got, err)
		}
	})
}

// The final commit of a drain is accepted while the group rebalances.
func TestDrainCommitsInTheEndedGeneration(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		topic := layout.Jobs("low")
		a := join(t, broker, "a")
		errs := make(chan error, 10)
		a.drain = func(ctx context.Context, g *shard.Generation) {
			time.Sleep(1500 * time.Millisecond) // of work in flight
			errs <- g.Commit(ctx, []kafka.Commit{{Topic: topic, Partition: 1, Offset: 42, Metadata: "1;d;-;-;"}})
		}
		eventually(t, 5*time.Second, "a owns", func() bool { return a.generation() != nil })
		b := join(t, broker, "b")
		eventually(t, 10*time.Second, "b owns a part", func() bool { return len(b.shards()) == 2 })
		if err := <-errs; err != nil {
			t.Errorf("final commit at a rebalance: %v", err)
		}
		got, err := b.generation().Committed(t.Context(), topic, []int{1})
		if err != nil || got[1].Offset != 42 || !got[1].Meta.Drained {
			t.Errorf("the next owner reads %+v, %v", got, err)
		}
		a.stop()
		if a.wait(); <-errs != nil {
			t.Error("final commit at a stop failed")
		}
	})
}

func TestCommittedRefusesWhatIsMissingOrForeign(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		client := broker.Client(t, "foreign")
		topic := layout.Jobs("bulk")
		nobody := kafka.Member{Group: layout.Group(), Generation: -1}
		for partition, metadata := range map[int]string{0: "", 1: "2;;-;-;"} {
			if err := client.CommitOffsets(t.Context(), nobody, []kafka.Commit{{Topic: topic, Partition: partition, Metadata: metadata}}); err != nil {
				t.Fatal(err)
			}
		}
		a := join(t, broker, "a")
		eventually(t, 5*time.Second, "a owns", func() bool { return a.generation() != nil })
		for _, c := range []struct {
			topic     string
			partition int
			want      error
		}{
			{topic, 0, offsets.ErrMetadata},
			{topic, 1, offsets.ErrVersion},
			{layout.Control(), 0, kafka.ErrNoCommit},
		} {
			if got, err := a.generation().Committed(t.Context(), c.topic, []int{c.partition}); !errors.Is(err, c.want) {
				t.Errorf("%s/%d: %+v, %v, want %v", c.topic, c.partition, got, err, c.want)
			}
		}
	})
}

// A long list of commits goes out in several requests, in order.
func TestLongCommitIsSplit(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		a := join(t, broker, "a")
		eventually(t, 5*time.Second, "a owns", func() bool { return a.generation() != nil })
		metadata, err := offsets.Metadata{Counts: strings.Repeat("9", 2900)}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var commits []kafka.Commit
		for range 40 {
			for p := range layout.Shards {
				commits = append(commits, kafka.Commit{Topic: layout.Outcomes(), Partition: p, Offset: int64(len(commits)), Metadata: metadata})
			}
		}
		requests := broker.Count(kafkatest.OffsetCommit)
		if err := a.generation().Commit(t.Context(), commits); err != nil {
			t.Fatal(err)
		}
		if n := requests.Load(); n != 2 {
			t.Errorf("%d requests for %d KiB", n, 160*len(metadata)/1024)
		}
		got, err := a.generation().Committed(t.Context(), layout.Outcomes(), []int{3})
		if err != nil || got[3].Offset != 159 {
			t.Errorf("read back %d, %v", got[3].Offset, err)
		}
	})
}
