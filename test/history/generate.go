package history

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/spillway/spillway/pkg/client"
)

// Source is one flow of jobs.
type Source struct {
	Name string
	// Rate is in jobs per second. The gaps are drawn, with this mean.
	Rate float64
	// Work is the range that a handler's time is drawn from; Most at least Least.
	Least, Most time.Duration
	// FailOnce is the part of the jobs whose first attempt fails by order.
	FailOnce float64
	// Again is the part of the jobs that are sent a second time, under the same key.
	Again float64
	// Limit is the quota that the source is registered with.
	Limit Limit
}

// answerLimit outlasts the service's own 20 s and a try after it, so that what is
// written down is the service's verdict and not our impatience.
const answerLimit = 45 * time.Second

// againAfter is how long after the first call the second one comes: inside every
// window in which the service has to recognise it.
const againAfter = 300 * time.Millisecond

// generator sends jobs on a schedule that was drawn from the seed, whatever the
// answers do.
type generator struct {
	seed    uint64
	log     *Log
	clients []*client.Client
	calls   sync.WaitGroup
	fail    func(error)
}

// dial connects to enqueue replicas as a user does to a name with several addresses:
// calls go round, and one that is away is left out.
func dial(addresses []string, token string) (*client.Client, error) {
	several := manual.NewBuilderWithScheme("enqueue")
	state := resolver.State{}
	for _, a := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	several.InitialState(state)
	c, err := client.Dial("enqueue:///all", client.WithToken(token), client.WithDialOptions(grpc.WithResolvers(several)))
	if err != nil {
		return nil, fmt.Errorf("dial enqueue: %w", err)
	}
	return c, nil
}

// send sends a source's jobs until ctx ends, and returns then; calls go on.
func (g *generator) send(ctx context.Context, n int, s Source) {
	draw := rand.New(rand.NewPCG(g.seed, uint64(n)))
	begin, due := time.Now(), time.Duration(0)
	for k := 0; ; k++ {
		// Gaps between half and one and a half of the mean: irregular, and never a
		// burst that a quota would have to judge.
		due += time.Duration((0.5 + draw.Float64()) * float64(time.Second) / s.Rate)
		p := payload{Key: g.key(n, k), Work: s.Least + time.Duration(draw.Float64()*float64(s.Most-s.Least))}
		if draw.Float64() < s.FailOnce {
			p.Fails = 1
		}
		again := draw.Float64() < s.Again
		size := 100 + draw.IntN(400)
		timer := time.NewTimer(time.Until(begin.Add(due)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		mono, _ := Now()
		at := mono - int64(time.Since(begin)-due)
		g.calls.Go(func() { g.job(n, s, p, at, size) })
		if again {
			g.calls.Go(func() {
				time.Sleep(againAfter)
				g.job(n, s, p, at, size)
			})
		}
	}
}

// key is a job's key: drawn from the seed, so that a run can be had again.
func (g *generator) key(n, k int) string {
	var b [24]byte
	binary.BigEndian.PutUint64(b[:], g.seed)
	binary.BigEndian.PutUint64(b[8:], uint64(n))
	binary.BigEndian.PutUint64(b[16:], uint64(k))
	h := sha256.Sum256(b[:])
	return fmt.Sprintf("%d-%d-%x", n, k, h[:6])
}

// job sends one job and writes down what became of the call.
func (g *generator) job(n int, s Source, p payload, due int64, size int) {
	body := p.encode(size)
	e := Event{Key: p.Key, Source: s.Name, Due: due, Fails: p.Fails, Sum: sum(body)}
	e.Kind = Invoke
	if err := g.log.Write(e); err != nil {
		g.fail(err)
		return // what is not on file is not sent
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	r, err := g.clients[n%len(g.clients)].Enqueue(ctx, client.Job{Source: s.Name, Type: jobType, Payload: body, ContentType: "application/json", Key: p.Key})
	e = Event{Key: p.Key, Source: s.Name, Kind: OK, Job: r.JobID}
	if err != nil {
		e.Kind, e.Code = Info, err.Error()
		if client.Refused(err) {
			e.Kind = Fail
		}
	}
	if err := g.log.Write(e); err != nil {
		g.fail(err)
	}
}

// jobType is what all jobs are.
const jobType = "step"
