package notifier_test

import (
	"testing"
	"testing/synctest"

	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/rights"
	"github.com/spillway/spillway/pkg/subscriber"
	"github.com/spillway/spillway/services/notifier"
)

// The rights of its principal, and the topics that it may see, are enough for all that a notifier does.
func TestS43WithItsOwnRights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		login := func(user, password string) kafka.Security {
			return kafka.Security{Mechanism: kafka.ScramSHA512, User: user, Password: config.NewSecret(password)}
		}
		broker := kafkatest.StartSecure(t, map[string]string{"spillway-notifier": "secret"}, nil)
		w, end := startOn(t, broker, login(kafkatest.Admin, kafkatest.Admin), func(_ *notifier.Config, d *notifier.Deps) {
			d.Kafka = func(id string) (*kafka.Client, error) {
				c := broker.Config(id, rights.Topics(rights.Notifier, topics)...)
				c.Security = login("spillway-notifier", "secret")
				return kafka.New(c)
			}
		})
		defer end()
		w.ready()
		w.register("crm")
		s, err := w.subscribe("anna", "t1", "", "user:t1:anna")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		w.next(s, subscriber.Sub)
		resp, err := w.publish(request("crm"))
		if err != nil {
			t.Fatal(err)
		}
		if e := w.next(s, subscriber.Msg); e.ID != resp.GetId() {
			t.Errorf("received %+v", e)
		}
		if _, copies, err := kafkaOf(t, broker, login("spillway-notifier", "secret")).Survey(w.ctx, topics.Notifications()); err != nil || copies != 1 {
			t.Errorf("its principal sees %d copies, %v", copies, err)
		}
	})
}

func kafkaOf(t *testing.T, broker *kafkatest.Broker, login kafka.Security) *kafka.Client {
	c := broker.Config("survey", rights.Topics(rights.Notifier, topics)...)
	c.Security = login
	client, err := kafka.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}
