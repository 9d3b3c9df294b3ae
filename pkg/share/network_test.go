package share

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// peer is the other end of one stream: a replica with a queue of equal jobs
// that follows the pump of the scheduling rule, without quotas and lending.
type peer struct {
	queue   int
	free    int   // as told
	sent    int64 // open grants sent
	seen    int64 // as told
	tickets []time.Time
	bid     bool

	toPeer   []Frame // in flight, worker → replica, in order
	toWorker []msg
}

type msg struct {
	grant *Grant
	bid   *Bid
	pass  int
}

func (p *peer) pump(now time.Time, dist int) {
	for len(p.tickets) > 0 && !now.Before(p.tickets[0]) {
		p.tickets = p.tickets[1:]
	}
	for p.queue > 0 {
		ticket := len(p.tickets) > 0
		if !ticket && p.free-int(p.sent-p.seen) <= 0 {
			break
		}
		if ticket {
			p.tickets = p.tickets[1:]
		} else {
			p.sent++
		}
		p.queue--
		p.bid = p.queue > 0
		p.toWorker = append(p.toWorker, msg{grant: &Grant{Ticket: ticket, Priority: 2, Tag: float64(dist)}, bid: &Bid{N: p.queue, Rank: 3, Priority: 2}})
	}
	if p.queue == 0 && len(p.tickets) > 0 {
		p.toWorker = append(p.toWorker, msg{pass: len(p.tickets)})
		p.tickets, p.bid = nil, false
	}
	if p.queue > 0 && !p.bid {
		p.bid = true
		p.toWorker = append(p.toWorker, msg{bid: &Bid{N: p.queue, Rank: 3, Priority: 2}})
	}
}

// TestNetworkSettles joins the divider with three replicas by streams that keep
// their order and delay as they like. Every job runs exactly once, and at rest
// every replica knows the number of open slots.
func TestNetworkSettles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 6).Draw(t, "slots")
		d, now := New(slots), start
		ids := []string{"a", "b", "c"}
		peers := map[string]*peer{}
		offered, done, running := 0, 0, 0
		for _, id := range ids {
			peers[id] = &peer{}
			d.Open(now, id)
		}
		deliver := func(id string) {
			p := peers[id]
			if len(p.toWorker) == 0 {
				return
			}
			m := p.toWorker[0]
			p.toWorker = p.toWorker[1:]
			if m.grant != nil {
				if d.Grant(now, id, *m.grant) {
					running++
				} else {
					c := d.Tell(id)
					p.toPeer = append(p.toPeer, Frame{Credit: c, HasCredit: true})
					p.queue++ // the Return; its job is at the front again
				}
			}
			if m.bid != nil {
				d.Bid(now, id, *m.bid)
			}
			if m.pass > 0 {
				d.Pass(now, id, m.pass)
			}
		}
		write := func(id string) {
			if d.dueBy(now, id) {
				peers[id].toPeer = append(peers[id].toPeer, d.Take(id, nil))
			}
		}
		read := func(id string) {
			p := peers[id]
			if len(p.toPeer) == 0 {
				return
			}
			f := p.toPeer[0]
			p.toPeer = p.toPeer[1:]
			if f.HasCredit {
				p.free, p.seen = f.Credit.Free, f.Credit.Seen
			}
			for range f.Tickets {
				p.tickets = append(p.tickets, now.Add(TicketValidity))
			}
			p.pump(now, offered)
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			id := rapid.SampledFrom(ids).Draw(t, "id")
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0:
				n := rapid.IntRange(1, 5).Draw(t, "jobs")
				peers[id].queue += n
				offered += n
				peers[id].pump(now, offered)
			case 1:
				deliver(id)
			case 2:
				read(id)
			case 3:
				write(id)
			case 4:
				if running > 0 {
					running--
					done++
					d.Freed(now, 1)
				}
			case 5:
				now = now.Add(time.Millisecond)
				d.Tick(now)
			case 6:
				now = now.Add(TicketValidity)
				d.Tick(now)
			}
			if running > slots {
				t.Fatalf("%d jobs run in %d slots", running, slots)
			}
		}
		for range 5000 {
			now = now.Add(time.Millisecond)
			d.Tick(now)
			for _, id := range ids {
				deliver(id)
				write(id)
				read(id)
				peers[id].pump(now, offered)
			}
			if running > 0 {
				running--
				done++
				d.Freed(now, 1)
			}
			if done == offered {
				break
			}
		}
		now = now.Add(CreditFar)
		d.Tick(now)
		for range 100 {
			for _, id := range ids {
				deliver(id)
				write(id)
				read(id)
			}
			now = now.Add(CreditFar)
			d.Tick(now)
		}
		for _, id := range ids {
			p := peers[id]
			if p.free-int(p.sent-p.seen) != slots {
				t.Fatalf("%s believes %d of %d slots are open", id, p.free-int(p.sent-p.seen), slots)
			}
		}
		if done != offered || d.Free() != slots {
			t.Fatalf("%d of %d jobs ran, %d of %d slots open", done, offered, d.Free(), slots)
		}
	})
}
