package rights_test

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

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/rights"
	"github.com/spillway/spillway/pkg/kafka/rights/rightstest"
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
	may := make(map[string]map[rights.Role]string)
	for _, r := range rights.Of(topics) {
		name := strings.TrimPrefix(r.Topic, topics.Prefix)
		if r.Group != "" {
			name = "group " + r.Group
		}
		if may[name] == nil {
			may[name] = make(map[rights.Role]string)
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
	for _, r := range rights.Roles() {
		fmt.Fprintf(&b, " %s |", r)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(rights.Roles())) + "\n")
	names := topics.All()
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], topics.Prefix)
	}
	for _, name := range append(names, "group "+topics.Group()) {
		fmt.Fprintf(&b, "| `%s` |", name)
		for _, r := range rights.Roles() {
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
	for _, role := range rights.Roles() {
		users["spillway-"+string(role)] = "password of " + string(role)
	}
	broker := kafkatest.StartSecure(t, users, nil)
	as := func(user, password string) *kafka.Client {
		c := broker.Config(user)
		c.Security = kafka.Security{Mechanism: kafka.ScramSHA512, User: user, Password: config.NewSecret(password)}
		client, err := kafka.New(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return client
	}
	admin := as(kafkatest.Admin, kafkatest.Admin)
	if err := kafka.Install(t.Context(), admin, layout); err != nil {
		t.Fatal(err)
	}
	for range 2 { // granting again changes nothing
		n, err := rights.Grant(t.Context(), admin, layout.Topics, rights.Defaults())
		if err != nil {
			t.Fatal(err)
		}
		if got := count(t, t.Context(), admin); got != n {
			t.Errorf("granted %d ACLs, the broker holds %d", n, got)
		}
	}
	rightstest.Try(t, admin, layout, func(role rights.Role) *kafka.Client {
		user := "spillway-" + string(role)
		return as(user, users[user])
	})
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
	if got := rights.Topics(rights.Automation, layout.Topics); !slices.Equal(got, []string{layout.Control(), layout.Status()}) {
		t.Errorf("automation sees %v", got)
	}
	if got := rights.Topics(rights.Scheduler, layout.Topics); !slices.Equal(got, layout.All()) {
		t.Errorf("scheduler sees %v", got)
	}
}

func TestPrincipalsThatCannotBe(t *testing.T) {
	if err := rights.Defaults().Validate(); err != nil {
		t.Error(err)
	}
	for says, change := range map[string]func(rights.Principals){
		"want User:NAME":   func(p rights.Principals) { p[rights.Enqueue] = "enqueue" },
		"is everybody":     func(p rights.Principals) { p[rights.Enqueue] = "User:*" },
		"rights of both":   func(p rights.Principals) { p[rights.Enqueue] = p[rights.Scheduler] },
		"there is no role": func(p rights.Principals) { p["worker"] = "User:worker" },
	} {
		p := rights.Defaults()
		change(p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
}
