package apache

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config says what to start. Its zero value is one broker without security.
type Config struct {
	// Brokers is 1 or 3; 0 means 1. With three, topics have three replicas
	// and need two of them.
	Brokers int
	// Secure makes the brokers speak SASL_SSL with SCRAM-SHA-512 only, and
	// nobody but the admin may do anything without an ACL.
	Secure bool
	// SessionTimeout is broker.session.timeout.ms, after which a broker that
	// died is fenced; 0 means 3 s, which Spillway recommends. Kafka's own
	// default is 9 s.
	SessionTimeout time.Duration
	// Override holds broker settings that differ from those of this package.
	Override map[string]string
}

const (
	// defaultSession is the broker.session.timeout.ms that Spillway recommends.
	defaultSession = 3 * time.Second
	// lowPort and highPort enclose the ports that are tried. They are below
	// those that systems give to outgoing connections, so that nobody takes
	// the port of a broker that is down for a moment.
	lowPort, highPort = 20000, 32000
)

// member is one broker's place in its cluster.
type member struct {
	id                 int // from 1, as Kafka counts
	port, control      int // of clients, of controllers
	directory          string
	dir                string // everything of this broker
	properties, stdout string
}

func (m member) address() string    { return loopback(m.port) }
func (m member) controller() string { return loopback(m.control) }

// plan gives every broker ports, directories and names.
func plan(dir string, brokers int) ([]member, error) {
	ports, err := freePorts(2 * brokers)
	if err != nil {
		return nil, err
	}
	members := make([]member, brokers)
	for i := range members {
		own := filepath.Join(dir, fmt.Sprintf("broker-%d", i+1))
		members[i] = member{
			id: i + 1, port: ports[2*i], control: ports[2*i+1], directory: uuid(), dir: own,
			properties: filepath.Join(own, "server.properties"), stdout: filepath.Join(own, "log"),
		}
	}
	return members, nil
}

// settings are the server.properties of one broker. Format and start must see
// the same ones.
func (m member) settings(config Config, members []member, secrets *secrets) string {
	var controllers []string
	for _, other := range members {
		controllers = append(controllers, other.controller())
	}
	listener, replicas := "PLAINTEXT", strconv.Itoa(len(members))
	if secrets != nil {
		listener = "SASL_SSL"
	}
	session := config.SessionTimeout
	if session == 0 {
		session = defaultSession
	}
	set := map[string]string{
		"process.roles":                       "broker,controller",
		"node.id":                             strconv.Itoa(m.id),
		"listeners":                           listener + "://" + m.address() + ",CONTROLLER://" + m.controller(),
		"advertised.listeners":                listener + "://" + m.address(),
		"inter.broker.listener.name":          listener,
		"controller.listener.names":           "CONTROLLER",
		"listener.security.protocol.map":      listener + ":" + listener + ",CONTROLLER:PLAINTEXT",
		"controller.quorum.bootstrap.servers": strings.Join(controllers, ","),
		"log.dirs":                            filepath.Join(m.dir, "data"),

		"default.replication.factor":       replicas,
		"offsets.topic.replication.factor": replicas,
		"min.insync.replicas":              strconv.Itoa((len(members) + 1) / 2),
		"auto.create.topics.enable":        "false",

		// A broker that died is fenced after the session, which its
		// heartbeats must keep alive.
		"broker.session.timeout.ms":    strconv.FormatInt(session.Milliseconds(), 10),
		"broker.heartbeat.interval.ms": "500",

		// Groups form at once: a test has no fleet that joins one by one.
		"group.initial.rebalance.delay.ms": "0",
		"group.min.session.timeout.ms":     "1000",

		// Small: the defaults are 50 partitions of offsets and 128 MiB.
		"offsets.topic.num.partitions":   "4",
		"log.cleaner.dedupe.buffer.size": "16777216",
	}
	if secrets != nil {
		maps.Copy(set, secrets.settings())
	}
	maps.Copy(set, config.Override)
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(set)) {
		fmt.Fprintf(&b, "%s=%s\n", key, set[key])
	}
	return b.String()
}

// freePorts finds ports on which nobody listens. Another process may take one
// before the broker does; the broker then does not start and its log says so.
func freePorts(n int) ([]int, error) {
	var found []int
	for range 50 * n {
		port := lowPort + rand.IntN(highPort-lowPort)
		listener, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		defer listener.Close() // all at the end, so that none is found twice
		if found = append(found, port); len(found) == n {
			return found, nil
		}
	}
	return nil, fmt.Errorf("no %d free ports between %d and %d", n, lowPort, highPort)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
