package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	kafkago "github.com/segmentio/kafka-go"
)

// Durability modes of an installation.
const (
	Replicated = "replicated" // three copies, two of them acknowledged
	Single     = "single"     // one copy: the embedded broker, or a lone one
)

// FirstMetadata is the commit metadata that Install writes beside offset 0:
// version 1, no flags, no lane, no counts, no completed ranges.
const FirstMetadata = "1;;-;-;"

// Layout is the shape of an installation. Prefix, Shards and Lanes can never
// be changed once installed: they decide which partition a job is in.
type Layout struct {
	Topics
	Shards     int    // P
	Lanes      int    // L, lanes per shard
	Durability string // Replicated or Single
}

// prefixRule is what may stand before the topics' names: legal there, short enough for the longest of them, and told from them by its end, so that no
// two installations can meet in a name.
var prefixRule = regexp.MustCompile(`^[a-zA-Z0-9._-]{0,99}[._-]$`)

// Validate says what is wrong with l.
func (l Layout) Validate() error {
	switch {
	case !prefixRule.MatchString(l.Prefix):
		return fmt.Errorf("kafka: layout: prefix %q, want up to 100 of a-z, A-Z, 0-9, '.', '_' and '-' that end in one of the last three", l.Prefix)
	case l.Shards < 1 || l.Shards > 1<<12: // a job id has 12 bits for its shard
		return fmt.Errorf("kafka: layout: %d shards, want 1 to 4096", l.Shards)
	case l.Lanes < 2: // lane 0 is the common lane
		return fmt.Errorf("kafka: layout: %d lanes, want at least 2", l.Lanes)
	case l.Durability != Replicated && l.Durability != Single:
		return fmt.Errorf("kafka: layout: durability %q, want %s or %s", l.Durability, Replicated, Single)
	}
	return nil
}

const (
	keep = time.Duration(-1) // no retention: unfinished work never ages out

	// Segments are small because space comes back only by whole segments, and
	// never that of the last record: partitions × segment is what trimming can
	// leave behind. At P = 8, L = 16 and 4 MiB that is 1,000 MiB, just below
	// the embedded broker's cap.
	singleSegment     = 4 << 20
	replicatedSegment = 64 << 20
)

// topicSpec is a topic as Install makes it and Check wants it.
type topicSpec struct {
	name       string
	partitions int
	retention  time.Duration
	appendTime bool
}

func (l Layout) specs() []topicSpec {
	var specs []topicSpec
	for _, p := range l.Priorities() {
		specs = append(specs, topicSpec{name: l.Jobs(p), partitions: l.Shards, retention: keep, appendTime: true})
	}
	specs = append(specs, topicSpec{name: l.Spill(), partitions: l.Shards * l.Lanes, retention: keep, appendTime: true})
	for _, tier := range l.Tiers() {
		specs = append(specs, topicSpec{name: l.Delay(tier), partitions: l.Shards, retention: keep, appendTime: true})
	}
	return append(specs,
		topicSpec{name: l.Outcomes(), partitions: l.Shards, retention: 7 * 24 * time.Hour},
		topicSpec{name: l.Dead(), partitions: l.Shards, retention: keep},
		topicSpec{name: l.Control(), partitions: 1, retention: keep},
		topicSpec{name: l.Status(), partitions: 1, retention: time.Hour},
		topicSpec{name: l.Notifications(), partitions: l.Shards, retention: 24 * time.Hour},
	)
}

func (s topicSpec) config(l Layout) kafkago.TopicConfig {
	millis := int64(-1)
	if s.retention != keep {
		millis = s.retention.Milliseconds()
	}
	stamp := "CreateTime"
	if s.appendTime {
		stamp = "LogAppendTime"
	}
	replicas, inSync, segment := 1, 1, singleSegment
	if l.Durability == Replicated {
		replicas, inSync, segment = 3, 2, replicatedSegment
	}
	// This is the whole list of settings that may ever be passed on: a broker
	// accepts harmful ones without a word.
	return kafkago.TopicConfig{
		Topic:             s.name,
		NumPartitions:     s.partitions,
		ReplicationFactor: replicas,
		ConfigEntries: []kafkago.ConfigEntry{
			{ConfigName: "cleanup.policy", ConfigValue: "delete"},
			{ConfigName: "retention.ms", ConfigValue: strconv.FormatInt(millis, 10)},
			{ConfigName: "retention.bytes", ConfigValue: "-1"},
			{ConfigName: "segment.bytes", ConfigValue: strconv.Itoa(segment)},
			{ConfigName: "max.message.bytes", ConfigValue: strconv.Itoa(MaxMessageBytes)},
			{ConfigName: "message.timestamp.type", ConfigValue: stamp},
			{ConfigName: "min.insync.replicas", ConfigValue: strconv.Itoa(inSync)},
			{ConfigName: "unclean.leader.election.enable", ConfigValue: "false"},
		},
	}
}

// Install creates the topics of l that are missing, commits offset 0 in every
// partition of the scheduler group that has no commit, and checks the result.
// It may be repeated at any time, also while services run. It refuses a log
// that holds another layout under the same prefix, changing nothing. The
// client must see all topics (no Config.Topics).
func Install(ctx context.Context, c *Client, l Layout) error {
	if err := l.Validate(); err != nil {
		return err
	}
	if len(c.config.Topics) > 0 {
		return errors.New("kafka: install: the client is limited to some topics")
	}
	if err := c.Ready(ctx); err != nil {
		return err
	}
	present, err := c.topics(ctx)
	if err != nil {
		return fmt.Errorf("kafka: install: %w", err)
	}
	var missing []kafkago.TopicConfig
	for _, spec := range l.specs() {
		found, ok := present[spec.name]
		if !ok {
			missing = append(missing, spec.config(l))
		} else if n := len(found.Partitions); n != spec.partitions {
			return fmt.Errorf("kafka: install: topic %s has %d partitions, the layout wants %d: shards and lanes cannot be changed", spec.name, n, spec.partitions)
		}
	}
	if err := c.create(ctx, missing); err != nil {
		return err
	}
	if err := c.commitFirst(ctx, l); err != nil {
		return err
	}
	return Check(ctx, c, l)
}

func (c *Client) create(ctx context.Context, missing []kafkago.TopicConfig) error {
	if len(missing) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*CallTimeout) // hundreds of partitions in one request
	defer cancel()
	admin := *c.client
	admin.Timeout = 3 * CallTimeout
	res, err := admin.CreateTopics(ctx, &kafkago.CreateTopicsRequest{Topics: missing})
	if err != nil {
		return fmt.Errorf("kafka: install: create topics: %w", err)
	}
	for _, t := range missing {
		// Somebody else's install at the same time is as good as ours: Check
		// looks at what it made.
		if err := res.Errors[t.Topic]; err != nil && !errors.Is(err, kafkago.TopicAlreadyExists) {
			return fmt.Errorf("kafka: install: create %s: %w", t.Topic, err)
		}
	}
	return nil
}

// commitFirst commits offset 0 wherever the group has no commit, as nobody in
// no generation, which brokers accept while the group has no members. Where
// all is committed it sends nothing, so a running group is not touched.
func (c *Client) commitFirst(ctx context.Context, l Layout) error {
	scheduled := l.Scheduled()
	for _, spec := range l.specs() {
		if !slices.Contains(scheduled, spec.name) {
			continue
		}
		partitions := Owned(0, 1, spec.partitions)
		var found map[int]Commit
		err := c.retry(ctx, func() (err error) {
			found, err = c.Committed(ctx, l.Group(), spec.name, partitions)
			return err
		})
		if err != nil {
			return fmt.Errorf("kafka: install: %w", err)
		}
		var commits []Commit
		for _, q := range partitions {
			if _, ok := found[q]; !ok {
				commits = append(commits, Commit{Topic: spec.name, Partition: q, Metadata: FirstMetadata})
			}
		}
		if len(commits) == 0 {
			continue
		}
		err = c.retry(ctx, func() error {
			return c.CommitOffsets(ctx, Member{Group: l.Group(), Generation: -1}, commits)
		})
		switch {
		case err == nil:
		case Fenced(err):
			return fmt.Errorf("kafka: install: %d partitions of %s have no commit, but group %s has members: stop the schedulers and repeat: %w", len(commits), spec.name, l.Group(), err)
		default:
			return fmt.Errorf("kafka: install: %w", err)
		}
	}
	return nil
}

// Survey says how many brokers the cluster has now, and how many copies topic
// has there: 0 if it does not exist, or this client has no right to see it.
func (c *Client) Survey(ctx context.Context, topic string) (brokers, copies int, err error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	var found map[string]kafkago.Topic
	if err := c.retry(ctx, func() (err error) {
		found, err = c.topics(ctx)
		return err
	}); err != nil {
		return 0, 0, fmt.Errorf("kafka: survey: %w", err)
	}
	view, err := c.client.Metadata(ctx, &kafkago.MetadataRequest{Topics: []string{}})
	if err != nil {
		return 0, 0, fmt.Errorf("kafka: survey: %w", err)
	}
	for _, p := range found[topic].Partitions {
		copies = len(p.Replicas)
	}
	return len(view.Brokers), copies, nil
}

// Remove deletes the topics of l with everything in them; the group's commits
// go with their topics. It is for installations that were made for a while.
func Remove(ctx context.Context, c *Client, t Topics) error {
	ctx, cancel := context.WithTimeout(ctx, 3*CallTimeout)
	defer cancel()
	admin := *c.client
	admin.Timeout = 3 * CallTimeout
	res, err := admin.DeleteTopics(ctx, &kafkago.DeleteTopicsRequest{Topics: t.All()})
	if err != nil {
		return fmt.Errorf("kafka: remove topics: %w", err)
	}
	var failed []error
	for topic, err := range res.Errors {
		if err != nil && !errors.Is(err, kafkago.UnknownTopicOrPartition) {
			failed = append(failed, fmt.Errorf("kafka: remove topic %s: %w", topic, err))
		}
	}
	return errors.Join(failed...)
}

// topics returns the cluster's topics by name, as of now.
func (c *Client) topics(ctx context.Context) (map[string]kafkago.Topic, error) {
	if err := c.Refresh(ctx); err != nil {
		return nil, err
	}
	view, err := c.client.Metadata(ctx, &kafkago.MetadataRequest{})
	if err != nil {
		return nil, err
	}
	found := make(map[string]kafkago.Topic, len(view.Topics))
	for _, t := range view.Topics {
		found[t.Name] = t
	}
	return found, nil
}

// WeakSettingError is a topic whose setting promises less than the layout's
// durability, or a shape that is not the layout's.
type WeakSettingError struct {
	Topic, Setting string
	Got, Want      string
}

// Error implements error.
func (e *WeakSettingError) Error() string {
	return fmt.Sprintf("kafka: topic %s: %s is %s, want %s", e.Topic, e.Setting, cmp.Or(e.Got, "unset"), e.Want)
}

// Check compares the topics of l with what l needs and returns every
// difference that weakens it, each a *WeakSettingError, joined. Settings that
// are stronger than needed pass.
func Check(ctx context.Context, c *Client, l Layout) error {
	if err := l.Validate(); err != nil {
		return err
	}
	specs := l.specs()
	settings, err := c.settings(ctx, specs)
	if err != nil {
		return err
	}
	var weak []error
	for _, spec := range specs {
		found, err := c.describe(ctx, spec.name)
		if err != nil {
			return err
		}
		if n := len(found.Partitions); n != spec.partitions {
			weak = append(weak, &WeakSettingError{spec.name, "partitions", strconv.Itoa(n), strconv.Itoa(spec.partitions)})
		}
		if l.Durability == Replicated {
			for _, p := range found.Partitions {
				if len(p.Replicas) < 3 {
					weak = append(weak, &WeakSettingError{spec.name, "replicas of partition " + strconv.Itoa(p.ID), strconv.Itoa(len(p.Replicas)), "3 or more"})
					break
				}
			}
		}
		weak = append(weak, spec.weaknesses(l, settings[spec.name])...)
	}
	return errors.Join(weak...)
}

// settings returns the settings of every spec's topic, by topic and name. A
// topic that is not there yet, or not seen yet, is waited for.
func (c *Client) settings(ctx context.Context, specs []topicSpec) (map[string]map[string]string, error) {
	resources := make([]kafkago.DescribeConfigRequestResource, len(specs))
	for i, spec := range specs {
		resources[i] = kafkago.DescribeConfigRequestResource{ResourceType: kafkago.ResourceTypeTopic, ResourceName: spec.name}
	}
	found := make(map[string]map[string]string, len(specs))
	err := c.retry(ctx, func() error {
		res, err := c.client.DescribeConfigs(ctx, &kafkago.DescribeConfigsRequest{Resources: resources})
		if err != nil {
			return err
		}
		for _, r := range res.Resources {
			if Refused(r.Error) {
				return fmt.Errorf("%s: %w (the right DescribeConfigs is missing)", r.ResourceName, r.Error)
			}
			if r.Error != nil {
				return fmt.Errorf("%s: %w", r.ResourceName, r.Error)
			}
			settings := make(map[string]string, len(r.ConfigEntries))
			for _, entry := range r.ConfigEntries {
				settings[entry.ConfigName] = entry.ConfigValue
			}
			found[r.ResourceName] = settings
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("kafka: settings: %w", err)
	}
	return found, nil
}

func (s topicSpec) weaknesses(l Layout, settings map[string]string) []error {
	var weak []error
	want := func(setting, wanted string, ok func(got string) bool) {
		if got := settings[setting]; !ok(got) {
			weak = append(weak, &WeakSettingError{s.name, setting, got, wanted})
		}
	}
	atLeast := func(n int64) func(string) bool {
		return func(got string) bool {
			v, err := strconv.ParseInt(got, 10, 64)
			return err == nil && v >= n
		}
	}
	forever := func(got string) bool { return got == "-1" }
	equal := func(wanted string) func(string) bool { return func(got string) bool { return got == wanted } }

	want("cleanup.policy", "delete", equal("delete"))
	want("max.message.bytes", "at least "+strconv.Itoa(MaxMessageBytes), atLeast(MaxMessageBytes))
	want("retention.bytes", "-1", forever)
	if s.retention == keep {
		want("retention.ms", "-1", forever)
	} else {
		least := s.retention.Milliseconds()
		want("retention.ms", "at least "+strconv.FormatInt(least, 10), func(got string) bool { return forever(got) || atLeast(least)(got) })
	}
	if s.appendTime {
		want("message.timestamp.type", "LogAppendTime", equal("LogAppendTime"))
	}
	if l.Durability == Replicated {
		want("min.insync.replicas", "at least 2", atLeast(2))
		want("unclean.leader.election.enable", "false", equal("false"))
	}
	return weak
}
