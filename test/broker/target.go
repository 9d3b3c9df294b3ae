package broker

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
)

// Target is a broker under test, or a cluster of them.
type Target struct {
	// Addresses are its bootstrap addresses, as in kafka.Config.
	Addresses []string
	// Durability is kafka.Single, or kafka.Replicated for three brokers.
	Durability string
	// Brokers is how many there are; they are numbered from 0.
	Brokers int
	// Kill ends brokers as kill -9 does, and Start starts them again on what
	// they had stored and returns once they serve.
	Kill, Start func(t testing.TB, brokers ...int)
	// Ways are what this kind of broker does in its own way.
	Ways Ways
}

// Ways are what brokers are known to do differently. The product relies on none
// of it; each is a fact that is held all the same, because a rule of the product
// would be for nothing, or would be missing, if it were otherwise.
type Ways struct {
	// MetadataLimit is how many characters the metadata of a commit may have;
	// 0: the broker enforces none.
	MetadataLimit int
	// KeepsMembers: the members of a group and its generation outlive the death
	// of its coordinator.
	KeepsMembers bool
	// KeepsEmptyEnds: a partition from which all was deleted still knows its
	// end after the death of its broker.
	KeepsEmptyEnds bool
	// ChecksSettings: a topic with a setting that does not exist is refused.
	ChecksSettings bool
}

// layout returns an installation of its own for one suite.
func (target Target) layout(shards int) kafka.Layout {
	prefix := "test-" + strings.ToLower(rand.Text()[:8]) + "."
	return kafka.Layout{Topics: kafka.Topics{Prefix: prefix}, Shards: shards, Lanes: 2, Durability: target.Durability}
}

// client returns a client that lives as long as the test.
func (target Target) client(t testing.TB, id string, topics ...string) *kafka.Client {
	t.Helper()
	c, err := kafka.New(kafka.Config{Addresses: target.Addresses, ClientID: id, Topics: topics})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// install makes the layout's topics and returns how long that took.
func (target Target) install(t testing.TB, layout kafka.Layout) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := kafka.Install(ctx, target.client(t, "install"), layout); err != nil {
		t.Fatalf("install: %v", err)
	}
	return time.Since(began)
}

// eventually waits until ok holds and returns how long that took.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("after %s still not: %s", limit, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// values makes n distinct values of a size.
func values(n, size int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = make([]byte, size)
		copy(list[i], fmt.Sprintf("%08d", i))
	}
	return list
}
