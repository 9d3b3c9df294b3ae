package share

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// dueBy reports whether replica id is to be written to by a time.
func (d *Divider) dueBy(at time.Time, id string) bool {
	due := d.Due(id)
	return !due.IsZero() && !at.Before(due)
}

func TestFreedSlotGoesToBestBid(t *testing.T) {
	d := New(1)
	for _, id := range []string{"a", "b", "c"} {
		d.Open(start, id)
		d.Take(id, nil)
	}
	if !d.Grant(start, "a", Grant{Priority: 2, Tag: 5}) {
		t.Fatal("refused a grant into an open slot")
	}
	d.Bid(start, "a", Bid{N: 1, Rank: 3, Priority: 2, Tag: 1})
	d.Bid(start, "b", Bid{N: 1, Rank: 1, Priority: 1, Tag: 9})
	d.Bid(start, "c", Bid{N: 1, Rank: 1, Priority: 3, Tag: 9})
	d.Freed(start, 1)
	if f := d.Take("c", nil); f.Tickets != 1 {
		t.Fatalf("rank 1 and the more urgent priority got %d tickets, want 1", f.Tickets)
	}
	if d.Free() != 0 || d.Held() != 1 {
		t.Fatalf("free %d held %d, want 0 and 1", d.Free(), d.Held())
	}
	if d.Grant(start, "a", Grant{Priority: 2}) {
		t.Fatal("an open grant took the slot of another replica's ticket")
	}
	if got := d.Tell("a"); got != (Credit{Free: 0, Seen: 2}) {
		t.Fatalf("credit on the return = %+v", got)
	}
	if !d.Grant(start, "c", Grant{Ticket: true, Priority: 3}) {
		t.Fatal("refused the grant of a ticket")
	}
}

func TestSilentReplicaLosesTicketsAndIsSuspect(t *testing.T) {
	d := New(2)
	d.Open(start, "dead")
	d.Open(start, "live")
	d.Bid(start, "dead", Bid{N: 10, Rank: 0, Priority: 4})
	if d.Held() != 2 {
		t.Fatalf("held %d, want both slots", d.Held())
	}
	d.Take("dead", nil)
	d.Bid(start, "live", Bid{N: 1, Rank: 5, Priority: 0})
	d.Take("live", nil)
	if got := d.Next(); !got.Equal(start.Add(TicketValidity)) {
		t.Fatalf("next %v, want the ticket's end", got.Sub(start))
	}
	later := start.Add(TicketValidity)
	d.Tick(later)
	if f := d.Take("live", nil); f.Tickets != 1 {
		t.Fatalf("live got %d tickets, want 1", f.Tickets)
	}
	if d.Free() != 1 {
		t.Fatalf("free %d: a suspect replica's standing bid was served", d.Free())
	}
	d.Bid(later, "dead", Bid{N: 1})
	if d.Free() != 0 {
		t.Fatal("a replica that was heard again is still suspect")
	}
}

func TestPassClearsBidAndOffersAgain(t *testing.T) {
	d := New(1)
	d.Open(start, "a")
	d.Open(start, "b")
	d.Bid(start, "a", Bid{N: 5, Rank: 0, Priority: 4})
	d.Take("a", nil)
	d.Bid(start, "b", Bid{N: 1, Rank: 6, Priority: 4})
	d.Pass(start, "a", 1)
	if f := d.Take("b", nil); f.Tickets != 1 {
		t.Fatalf("b got %d tickets after a passed, want 1", f.Tickets)
	}
	d.Close(start, "b")
	if d.Free() != 1 || d.Held() != 0 {
		t.Fatalf("free %d held %d after the holder's stream closed", d.Free(), d.Held())
	}
}

// TestBidOfTheSameFrameIsNotUsedUp: a frame's bid is applied before its grants, which are older than the bid.
func TestBidOfTheSameFrameIsNotUsedUp(t *testing.T) {
	d := New(1)
	d.Open(start, "a")
	d.Take("a", nil)
	d.Bid(start, "a", Bid{N: 1, Rank: 3, Priority: 2})
	if !d.Grant(start, "a", Grant{Priority: 2}) {
		t.Fatal("refused")
	}
	if f := d.Take("a", nil); f.Tickets != 0 {
		t.Fatalf("%d tickets without a slot", f.Tickets)
	}
	d.Freed(start, 1)
	if f := d.Take("a", nil); f.Tickets != 1 {
		t.Fatal("the bid was lost")
	}
}

func TestBidIsClampedToLatestGrant(t *testing.T) {
	d := New(1)
	d.Open(start, "a")
	d.Open(start, "b")
	d.Grant(start, "a", Grant{Priority: 2, Tag: 100})
	d.Bid(start, "a", Bid{N: 1, Rank: 3, Priority: 2, Tag: 99.9})
	d.Bid(start, "b", Bid{N: 1, Rank: 3, Priority: 2, Tag: 1}) // counts as 99.75
	d.Freed(start, 1)
	if f := d.Take("b", nil); f.Tickets != 1 || len(f.Tags) != 1 || f.Tags[0] != (Tag{2, 100}) {
		t.Fatalf("frame of b = %+v", f)
	}
	if f := d.Take("b", nil); len(f.Tags) != 0 {
		t.Fatalf("an unchanged tag was sent again: %+v", f.Tags)
	}
	// v may fall: a smaller tag of the next grant lowers the clamp.
	d.Grant(start, "b", Grant{Ticket: true, Priority: 2, Tag: 1})
	if f := d.Take("a", nil); len(f.Tags) != 1 || f.Tags[0].Value != 1 {
		t.Fatalf("frame of a = %+v", f)
	}
}

func TestCreditIsCoalesced(t *testing.T) {
	d := New(64)
	d.Open(start, "a")
	d.Open(start, "b")
	if !d.dueBy(start, "a") {
		t.Fatal("a new stream is not told at once")
	}
	d.Take("a", nil)
	d.Take("b", nil)
	d.Grant(start, "a", Grant{Priority: 2})
	if d.dueBy(start.Add(time.Hour), "a") {
		t.Fatal("told a replica what it knows: its own open grant")
	}
	if d.dueBy(start.Add(CreditFar-1), "b") || !d.dueBy(start.Add(CreditFar), "b") {
		t.Fatal("with many slots open, b is to be told after 50 ms")
	}
	for range 47 {
		d.Grant(start, "a", Grant{Priority: 2})
	}
	if d.Free() != 16 || !d.dueBy(start.Add(CreditNear), "b") {
		t.Fatal("with a quarter of the slots open, b is to be told after 1 ms")
	}
	d.Freed(start, 48)
	if d.dueBy(start.Add(time.Hour), "b") {
		t.Fatal("b is due although its view is right again")
	}
}

func TestDrainKeepsRunningAndOffersNothing(t *testing.T) {
	d := New(3)
	d.Open(start, "a")
	d.Grant(start, "a", Grant{Priority: 2})
	d.Bid(start, "a", Bid{N: 1, Priority: 2})
	d.Drain(start)
	d.Bid(start, "a", Bid{N: 9, Priority: 2})
	if f := d.Take("a", nil); f.Tickets != 0 || f.Credit.Free != 0 {
		t.Fatalf("frame after drain = %+v", f)
	}
	if d.Grant(start, "a", Grant{Ticket: true, Priority: 2}) {
		t.Fatal("accepted a job while draining")
	}
	d.Freed(start, 1)
	if d.Free() != 0 || d.Running() != 0 {
		t.Fatalf("free %d running %d", d.Free(), d.Running())
	}
}

// TestDividerModel runs random programs and checks the invariants that the
// package promises after every step.
func TestDividerModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 8).Draw(t, "slots")
		d, now := New(slots), start
		ids := []string{"a", "b", "c"}
		running := 0
		t.Repeat(map[string]func(*rapid.T){
			"open":  func(t *rapid.T) { d.Open(now, rapid.SampledFrom(ids).Draw(t, "id")) },
			"close": func(t *rapid.T) { d.Close(now, rapid.SampledFrom(ids).Draw(t, "id")) },
			"bid": func(t *rapid.T) {
				d.Bid(now, rapid.SampledFrom(ids).Draw(t, "id"), Bid{
					N: rapid.IntRange(0, 4).Draw(t, "n"), Rank: rapid.IntRange(0, 6).Draw(t, "rank"),
					Priority: Priority(rapid.IntRange(0, 4).Draw(t, "p")), Tag: rapid.Float64Range(0, 2).Draw(t, "tag"),
				})
			},
			"grant": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "id")
				free, mine := d.Free(), 0
				if r := d.find(id); r != nil {
					mine = len(r.tickets)
				}
				ok := d.Grant(now, id, Grant{
					Ticket:   rapid.Bool().Draw(t, "ticket"),
					Priority: Priority(rapid.IntRange(0, 4).Draw(t, "p")), Tag: rapid.Float64Range(0, 2).Draw(t, "tag"),
				})
				if ok != (free > 0 || mine > 0) {
					t.Fatalf("grant = %v with %d free and %d tickets", ok, free, mine)
				}
				if ok {
					running++
				}
			},
			"freed": func(t *rapid.T) {
				n := rapid.IntRange(0, running).Draw(t, "n")
				running -= n
				d.Freed(now, n)
			},
			"pass": func(t *rapid.T) {
				d.Pass(now, rapid.SampledFrom(ids).Draw(t, "id"), rapid.IntRange(0, 3).Draw(t, "n"))
			},
			"take": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "id")
				f := d.Take(id, nil)
				if f.HasCredit && f.Credit.Free != d.Free() {
					t.Fatalf("told %d, free %d", f.Credit.Free, d.Free())
				}
				if d.dueBy(now, id) {
					t.Fatal("due again right after Take")
				}
			},
			"tick": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "ms")) * time.Millisecond)
				d.Tick(now)
			},
			"": func(t *rapid.T) {
				if d.running != running || d.running+d.held+d.Free() != slots || d.held < 0 {
					t.Fatalf("running %d (model %d) + held %d + free %d ≠ %d", d.running, running, d.held, d.Free(), slots)
				}
				held := 0
				for _, r := range d.replicas {
					held += len(r.tickets)
					if r.unsent < 0 || r.unsent > len(r.tickets) {
						t.Fatalf("%s: %d unsent of %d tickets", r.id, r.unsent, len(r.tickets))
					}
					if d.Free() > 0 && r.bid.N > 0 && !r.suspect {
						t.Fatalf("%s bids and %d slots are open", r.id, d.Free())
					}
					if wrong := r.untold || r.believes() != d.Free(); wrong == r.since.IsZero() {
						t.Fatalf("%s: view wrong %v, since %v", r.id, wrong, r.since)
					}
				}
				if held != d.held {
					t.Fatalf("held %d, tickets %d", d.held, held)
				}
			},
		})
	})
}

func BenchmarkFreedAndGranted(b *testing.B) {
	d := New(64)
	for _, id := range []string{"a", "b", "c"} {
		d.Open(start, id)
	}
	for range 64 {
		d.Grant(start, "a", Grant{Priority: 2})
	}
	tags := make([]Tag, 0, Priorities)
	b.ReportAllocs()
	for b.Loop() {
		d.Bid(start, "a", Bid{N: 1, Rank: 3, Priority: 2, Tag: 1})
		d.Freed(start, 1)
		f := d.Take("a", tags[:0])
		if f.Tickets != 1 || !d.Grant(start, "a", Grant{Ticket: true, Priority: 2, Tag: 1}) {
			b.Fatal("no ticket")
		}
	}
}
