package replay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/send"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/judge"
)

// redialEvery is how often a reader that was cut off tries to come back.
const redialEvery = 200 * time.Millisecond

// seatTimeout is how long all clients may take to be connected at first.
const seatTimeout = 20 * time.Second

// sleepFor is how long a client that never reads stays before it connects anew:
// about as long as it takes to be cut off. So there are as many in the whole
// run, and nearly all of them with full sockets in the flood.
const sleepFor = 10 * time.Second

// audience is all websocket clients. Those that never read do not notice when
// they are cut off, as a sleeping phone does not, but they wake up and come
// back; readers come back at once.
type audience struct {
	dial func(context.Context, client) (socket, error)
	post *judge.Post

	readers []client
	stop    context.CancelFunc
	running sync.WaitGroup
}

// take connects everybody, the stalled clients of a tenant before its readers:
// they were there first.
func (a *audience) take(ctx context.Context) error {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	a.stop = stop
	ctx, cancel := context.WithTimeout(ctx, seatTimeout)
	defer cancel()
	for t := range judge.Tenants {
		for n := judge.Clients - 1; n >= 0; n-- {
			c := client{number: len(a.readers), tenant: fmt.Sprintf("t%d", t+1), reads: n < judge.Readers}
			s, err := a.dial(ctx, c)
			if err != nil {
				return fmt.Errorf("client of tenant %s: %w", c.tenant, err)
			}
			if !c.reads {
				a.running.Go(func() { a.sleep(life, c, s) })
				continue
			}
			a.readers = append(a.readers, c)
			a.running.Go(func() { a.read(life, c, s) })
		}
	}
	return nil
}

// sleep holds a connection that nobody reads, and replaces it time and again
// until ctx ends. The first time comes early for some, so that not all come back
// at once.
func (a *audience) sleep(ctx context.Context, c client, s socket) {
	next := time.Now().Add(rand.N(sleepFor))
	for send.SleepUntil(ctx, next) {
		s.Close()
		var err error
		if s, err = a.dial(ctx, c); err != nil {
			s, next = awake{}, time.Now().Add(redialEvery)
			continue
		}
		next = time.Now().Add(sleepFor)
	}
	s.Close()
}

// awake is no connection.
type awake struct{ socket }

func (awake) Close() {}

// read notes what a reader gets until ctx ends.
func (a *audience) read(ctx context.Context, c client, s socket) {
	for {
		data, gap, err := s.Next(ctx)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			s.Close()
			return
		case err != nil:
			s.Close()
			a.post.Cut()
			for {
				if !send.SleepUntil(ctx, time.Now().Add(redialEvery)) {
					return
				}
				if s, err = a.dial(ctx, c); err == nil {
					break
				}
			}
		case gap:
			a.post.Gap()
		default:
			a.post.Took(c.number, data, now)
		}
	}
}

// missing counts the notifications of finished jobs that readers should have
// and those that they do not have.
func (a *audience) missing(book *tally.Book, run plan.Run) (expected, missing int) {
	readers := make(map[string][]int, judge.Tenants)
	for _, c := range a.readers {
		readers[c.tenant] = append(readers[c.tenant], c.number)
	}
	book.Each(func(f tally.Fate) {
		if !f.Finished {
			return
		}
		for _, n := range readers[run.Tenant(f.Flow, f.Seq)] {
			expected++
			if !a.post.Has(n, f.Flow, f.Seq) {
				missing++
			}
		}
	})
	return expected, missing
}

// leave closes all connections and waits for them.
func (a *audience) leave() {
	if a.stop != nil {
		a.stop()
	}
	a.running.Wait()
}
