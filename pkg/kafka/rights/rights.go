// Package rights says who may do what in the log: one Kafka principal for each
// service and one for operators, each with the least that its work needs.
//
// # Model
//
// Of is the whole of it, one line for each resource of a role. A cluster denies
// what no ACL allows, so what is not in the table is not possible: control is
// written by automation and operators only, outcomes and dead letters by
// schedulers only, and nobody may delete or alter a topic. Grant turns the table
// into ACLs on exactly these names, never on a prefix: another installation, or
// a topic that a later release adds, is not touched by them.
//
// # Guarantees
//
//   - Granting again changes nothing, and granting to a new principal leaves the
//     rights of the old one as they are: ACLs are never taken away here.
//   - Services use no transactions, so each principal is denied every
//     transactional id. The denial names the principal: it harms no other user
//     of the cluster.
package rights

import (
	"context"
	"fmt"
	"slices"
	"strings"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/kafka"
)

// Role is who somebody is to the log.
type Role string

// The roles. Installing is none of them: it needs the rights of an
// administrator of the cluster.
const (
	Enqueue    Role = "enqueue"
	Scheduler  Role = "scheduler"
	Automation Role = "automation"
	Notifier   Role = "notifier"
	Operator   Role = "operator" // break-glass switches, ledger, load
)

// Roles returns all roles.
func Roles() []Role { return []Role{Enqueue, Scheduler, Automation, Notifier, Operator} }

// Principals are the principals of roles as Kafka writes them ("User:name").
type Principals map[Role]string

// Defaults are the principals of an installation that chose none:
// User:spillway-<role>.
func Defaults() Principals {
	p := make(Principals)
	for _, r := range Roles() {
		p[r] = "User:spillway-" + string(r)
	}
	return p
}

// Validate says what is wrong with p: every role needs a principal, and two
// roles cannot share one without sharing all of their rights.
func (p Principals) Validate() error {
	seen := make(map[string]Role)
	for _, r := range Roles() {
		name, ok := strings.CutPrefix(p[r], "User:")
		switch other, taken := seen[p[r]]; {
		case !ok || name == "":
			return fmt.Errorf("principal of %s: %q, want User:NAME", r, p[r])
		case name == "*":
			return fmt.Errorf("principal of %s: User:* is everybody", r)
		case taken:
			return fmt.Errorf("principal of %s: %s is that of %s already: each would have the rights of both", r, p[r], other)
		}
		seen[p[r]] = r
	}
	for r := range p {
		if !slices.Contains(Roles(), r) {
			return fmt.Errorf("there is no role %q: want one of %v", r, Roles())
		}
	}
	return nil
}

// Operation is what may be done with a resource, in Kafka's words.
type Operation string

// The operations. Read of a topic is also needed to commit for it, Read of a
// group to be its member.
const (
	Read            Operation = "Read"
	Write           Operation = "Write"
	Delete          Operation = "Delete" // of records, for trimming
	Describe        Operation = "Describe"
	DescribeConfigs Operation = "DescribeConfigs" // to refuse topics that are too weak
)

var operations = map[Operation]kafkago.ACLOperationType{
	Read: kafkago.ACLOperationTypeRead, Write: kafkago.ACLOperationTypeWrite, Delete: kafkago.ACLOperationTypeDelete,
	Describe: kafkago.ACLOperationTypeDescribe, DescribeConfigs: kafkago.ACLOperationTypeDescribeConfigs,
}

// Right is what a role may do with a topic or a group.
type Right struct {
	Role Role
	// Topic is the full name, or Group is.
	Topic, Group string
	// Operations are in the order of their declaration.
	Operations []Operation
}

// Of returns the rights of all roles in an installation.
func Of(t kafka.Topics) []Right {
	var jobs, delays []string
	for _, p := range t.Priorities() {
		jobs = append(jobs, t.Jobs(p))
	}
	for _, tier := range t.Tiers() {
		delays = append(delays, t.Delay(tier))
	}
	b := builder{topics: t, may: make(map[Role]map[string][]Operation)}

	b.allow(Enqueue, []Operation{Write}, append(slices.Concat(jobs, delays), t.Spill(), t.Status())...)
	b.allow(Enqueue, []Operation{Read}, t.Control(), t.Status())
	b.check(Enqueue)

	b.allow(Scheduler, []Operation{Read, Delete}, jobs...)
	b.allow(Scheduler, []Operation{Read, Write, Delete}, append(slices.Clone(delays), t.Spill(), t.Dead())...)
	b.allow(Scheduler, []Operation{Read, Write}, t.Outcomes(), t.Status())
	b.allow(Scheduler, []Operation{Read}, t.Control())
	b.check(Scheduler)

	b.allow(Automation, []Operation{Read, Write}, t.Control(), t.Status())

	b.allow(Notifier, []Operation{Read, Write}, t.Notifications(), t.Status())
	b.allow(Notifier, []Operation{Read}, t.Control())

	b.allow(Operator, []Operation{Read, Write}, t.Control(), t.Status())
	b.allow(Operator, []Operation{Read}, t.Scheduled()...)

	list := b.list()
	return append(list,
		Right{Role: Scheduler, Group: t.Group(), Operations: []Operation{Read, Describe}},
		Right{Role: Operator, Group: t.Group(), Operations: []Operation{Describe}}, // what is committed
	)
}

// Topics returns the topics that a role has a right to, for kafka.Config: a
// client that asks for others fills the brokers' logs with denials.
func Topics(role Role, t kafka.Topics) []string {
	var list []string
	for _, r := range Of(t) {
		if r.Role == role && r.Topic != "" {
			list = append(list, r.Topic)
		}
	}
	return list
}

// builder collects the operations of each topic.
type builder struct {
	topics kafka.Topics
	may    map[Role]map[string][]Operation
}

func (b builder) allow(role Role, what []Operation, topics ...string) {
	if b.may[role] == nil {
		b.may[role] = make(map[string][]Operation)
	}
	for _, topic := range topics {
		b.may[role][topic] = append(b.may[role][topic], what...)
	}
}

// check is what kafka.Check needs: to see every topic and its settings.
func (b builder) check(role Role) {
	b.allow(role, []Operation{Describe, DescribeConfigs}, b.topics.All()...)
}

// list returns the rights, each operation once; Describe goes without saying
// where something else may be done.
func (b builder) list() []Right {
	var list []Right
	for _, role := range Roles() {
		for _, topic := range b.topics.All() {
			may := b.may[role][topic]
			if len(may) == 0 {
				continue
			}
			implied := slices.ContainsFunc(may, func(o Operation) bool { return o == Read || o == Write || o == Delete })
			right := Right{Role: role, Topic: topic}
			for _, o := range []Operation{Read, Write, Delete, Describe, DescribeConfigs} {
				if slices.Contains(may, o) && (o != Describe || !implied) {
					right.Operations = append(right.Operations, o)
				}
			}
			list = append(list, right)
		}
	}
	return list
}

// everywhere is the host of an ACL that holds from any.
const everywhere = "*"

// Grant makes the ACLs of all roles that are missing and returns how many
// there are in all. client needs the right to alter the cluster.
func Grant(ctx context.Context, client *kafka.Client, t kafka.Topics, p Principals) (int, error) {
	if err := p.Validate(); err != nil {
		return 0, err
	}
	acls := entries(t, p)
	ctx, cancel := context.WithTimeout(ctx, kafka.CallTimeout)
	defer cancel()
	res, err := client.Kafka().CreateACLs(ctx, &kafkago.CreateACLsRequest{ACLs: acls})
	if err != nil {
		return 0, fmt.Errorf("rights: %w", err)
	}
	for i, err := range res.Errors {
		if err != nil {
			a := acls[i]
			return 0, fmt.Errorf("rights: %s %s of %s %s: %w (granting needs a user who may alter the cluster, and brokers with an authorizer)",
				a.Principal, a.Operation, a.ResourceType, a.ResourceName, err)
		}
	}
	return len(acls), nil
}

func entries(t kafka.Topics, p Principals) []kafkago.ACLEntry {
	var acls []kafkago.ACLEntry
	add := func(role Role, resource kafkago.ResourceType, name string, operation kafkago.ACLOperationType, permission kafkago.ACLPermissionType) {
		acls = append(acls, kafkago.ACLEntry{
			ResourceType: resource, ResourceName: name, ResourcePatternType: kafkago.PatternTypeLiteral,
			Principal: p[role], Host: everywhere, Operation: operation, PermissionType: permission,
		})
	}
	for _, right := range Of(t) {
		resource, name := kafkago.ResourceTypeTopic, right.Topic
		if right.Group != "" {
			resource, name = kafkago.ResourceTypeGroup, right.Group
		}
		for _, o := range right.Operations {
			add(right.Role, resource, name, operations[o], kafkago.ACLPermissionTypeAllow)
		}
	}
	for _, role := range Roles() {
		add(role, kafkago.ResourceTypeTransactionalID, "*", kafkago.ACLOperationTypeAll, kafkago.ACLPermissionTypeDeny)
	}
	return acls
}
