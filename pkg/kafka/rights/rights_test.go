package rights

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
)

var update = flag.Bool("update", false, "write the table for people anew")

var layout = kafka.Layout{Topics: kafka.Topics{Prefix: "test."}, Shards: 2, Lanes: 2, Durability: kafka.Single}

// page is the table for people.
const page = "../../../docs/reference/kafka-rights.md"

// TestS43ThePageForPeople: the documented rights are those that are granted.
func TestS43ThePageForPeople(t *testing.T) {
	want := render()
	if *update {
		if err := os.MkdirAll(filepath.Dir(page), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s does not say what is granted: go test ./pkg/kafka/rights -update", page)
	}
}

func render() string {
	topics := kafka.Topics{Prefix: kafka.DefaultPrefix}
	may := make(map[string]map[Role]string)
	for _, r := range Of(topics) {
		name := strings.TrimPrefix(r.Topic, topics.Prefix)
		if r.Group != "" {
			name = "group " + r.Group
		}
		if may[name] == nil {
			may[name] = make(map[Role]string)
		}
		var words []string
		for _, o := range r.Operations {
			words = append(words, string(o))
		}
		may[name][r.Role] = strings.Join(words, ", ")
	}
	var b strings.Builder
	b.WriteString(`# Who may do what in Kafka

Generated from pkg/kafka/rights by its test; do not edit. ` + "`spillway install --acls`" + ` grants exactly this, on these names and
not on a prefix. The principals are ` + "`User:spillway-<role>`" + ` unless ` + "`--principal role=User:NAME`" + ` says otherwise.
What is not here is denied, because brokers with an authorizer deny what no ACL allows
(` + "`allow.everyone.if.no.acl.found=false`" + `, Kafka's default).

| topic |`)
	for _, r := range Roles() {
		fmt.Fprintf(&b, " %s |", r)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(Roles())) + "\n")
	names := topics.All()
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], topics.Prefix)
	}
	for _, name := range append(names, "group "+topics.Group()) {
		fmt.Fprintf(&b, "| `%s` |", name)
		for _, r := range Roles() {
			fmt.Fprintf(&b, " %s |", may[name][r])
		}
		b.WriteString("\n")
	}
	b.WriteString(`
Read of a topic is also what a commit for it needs, Read of the group to be its member and to commit, Delete of a topic
to trim it. Read, Write and Delete each include Describe. DescribeConfigs is for the check at start: enqueue and schedulers
refuse topics whose settings are weaker than the declared durability. Every principal is denied every transactional id.

Workers and callers have no access to Kafka. Installing needs an administrator: to create topics, to read and write control,
to commit for the group, and with ` + "`--acls`" + ` to alter the cluster's ACLs. It takes no right away: after a change of principals,
remove the ACLs of the old ones with ` + "`kafka-acls --remove`" + `.

A user who lacks a right to a topic does not see it: errors then say that the topic is missing *or not to be seen*.
`)
	return b.String()
}

// TestS43EachPrincipalCanDoWhatTheTableSaysAndNoMore tries every role, topic and
// operation on a broker with an authorizer.
func TestS43EachPrincipalCanDoWhatTheTableSaysAndNoMore(t *testing.T) { synctest.Test(t, matrix) }

func matrix(t *testing.T) {
	users := make(map[string]string)
	for _, role := range Roles() {
		users["spillway-"+string(role)] = "password of " + string(role)
	}
	broker := kafkatest.StartSecure(t, users, nil)
	as := func(user, password string, topics ...string) *kafka.Client {
		c := broker.Config(user, topics...)
		c.Security = kafka.Security{Mechanism: kafka.ScramSHA512, User: user, Password: config.NewSecret(password)}
		client, err := kafka.New(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return client
	}
	ctx := t.Context()
	admin := as(kafkatest.Admin, kafkatest.Admin)
	if err := kafka.Install(ctx, admin, layout); err != nil {
		t.Fatal(err)
	}
	for range 2 { // granting again changes nothing
		n, err := Grant(ctx, admin, layout.Topics, Defaults())
		if err != nil {
			t.Fatal(err)
		}
		if got := count(t, ctx, admin); got != n {
			t.Errorf("granted %d ACLs, the broker holds %d", n, got)
		}
	}
	for _, topic := range layout.All() { // something to read and to delete
		for range 2 + len(Roles()) {
			if _, err := admin.Append(ctx, topic, 0, []kafka.Record{{Value: []byte("v")}}); err != nil {
				t.Fatal(err)
			}
		}
	}

	type key struct {
		role   Role
		topic  string
		action Operation
	}
	allowed := make(map[key]bool)
	for _, r := range Of(layout.Topics) {
		for _, o := range r.Operations {
			allowed[key{r.Role, r.Topic, o}] = true
		}
	}
	for _, role := range Roles() {
		user := "spillway-" + string(role)
		client := as(user, users[user])
		if err := client.Ready(ctx); err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		for _, topic := range layout.All() {
			for action, try := range map[Operation]func() error{
				Read: func() error {
					_, err := client.Fetch(ctx, topic, 0, int64(1+len(Roles())), 1<<20, time.Millisecond)
					return err
				},
				Write: func() error {
					_, err := client.Append(ctx, topic, 0, []kafka.Record{{Value: []byte("w")}})
					return err
				},
				Delete: func() error {
					ends, err := admin.Ends(ctx, topic, []int{0})
					if err != nil {
						t.Fatal(err)
					}
					return client.DeleteRecords(ctx, topic, map[int]int64{0: ends[0].First + 1})
				},
			} {
				err := try()
				if may := allowed[key{role, topic, action}]; may != (err == nil) {
					t.Errorf("%s, %s of %s: %v; the table says %v", role, action, topic, err, may)
				}
			}
		}
		member := kafka.Member{Group: layout.Group(), Generation: -1}
		err := client.CommitOffsets(ctx, member, []kafka.Commit{{Topic: layout.Spill(), Partition: 0, Metadata: kafka.FirstMetadata}})
		if (err == nil) != (role == Scheduler) {
			t.Errorf("%s commits for the group: %v", role, err)
		}
		if role == Enqueue || role == Scheduler {
			if err := kafka.Check(ctx, client, layout); err != nil {
				t.Errorf("%s checks the topics: %v", role, err)
			}
		}
		res, err := client.Kafka().CreateTopics(ctx, &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{{Topic: "test.new", NumPartitions: 1, ReplicationFactor: 1}}})
		if err == nil && res.Errors["test.new"] == nil {
			t.Errorf("%s creates a topic", role)
		}
	}
}

// count counts the ACLs that the broker holds.
func count(t *testing.T, ctx context.Context, admin *kafka.Client) int {
	t.Helper()
	res, err := admin.Kafka().DescribeACLs(ctx, &kafkago.DescribeACLsRequest{Filter: kafkago.ACLFilter{
		ResourceTypeFilter: kafkago.ResourceTypeAny, ResourcePatternTypeFilter: kafkago.PatternTypeAny,
		Operation: kafkago.ACLOperationTypeAny, PermissionType: kafkago.ACLPermissionTypeAny,
	}})
	if err = errors.Join(err, res.Error); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, r := range res.Resources {
		n += len(r.ACLs)
	}
	return n
}

// TestAClientAsksForNothingThatItMayNotSee: a topic that is asked for and may
// not be seen is a line in the broker's log, every ten seconds.
func TestAClientAsksForNothingThatItMayNotSee(t *testing.T) {
	if got := Topics(Automation, layout.Topics); !slices.Equal(got, []string{layout.Control(), layout.Status()}) {
		t.Errorf("automation sees %v", got)
	}
	if got := Topics(Scheduler, layout.Topics); !slices.Equal(got, layout.All()) {
		t.Errorf("scheduler sees %v", got)
	}
}

func TestPrincipalsThatCannotBe(t *testing.T) {
	if err := Defaults().Validate(); err != nil {
		t.Error(err)
	}
	for says, change := range map[string]func(Principals){
		"want User:NAME":   func(p Principals) { p[Enqueue] = "enqueue" },
		"is everybody":     func(p Principals) { p[Enqueue] = "User:*" },
		"rights of both":   func(p Principals) { p[Enqueue] = p[Scheduler] },
		"there is no role": func(p Principals) { p["worker"] = "User:worker" },
	} {
		p := Defaults()
		change(p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
}
