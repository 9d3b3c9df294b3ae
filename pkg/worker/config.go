package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/telemetry"
)

// Config is what a worker needs to know. Schedulers and Concurrency are required.
type Config struct {
	// Schedulers is where to find the first scheduler: a gRPC target such as "dns:///scheduler:7410" or "host:port",
	// or several separated by commas. All other replicas are learnt from the first.
	Schedulers string
	// Concurrency is how many jobs run at the same time, 1 to 10,000.
	Concurrency int

	// Token authenticates the worker; TokenFile names a file that holds it and is read again for every connection. Both empty: none.
	Token, TokenFile string

	// Version is the program's version, for people. At most 64 printable bytes.
	Version string
	// Drain is how long Run waits for running jobs after its context has ended, before their contexts end too. 0: 30 s.
	Drain time.Duration

	// Log gets what an operator must know: connections won and lost, panics. nil: nothing.
	Log *slog.Logger
	// Telemetry makes the spans "process <type>" and "queue wait". nil: no spans.
	Telemetry *telemetry.Telemetry
	// DialOptions are added to those of every connection, such as transport credentials.
	DialOptions []grpc.DialOption
}

const (
	defaultDrain = 30 * time.Second
	// drainGrace is what handlers get to return after their contexts have ended.
	drainGrace = 5 * time.Second
	// settleWait is how long a drained worker waits for its last results to be durable: longer than a commit of a
	// loaded broker, shorter than a broker's restart, after which the jobs run again elsewhere.
	settleWait = 10 * time.Second

	maxConcurrency = 10_000 // of Hello.concurrency
	minUnsettled   = 1024   // results; about 0.2 s of a very fast worker
)

func (c Config) validate() error {
	var errs []error
	if len(targets(c.Schedulers)) == 0 {
		errs = append(errs, errors.New("field Schedulers is empty"))
	}
	if c.Concurrency < 1 || c.Concurrency > maxConcurrency {
		errs = append(errs, fmt.Errorf("field Concurrency is %d, must be 1 to %d", c.Concurrency, maxConcurrency))
	}
	if len(c.Version) > 64 {
		errs = append(errs, errors.New("field Version is longer than 64 bytes"))
	}
	if c.Drain < 0 {
		errs = append(errs, errors.New("field Drain is negative"))
	}
	if len(errs) > 0 {
		return fmt.Errorf("worker: %w", errors.Join(errs...))
	}
	return nil
}

// targets splits the bootstrap list.
func targets(list string) []string {
	var out []string
	for t := range strings.SplitSeq(list, ",") {
		if t = strings.TrimSpace(t); t != "" {
			out = append(out, t)
		}
	}
	return out
}
