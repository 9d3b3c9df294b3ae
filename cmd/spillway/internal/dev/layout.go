package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
)

// Options are what a dev is asked for.
type Options struct {
	// DataDir holds the broker's logs, keys and the ready file. It must exist.
	DataDir string
	// PortBase is the first port; 0: free ports.
	PortBase int
	// Schedulers and Enqueues are how many replicas to start, at least 1;
	// Notifiers may be 0 for none.
	Schedulers, Enqueues, Notifiers int
	// ReadyFile is written when everything is ready; "" for none but the one
	// in DataDir.
	ReadyFile string
	// LogLevel is what the children tell at least: DEBUG, INFO, WARN or ERROR.
	LogLevel string
	// Log, if it names brokers, is a cluster to use instead of the embedded
	// broker.
	Log connect.Settings
	// Prefix stands before the names of all topics; "" for the default one. The
	// embedded broker has no other.
	Prefix string
}

// The memory ceilings of the contract, in bytes.
const (
	enqueueCeiling    = 150 << 20
	schedulerCeiling  = 300 << 20
	notifierCeiling   = 300 << 20
	automationCeiling = 100 << 20
	brokerCeiling     = 1536 << 20
)

// Ports of the contract, relative to the port base.
const (
	enqueuePort    = 0
	schedulerPort  = 10
	notifierPort   = 20
	automationPort = 30
	pagesPort      = 80
	// spacing is the room between two services.
	spacing = 10
	maxPort = 65535
)

// Kinds of services, as `spillway serve` calls them.
const (
	enqueueKind    = "enqueue"
	schedulerKind  = "scheduler"
	notifierKind   = "notifier"
	automationKind = "automation"
)

// service is one replica of a service, with its addresses.
type service struct {
	kind, name  string
	grpc, admin string
	web         string // of websockets; "" for none
	ceiling     int64
}

// services lays out the replicas in the order of their start, which is that of
// their stop reversed: jobs end before what runs them. reserve takes a port, or
// any free one for 0.
func (o Options) services(reserve func(port int) (int, error)) ([]service, error) {
	var list []service
	for _, s := range []struct {
		kind    string
		offset  int
		count   int
		ceiling int64
	}{
		{automationKind, automationPort, 1, automationCeiling},
		{schedulerKind, schedulerPort, o.Schedulers, schedulerCeiling},
		{notifierKind, notifierPort, o.Notifiers, notifierCeiling},
		{enqueueKind, enqueuePort, o.Enqueues, enqueueCeiling},
	} {
		for i := range s.count {
			r := service{kind: s.kind, name: s.kind, ceiling: s.ceiling}
			if s.count > 1 || s.kind == schedulerKind {
				r.name += "-" + strconv.Itoa(i)
			}
			addresses := []*string{&r.grpc, &r.admin}
			if s.kind == notifierKind {
				addresses = append(addresses, &r.web)
			}
			first := o.port(s.offset, i, len(addresses))
			for n, to := range addresses {
				port := first
				if port != 0 {
					port += n
				}
				port, err := reserve(port)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", r.name, err)
				}
				*to = loopback(port)
			}
			list = append(list, r)
		}
	}
	return list, nil
}

// port is the first of replica i's ports, of which each replica has some: they
// follow those of the replica before while all fit below the next service, else
// 0.
func (o Options) port(offset, i, each int) int {
	if o.PortBase == 0 || each*(i+1) > spacing {
		return 0
	}
	return o.PortBase + offset + each*i
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// reservation holds ports until their services are about to start: so no two
// get the same, and one that is taken shows before anything was started.
type reservation struct {
	listeners []net.Listener
	// wait bounds waiting for a port that is taken: the services of a dev that
	// was killed are still stopping. Nil: no waiting.
	wait context.Context
}

// portPoll is how often a port that is taken is tried again.
const portPoll = 50 * time.Millisecond

// take reserves a port, or any free one for 0.
func (r *reservation) take(port int) (int, error) {
	l, err := r.listen(port)
	if err != nil {
		return 0, err
	}
	r.listeners = append(r.listeners, l)
	return l.Addr().(*net.TCPAddr).Port, nil
}

// listen opens a port that stays with the caller.
func (r *reservation) listen(port int) (net.Listener, error) {
	l, err := net.Listen("tcp", loopback(port))
	for r.wait != nil && r.wait.Err() == nil && errors.Is(err, syscall.EADDRINUSE) {
		select {
		case <-r.wait.Done():
		case <-time.After(portPoll):
		}
		l, err = net.Listen("tcp", loopback(port))
	}
	if err != nil {
		return nil, exit.With(exit.Precondition, fmt.Errorf("port %d: %w; choose others with --port-base, 0 for free ones", port, err))
	}
	return l, nil
}

func (r *reservation) release() {
	for _, l := range r.listeners {
		l.Close()
	}
	r.listeners = nil
}
