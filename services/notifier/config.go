package notifier

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/spillway/spillway/pkg/kafka"
)

// Config is what an operator sets.
type Config struct {
	// Replica is this replica's name, kept over restarts.
	Replica string `env:"SPILLWAY_REPLICA" default:"notifier-0" doc:"name of this replica, kept over restarts"`
	// Address is where others reach this replica; empty: the listener's.
	Address string `env:"SPILLWAY_ADVERTISE" doc:"host:port at which others reach this replica; empty: the listener's address"`
	// Prefix is the topics' prefix.
	Prefix string `env:"SPILLWAY_PREFIX" default:"spillway." doc:"prefix of the topics"`
	// Durability is the declared durability mode.
	Durability string `env:"SPILLWAY_DURABILITY" default:"replicated" doc:"replicated (RF 3, min ISR 2) or single: weaker topics are refused"`
	// Origins are the origins that browsers may come from, separated by commas; clients that are no browsers send none and need none.
	Origins string `env:"SPILLWAY_NOTIFIER_ORIGINS" doc:"origins that browsers may come from, exact (https://app.example.com), separated by commas; empty: no browser may"`
	// Schedulers is where the worker of type notify finds the schedulers; empty: there is no such worker.
	Schedulers string `env:"SPILLWAY_NOTIFIER_SCHEDULERS" doc:"gRPC targets of schedulers, separated by commas; empty: jobs of type notify are left to others"`
	// WorkerTokenFile holds the credential of that worker.
	WorkerTokenFile string `env:"SPILLWAY_NOTIFIER_WORKER_TOKEN_FILE" doc:"file with a token of role worker, for the schedulers"`
	// Concurrency is how many jobs of type notify run at the same time.
	Concurrency int `env:"SPILLWAY_NOTIFIER_CONCURRENCY" default:"64" doc:"jobs of type notify that run at the same time"`
	// Ring bounds what all partitions keep for clients that come back, in bytes.
	Ring int64 `env:"SPILLWAY_NOTIFIER_RING" default:"33554432" unit:"bytes" doc:"latest notifications kept in memory for slow and returning clients"`
	// Sessions bounds the websockets of this replica.
	Sessions int `env:"SPILLWAY_NOTIFIER_SESSIONS" default:"20000" doc:"websockets of this replica, as far as it has files; more are sent elsewhere"`
	// PerAddress bounds the websockets of one network address, and as many connections that are none yet; 0: only Sessions does. Behind a proxy all come from its address, and the proxy has to do it.
	PerAddress int `env:"SPILLWAY_NOTIFIER_PER_ADDRESS" default:"0" doc:"websockets of one network address; 0: no limit, as behind a proxy, which has to limit them"`
	// Inflight bounds the notifications that wait for the log, in bytes.
	Inflight int64 `env:"SPILLWAY_NOTIFIER_INFLIGHT" default:"16777216" unit:"bytes" doc:"notifications that wait for the log; more are refused with OVERLOADED"`
	// Reflection serves gRPC reflection.
	Reflection bool `env:"SPILLWAY_REFLECTION" default:"false" doc:"serve gRPC reflection to role read"`
}

// Bounds of settings.
const (
	// minInflight holds a whole batch in a source's share.
	minInflight    = 13 << 20
	maxInflight    = 16 << 30
	minRing        = 1 << 20
	maxRing        = 64 << 30
	maxSessions    = 1_000_000
	maxConcurrency = 10_000
	maxOrigins     = 64
)

// Validate returns what is wrong, everything at once.
func (c Config) Validate() error {
	var wrong []error
	fail := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	fail(c.Replica != "" && len(c.Replica) <= 64 && utf8.ValidString(c.Replica), "SPILLWAY_REPLICA is %q, want 1 to 64 bytes of text", c.Replica)
	fail(c.Durability == kafka.Replicated || c.Durability == kafka.Single, "SPILLWAY_DURABILITY is %q, want replicated or single", c.Durability)
	origins := c.origins()
	fail(len(origins) <= maxOrigins, "SPILLWAY_NOTIFIER_ORIGINS are %d, at most %d are compared", len(origins), maxOrigins)
	for _, o := range origins {
		fail(isOrigin(o), "SPILLWAY_NOTIFIER_ORIGINS has %q, want scheme://host or scheme://host:port as browsers send it: every page of a listed origin may use its visitors' tokens", o)
	}
	if c.Schedulers == "" && c.WorkerTokenFile != "" {
		wrong = append(wrong, errors.New("SPILLWAY_NOTIFIER_WORKER_TOKEN_FILE is set and SPILLWAY_NOTIFIER_SCHEDULERS is not"))
	}
	fail(c.Concurrency >= 1 && c.Concurrency <= maxConcurrency, "SPILLWAY_NOTIFIER_CONCURRENCY is %d, want 1 to %d", c.Concurrency, maxConcurrency)
	fail(c.Ring >= minRing && c.Ring <= maxRing, "SPILLWAY_NOTIFIER_RING is %d bytes, want 1 MiB to 64 GiB", c.Ring)
	fail(c.Sessions >= 1 && c.Sessions <= maxSessions, "SPILLWAY_NOTIFIER_SESSIONS is %d, want 1 to %d", c.Sessions, maxSessions)
	fail(c.PerAddress >= 0 && c.PerAddress <= maxSessions, "SPILLWAY_NOTIFIER_PER_ADDRESS is %d, want 0 (no limit) to %d", c.PerAddress, maxSessions)
	fail(c.Inflight >= minInflight && c.Inflight <= maxInflight, "SPILLWAY_NOTIFIER_INFLIGHT is %d bytes, want 13 MiB to 16 GiB", c.Inflight)
	return errors.Join(wrong...)
}

// origins are the listed ones.
func (c Config) origins() []string {
	var list []string
	for o := range strings.SplitSeq(c.Origins, ",") {
		if o = strings.TrimSpace(o); o != "" {
			list = append(list, o)
		}
	}
	return list
}

// isOrigin holds for what a browser can send: origins are compared byte by byte. There is no pattern among them, least of all "*".
func isOrigin(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil && text == u.Scheme+"://"+u.Host &&
		text == strings.ToLower(text) && !strings.Contains(text, "*")
}
