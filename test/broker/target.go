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

// Target is a broker under test.
type Target struct {
	// Addresses are its bootstrap addresses, as in kafka.Config.
	Addresses []string
	// Durability is kafka.Single, or kafka.Replicated for three brokers.
	Durability string
	// Brokers is how many there are.
	Brokers int
	// Kill ends a broker as kill -9 does, another one each time if there are
	// several, and Start starts it again on what it had stored and returns once
	// it serves.
	Kill, Start func(t testing.TB)
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
