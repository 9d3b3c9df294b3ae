package core

import (
	"encoding/binary"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// succession is a line of owners: one engine after the other owns the shard; each leaves its leases to the next. Beside it, the truth: which lease is valid until when.
type succession struct {
	t      *rapid.T
	e      *Engine
	epoch  int64
	now    time.Time
	jobs   []*heirloom
	unread []*heirloom
	cap    int32
	joined map[string]bool
}

// heirloom is a job and what the truth is about it.
type heirloom struct {
	id      JobID
	ended   bool // it has its outcome
	lease   Token
	worker  string // "": nobody has a lease
	until   time.Time
	arrived bool // the worker has it
	over    bool // the worker has reported, before the job was read
	home    Home
	last    Token
}

const handoverTTL = 20 * time.Second

func (s *succession) valid(h *heirloom) bool { return h.worker != "" && h.until.After(s.now) }

// own begins a new engine that inherits held.
func (s *succession) own(held []Held) {
	s.epoch += 10
	s.e = New(Config{Seed: uint64(s.epoch), TTL: handoverTTL})
	if _, err := s.e.Apply(s.now, Control{Sources: map[string]Policy{"s": {MaxPriority: Critical, Quota: Quota{Concurrency: &s.cap}}}}); err != nil {
		s.t.Fatal(err)
	}
	s.e.Attach(s.now, 0, s.epoch)
	for _, h := range held {
		s.e.Expect(s.now, h)
	}
	s.joined = map[string]bool{}
	s.unread = nil
	for _, h := range s.jobs {
		if !h.ended {
			s.unread = append(s.unread, h)
		}
	}
}

func (s *succession) join(w string) {
	if !s.joined[w] {
		s.joined[w] = true
		s.e.Join(s.now, Worker{ID: w, Types: []string{"t"}, Concurrency: 4})
	}
	s.e.Credit(s.now, w, 4, 1<<40)
}

func (s *succession) offer(h *heirloom) {
	if h.ended { // intake completes it: the history says so
		return
	}
	v := s.e.Offer(s.now, &Job{
		ID: h.id, Source: "s", Type: "t", Priority: Default, Size: 1, Home: h.home, FromLane: h.home.Topic == TopicSpill,
	})
	switch v.Kind {
	case Queue:
	case Spill:
		h.home.Topic = TopicSpill
		s.unread = append(s.unread, h)
	default:
		s.t.Fatalf("offer: %+v", v)
	}
}

func (s *succession) grant() {
	for range 100 {
		a := s.e.Next(s.now)
		if a.Kind == Idle {
			return
		}
		if a.Kind != Grant {
			continue
		}
		var h *heirloom
		busy := int32(0)
		for _, o := range s.jobs {
			if o.id == a.Lease.Job.ID {
				h = o
			}
			if s.valid(o) && !o.ended && !o.over {
				busy++
			}
		}
		switch {
		case h.ended:
			s.t.Fatalf("a job that has ended was granted")
		case s.valid(h):
			s.t.Fatalf("granted under %v while %s has it under %v for another %v", a.Lease.Token, h.worker, h.lease, h.until.Sub(s.now))
		case !h.last.Before(a.Lease.Token):
			s.t.Fatalf("token %v after %v", a.Lease.Token, h.last)
		case busy >= s.cap:
			s.t.Fatalf("%d leases and one more, the limit is %d", busy, s.cap)
		}
		h.lease, h.last, h.worker, h.until = a.Lease.Token, a.Lease.Token, a.Worker, s.now.Add(handoverTTL)
		h.over, h.arrived = false, rapid.Bool().Draw(s.t, "arrives")
	}
}

// tick lets time pass; jobs that have waited for long go to their lane, from where they are read again.
func (s *succession) tick(d time.Duration) {
	s.now = s.now.Add(d)
	c := s.e.Tick(s.now)
	moves := append([]*Job(nil), c.Moves...)
	s.settle(append([]Settlement(nil), c.Settlements...)...)
	for _, j := range moves {
		for _, h := range s.jobs {
			if h.id == j.ID {
				h.home = Home{Topic: TopicSpill, Offset: h.home.Offset}
				s.e.Moved(s.now, h.id, h.home)
				if s.e.jobs[h.id] == nil && !h.ended {
					s.unread = append(s.unread, h)
				}
			}
		}
	}
}

// settle makes settlements durable at once.
func (s *succession) settle(list ...Settlement) {
	for _, x := range list {
		for _, h := range s.jobs {
			if h.id != x.Job.ID {
				continue
			}
			if x.Reason == ReasonLeaseExpired && h.lease == x.Token && s.valid(h) {
				s.t.Fatalf("a lease ended %v before its time", h.until.Sub(s.now))
			}
			h.ended = h.ended || x.Kind.Terminal()
			if h.lease == x.Token {
				h.worker = ""
			}
		}
		s.e.Settled(s.now, x.Job.ID, x.Token)
	}
}

// some picks a job of which something is true.
func (s *succession) some(is func(*heirloom) bool) *heirloom {
	var list []*heirloom
	for _, h := range s.jobs {
		if is(h) {
			list = append(list, h)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return rapid.SampledFrom(list).Draw(s.t, "job")
}

// TestSuccession: owners follow each other in order, at any moment. No job has two valid leases, tokens rise, the limit of the source holds, a lease is
// good for all of its time, and every job comes to its end (I5, I7, H6).
func TestSuccession(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &succession{t: t, now: origin, cap: int32(rapid.IntRange(1, 4).Draw(t, "limit"))}
		for n := range rapid.IntRange(1, 4).Draw(t, "jobs") { // as many as may wait, whatever the limit
			h := &heirloom{}
			binary.BigEndian.PutUint64(h.id[8:], uint64(n+1))
			h.id[6] = 7 << 4
			h.home = Home{Topic: Topic(Default), Offset: int64(n)}
			s.jobs = append(s.jobs, h)
		}
		s.own(nil)
		workers := []string{"a", "b"}
		t.Repeat(map[string]func(*rapid.T){
			"read": func(t *rapid.T) {
				s.t = t
				if len(s.unread) > 0 {
					i := rapid.IntRange(0, len(s.unread)-1).Draw(t, "which")
					h := s.unread[i]
					s.unread = append(s.unread[:i:i], s.unread[i+1:]...)
					s.offer(h)
				}
			},
			"credit": func(t *rapid.T) { s.t = t; s.join(rapid.SampledFrom(workers).Draw(t, "worker")); s.grant() },
			"renew": func(t *rapid.T) {
				s.t = t
				if h := s.some(func(h *heirloom) bool { return s.valid(h) && h.arrived && !h.ended }); h != nil {
					renewed, _ := s.e.Renew(s.now, h.worker, []Token{h.lease})
					if len(renewed) != 1 {
						t.Fatalf("a valid lease %v was not renewed", h.lease)
					}
					h.until = s.now.Add(handoverTTL)
				}
			},
			"done": func(t *rapid.T) {
				s.t = t
				h := s.some(func(h *heirloom) bool { return s.valid(h) && h.arrived && !h.ended })
				if h == nil {
					return
				}
				kind := rapid.SampledFrom([]ResultKind{Success, Success, Permanent}).Draw(t, "kind")
				switch x := s.e.Done(s.now, h.worker, Result{Token: h.lease, JobID: h.id, Kind: kind}); x.Kind {
				case Refused:
					t.Fatalf("the report of a valid lease was refused")
				case Repeated: // kept until it is read
					h.over = true
				default:
					s.settle(x)
				}
			},
			"answer": func(t *rapid.T) {
				s.t = t
				w := rapid.SampledFrom(workers).Draw(t, "worker")
				for _, h := range s.jobs {
					if h.worker != w || h.lease.Epoch == s.epoch {
						continue
					}
					if h.arrived {
						if !s.e.Inherit(s.now, w, "s", h.id, h.lease, s.now) && s.valid(h) && !h.ended && !h.over {
							t.Fatalf("a valid lease was not inherited")
						}
					} else {
						h.worker = "" // the worker will not take it any more
					}
				}
				s.e.Answered(s.now, w, 0, s.epoch, nil, time.Time{})
			},
			"time": func(t *rapid.T) {
				s.t = t
				s.tick(rapid.SampledFrom([]time.Duration{10 * time.Millisecond, time.Second, 7 * time.Second}).Draw(t, "d"))
			},
			"handover": func(t *rapid.T) {
				s.t = t
				held := s.e.Held(s.now, 0)
				for _, h := range s.jobs {
					if !s.valid(h) || h.ended {
						continue
					}
					named := false
					for _, x := range held {
						named = named || x.JobID == h.id && x.Token == h.lease && x.Worker == h.worker && x.Source == "s" && x.ExpiresIn >= h.until.Sub(s.now)
					}
					if !named {
						t.Fatalf("%v of %s, valid for another %v, was not handed over: %+v", h.lease, h.worker, h.until.Sub(s.now), held)
					}
				}
				s.own(held)
				for _, h := range s.jobs {
					h.over = false // the worker repeats what is not settled
				}
			},
			"": func(t *rapid.T) {
				if err := audit(s.e); err != nil {
					t.Fatal(err)
				}
				claims := int32(0)
				for _, c := range s.e.shards[0].claims {
					if s.e.shards[0].claimed[c.token] != c {
						t.Fatal("a claim that is not found by its token")
					}
					if c.src != nil {
						claims++
					}
				}
				if src := s.e.sources["s"]; src != nil && src.limit.claimed != claims {
					t.Fatalf("%d claims are counted of %d", src.limit.claimed, claims)
				}
			},
		})
		for range 100 { // everybody reads, answers and works
			unread := s.unread
			s.unread = nil
			for _, h := range unread {
				s.offer(h)
			}
			for _, w := range workers {
				s.join(w)
			}
			s.grant()
			for _, h := range s.jobs {
				if s.valid(h) && !h.ended {
					if x := s.e.Done(s.now, h.worker, Result{Token: h.lease, JobID: h.id, Kind: Success}); x.Kind == Succeeded {
						s.settle(x)
					}
				}
			}
			s.tick(time.Second)
		}
		for _, h := range s.jobs {
			if !h.ended {
				t.Fatalf("a job never came to its end: %+v\n%s", h, s.e.Dump(s.now))
			}
		}
	})
}
