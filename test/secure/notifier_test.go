package secure

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/subscriber"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/test/product"
)

// TestApacheSecureNotifier: the notifier with its own principal, on a cluster that wants TLS, a login and rights. It starts, publishes what callers and
// jobs of type notify ask for, reads it and brings it to a socket; and its principal can neither read nor write jobs, outcomes or the control log.
func TestApacheSecureNotifier(t *testing.T) {
	s := build(t)
	s.command(0, "", s.as("spillway-operator"), "keys", "tokens", "--signing-dir", s.path("signing"), "--prefix", prefix,
		"--mac-key-file", s.path("keys", "mac.key"), "--token", "caller:enqueue,publish:"+s.path("caller.token"), "--subscriber", "ada@acme:"+s.path("ada.token"))
	automation := s.serve("automation", "spillway-automation")
	scheduler := s.serve("scheduler", "spillway-scheduler")
	enqueue := s.serve("enqueue", "spillway-enqueue")
	web := product.FreeAddress(t)
	notifier := s.serve("notifier", "spillway-notifier",
		"SPILLWAY_NOTIFIER_LISTEN="+web, "SPILLWAY_NOTIFIER_SCHEDULERS="+scheduler.grpc, "SPILLWAY_NOTIFIER_WORKER_TOKEN_FILE="+s.path("worker.token"))
	s.awaitReady(automation, scheduler, enqueue, notifier)
	operator := append(s.as("spillway-operator"),
		"SPILLWAY_PREFIX="+prefix, "SPILLWAY_TOKEN_FILE="+s.path("operator.token"), "SPILLWAY_AUTOMATION_ADDRESS="+automation.grpc)
	s.command(0, "", operator, "source", "register", "crm", "--type", "notify", "--principal", "caller", "--reason", "a test")

	token, err := os.ReadFile(s.path("ada.token"))
	if err != nil {
		t.Fatal(err)
	}
	const channel = "user:acme:ada"
	ada := product.Listen(t, "ws://"+web+"/v1/ws", subscriber.Config{Token: strings.TrimSpace(string(token)), Channels: []string{channel}})

	conn, err := rpc.Dial(notifier.grpc, rpc.DialConfig{TokenFile: s.path("caller.token")})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	product.Until(t, jobsLimit, "a notification was published", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), jobsLimit)
		defer cancel()
		_, err := notifierv1.NewNotifierServiceClient(conn).Publish(ctx, &notifierv1.PublishRequest{
			Channel: channel, Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Data: []byte(`"called"`), Source: "crm", Tenant: "acme", IdempotencyKey: "1",
		})
		if err != nil && rpc.ReasonOf(err) != "UNKNOWN_SOURCE" { // it folds the control log, as enqueue does
			t.Fatal(err)
		}
		return err == nil
	})
	caller, err := client.Dial(enqueue.grpc, client.WithTokenFile(s.path("caller.token")))
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	payload, err := json.Marshal(map[string]any{"channel": channel, "class": "EVENT", "data": "ran", "ttl": "60s"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), jobsLimit)
	defer cancel()
	if _, err := caller.Enqueue(ctx, client.Job{Source: "crm", Tenant: "acme", Type: "notify", Payload: payload}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	ada.Await(jobsLimit, "both notifications", func(e subscriber.Event) bool {
		if e.T == subscriber.Msg {
			seen[string(e.Data)] = true
		}
		return seen[`"called"`] && seen[`"ran"`]
	})
	if said := notifier.Said(); strings.Contains(said, "uthorization") {
		t.Errorf("it asks for what it has no right to:\n%s", said)
	}

	// What it may not, whoever gets at its password.
	topics := kafka.Topics{Prefix: prefix}
	own := s.client("spillway-notifier")
	defer own.Close()
	ctx, cancel = context.WithTimeout(t.Context(), answerLimit) // what cannot be seen is looked for some seconds
	defer cancel()
	for _, topic := range []string{topics.Jobs(topics.Priorities()[0]), topics.Outcomes(), topics.Spill(), topics.Control()} {
		if _, err := own.Append(ctx, topic, 0, []kafka.Record{{Value: []byte("v")}}); !denied(err) {
			t.Errorf("it writes to %s: %v", topic, err)
		}
		if topic == topics.Control() {
			continue // it follows switches
		}
		if _, err := own.Fetch(ctx, topic, 0, 0, 1<<20, 0); !denied(err) {
			t.Errorf("it reads %s: %v", topic, err)
		}
	}
	if _, err := own.Append(ctx, topics.Notifications(), 0, []kafka.Record{{Value: []byte("v")}}); err != nil {
		t.Errorf("it cannot write notifications, so that this shows nothing: %v", err)
	}
}

// TestApacheSecureNotifierWithoutRights: a notifier whose principal lacks its rights is not ready and says why.
func TestApacheSecureNotifierWithoutRights(t *testing.T) {
	s := build(t)
	r := s.serve("notifier", "guest", "SPILLWAY_NOTIFIER_LISTEN="+product.FreeAddress(t))
	product.Until(t, readyLimit, "its log and its readiness name the cause", func() bool {
		if r.Ended() {
			t.Fatalf("it ended:\n%s", r.Said())
		}
		ok, why := r.ready()
		return !ok && strings.Contains(why, "no right to see the topic") && strings.Contains(r.Said(), "no right to see the topic")
	})
}

// denied tells that the broker refuses for want of a right. It hides topics from those who may do nothing with them.
func denied(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "uthorization") || strings.Contains(err.Error(), "no right to see"))
}
