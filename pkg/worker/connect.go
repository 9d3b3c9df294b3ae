package worker

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/rpc"
)

const (
	// backoffMin and backoffMax bound the time between two tries of one address. The longest is below the TTL of a
	// lease, so a replica that comes back is found before its leases are lost.
	backoffMin = 50 * time.Millisecond
	backoffMax = 5 * time.Second
	// steady is how long a stream must have lived for its address to count as good again.
	steady = time.Second
)

// retry is when an address may be dialled again.
type retry struct {
	delay  time.Duration
	after  time.Time
	logged bool
}

// next counts one more failure.
func (r *retry) next(now time.Time) {
	r.delay = min(max(backoffMin, 2*r.delay), backoffMax)
	// Half to one and a half: workers that lost the same replica do not come back together.
	r.after = now.Add(r.delay/2 + rand.N(r.delay))
}

// owner is who a shard belongs to; link is nil while nobody is known to have it.
type owner struct {
	epoch int64
	link  *link
}

// connect keeps one stream to every replica of the topology, until ctx ends. While there is none at all it tries the
// addresses of the configuration one after the other. It owns the goroutines of all links.
func (w *Worker) connect(ctx context.Context) {
	retries := map[string]*retry{}
	boot := 0
	type end struct {
		link *link
		err  error
	}
	ends := make(chan end)
	running := 0
	for {
		w.mu.Lock()
		dial, wait := w.wanted(time.Now(), retries, boot)
		w.mu.Unlock()
		for _, l := range dial {
			if l.boot {
				boot++
			}
			running++
			go func() {
				ends <- end{l, w.serve(ctx, l)}
			}()
		}
		timer := time.NewTimer(wait)
		select {
		case e := <-ends:
			running--
			w.ended(e.link, e.err, retries)
		case <-w.changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			for ; running > 0; running-- {
				<-ends
			}
			return
		}
		timer.Stop()
	}
}

// wanted makes the links that have to be dialled now, and says when to look again.
func (w *Worker) wanted(now time.Time, retries map[string]*retry, boot int) (dial []*link, wait time.Duration) {
	wait = backoffMax
	try := func(address string, isBoot bool) {
		if r := retries[address]; r != nil && now.Before(r.after) {
			wait = min(wait, r.after.Sub(now))
			return
		}
		dial = append(dial, w.newLink(address, isBoot))
	}
	for _, r := range w.topology {
		if !slices.ContainsFunc(w.links, func(l *link) bool { return !l.drained && (l.replica == r.GetId() || l.address == r.GetAddress()) }) {
			try(r.GetAddress(), false)
		}
	}
	if !slices.ContainsFunc(w.links, func(l *link) bool { return !l.drained && (l.boot || !l.welcomed.IsZero()) }) {
		// No replica has us, and what the topology says may be history: any bootstrap address that may be dialled now.
		all := targets(w.cfg.Schedulers)
		for i := range all {
			address := all[(boot+i)%len(all)]
			if slices.ContainsFunc(w.links, func(l *link) bool { return !l.drained && l.address == address }) {
				continue
			}
			n := len(dial)
			if try(address, true); len(dial) > n {
				break
			}
		}
	}
	for address, r := range retries {
		if now.Sub(r.after) > time.Minute {
			delete(retries, address) // a replica that has moved; keeps the map as small as the topology
		}
	}
	return dial, wait
}

// ended forgets a link and decides when its address is tried again.
func (w *Worker) ended(l *link, err error, retries map[string]*retry) {
	now := time.Now()
	w.mu.Lock()
	w.links = slices.DeleteFunc(w.links, func(o *link) bool { return o == l })
	draining := w.draining
	w.mu.Unlock()
	r := retries[l.address]
	if r == nil {
		r = &retry{}
		retries[l.address] = r
	}
	welcomed := !l.welcomed.IsZero()
	if welcomed && (errors.Is(err, errDrained) || now.Sub(l.welcomed) >= steady) {
		*r = retry{}
	} else {
		r.next(now)
	}
	switch {
	case draining, errors.Is(err, errClosed), errors.Is(err, errDuplicate):
	case errors.Is(err, errDrained):
		w.log.Info("scheduler ends the stream", "replica", l.replica, "address", l.address)
	case welcomed:
		w.log.Warn("scheduler lost", "replica", l.replica, "address", l.address, "error", err)
	case !r.logged:
		r.logged = true // once per address until it answered: a replica that stays away fills no log
		w.log.Warn("scheduler not reached", "address", l.address, "error", err)
	}
}

// reconnect wakes connect.
func (w *Worker) reconnect() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// oneAddress: a stream needs one connection, whatever a bootstrap name resolves to.
const oneAddress = `{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}`

func (w *Worker) dialConfig() rpc.DialConfig {
	options := append([]grpc.DialOption{grpc.WithDefaultServiceConfig(oneAddress)}, w.cfg.DialOptions...)
	return rpc.DialConfig{Token: w.cfg.Token, TokenFile: w.cfg.TokenFile, Options: options}
}
