package plain

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/kafka"
)

const (
	// partitions is as many as the product has shards on the embedded broker.
	partitions = 8
	// localBroker stands for the embedded broker where an address has to be: it
	// is dialled by its socket, whatever it says it is called.
	localBroker = "local-broker:9092"
	dialTimeout = 3 * time.Second
)

// Target is where the jobs are.
type Target struct {
	// Address is "unix:PATH", or host:port, several separated by commas.
	// Plaintext only.
	Address string `json:"address"`
	Topic   string `json:"topic"`
	Group   string `json:"group"`
}

// dial returns how connections are made, and what brokers are called.
func (t Target) dial() (dial func(ctx context.Context, network, address string) (net.Conn, error), brokers []string) {
	d := &net.Dialer{Timeout: dialTimeout}
	if path, local := strings.CutPrefix(t.Address, "unix:"); local {
		return func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }, []string{localBroker}
	}
	return d.DialContext, strings.Split(t.Address, ",")
}

// Install makes the topic, with as many copies as the product's topics have:
// three where there are as many brokers, else one.
func (t Target) Install(ctx context.Context, client *kafka.Client) error {
	brokers, _, err := client.Survey(ctx, t.Topic)
	if err != nil {
		return fmt.Errorf("topic %s: %w", t.Topic, err)
	}
	copies := 1
	if brokers >= 3 {
		copies = 3
	}
	answer, err := client.Kafka().CreateTopics(ctx, &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{
		{Topic: t.Topic, NumPartitions: partitions, ReplicationFactor: copies},
	}})
	if err == nil {
		err = answer.Errors[t.Topic]
	}
	if err != nil {
		return fmt.Errorf("make topic %s: %w", t.Topic, err)
	}
	return nil
}

// Remove deletes the topic.
func (t Target) Remove(ctx context.Context, client *kafka.Client) error {
	answer, err := client.Kafka().DeleteTopics(ctx, &kafkago.DeleteTopicsRequest{Topics: []string{t.Topic}})
	if err == nil {
		err = answer.Errors[t.Topic]
	}
	if err != nil {
		return fmt.Errorf("delete topic %s: %w", t.Topic, err)
	}
	return nil
}

// Behind is how many records of the topic the group has not committed.
func (t Target) Behind(ctx context.Context, client *kafka.Client) (int64, error) {
	list := make([]int, partitions)
	for i := range list {
		list[i] = i
	}
	ends, err := client.Ends(ctx, t.Topic, list)
	if err != nil {
		return 0, fmt.Errorf("ends of %s: %w", t.Topic, err)
	}
	commits, err := client.Committed(ctx, t.Group, t.Topic, list)
	if err != nil {
		return 0, fmt.Errorf("commits of %s: %w", t.Group, err)
	}
	var behind int64
	for p, end := range ends {
		behind += end.Next - max(commits[p].Offset, end.First)
	}
	return behind, nil
}
