package takeover

import (
	"strings"
	"testing"

	"github.com/spillway/spillway/test/apache"
)

type scenario struct {
	name string
	run  func(*testing.T, broker)
}

// TestApacheTakeoverOne is everything on Apache Kafka with one broker.
func TestApacheTakeoverOne(t *testing.T) {
	onApache(t, 1, []scenario{
		{"OneToThreeToOneInOrder", oneToThreeToOneInOrder}, {"OneToThreeToOneKilled", oneToThreeToOneKilled},
		{"F3FrozenSchedulers", frozenSchedulers}, {"F1TwiceInTwoSeconds", twiceInTwoSeconds}, {"F19SchedulersComeAndGo", comeAndGo},
		{"I10HoldReachesFrozenScheduler", holdWhileFrozen}, {"F5RollingRestart", rollingRestart},
	})
}

// TestApacheTakeoverThree is what depends on where the group's coordinator is and on
// how many copies a record has: the takeovers in and out of order, and the rolling
// restart.
func TestApacheTakeoverThree(t *testing.T) {
	onApache(t, 3, []scenario{
		{"OneToThreeToOneInOrder", oneToThreeToOneInOrder}, {"OneToThreeToOneKilled", oneToThreeToOneKilled}, {"F5RollingRestart", rollingRestart},
	})
}

// onApache runs scenarios on one cluster, each an installation of its own: side by
// side where there is one broker, one after the other where three share the machine
// with them.
func onApache(t *testing.T, brokers int, scenarios []scenario) {
	c := apache.Start(t, apache.Config{Brokers: brokers})
	b := broker{name: "Apache Kafka, one broker", orderly: orderlyLimit}
	if brokers > 1 {
		b.name, b.orderly = "Apache Kafka, three brokers", crowdedLimit
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			if brokers == 1 {
				t.Parallel()
			}
			b := b
			b.flags = []string{"--kafka", strings.Join(c.Addresses(), ","), "--prefix", strings.ToLower(s.name) + "."}
			s.run(t, b)
		})
	}
}
