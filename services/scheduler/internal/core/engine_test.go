package core

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// bench is an engine with one worker, by hand.
type bench struct {
	*testing.T
	e    *Engine
	now  time.Time
	next uint64
}

func newBench(t *testing.T, cfg Config) *bench {
	b := &bench{T: t, e: New(cfg), now: origin}
	b.e.Attach(b.now, 0, 10)
	return b
}

func (b *bench) job(source, tenant string) *Job {
	b.next++
	j := &Job{Source: source, Tenant: tenant, Type: "t", Priority: Default, Size: 100, Home: Home{Topic: Topic(Default), Offset: int64(b.next)}}
	binary.BigEndian.PutUint64(j.ID[8:], b.next)
	j.ID[6] = 7 << 4
	return j
}

func (b *bench) offer(j *Job, want VerdictKind, why Reason) {
	b.Helper()
	if v := b.e.Offer(b.now, j); v.Kind != want || v.Reason != why {
		b.Fatalf("offer: %+v, want %d %s", v, want, why)
	}
}

func (b *bench) join(slots int32) {
	b.e.Join(b.now, Worker{ID: "w", Types: []string{"t"}, Concurrency: slots})
	b.e.Credit(b.now, "w", slots, 0)
}

// grants takes decisions until there are none, and returns the leases.
func (b *bench) grants() (leases []Lease) {
	for {
		switch a := b.e.Next(b.now); a.Kind {
		case Idle:
			return leases
		case Grant:
			leases = append(leases, a.Lease)
		}
	}
}

func (b *bench) wait(d time.Duration) (moves []*Job, settlements []Settlement, reads []LaneRead) {
	for end := b.now.Add(d); b.now.Before(end); {
		b.now = b.now.Add(min(10*time.Millisecond, end.Sub(b.now)))
		c := b.e.Tick(b.now)
		moves, settlements, reads = append(moves, c.Moves...), append(settlements, c.Settlements...), append(reads, c.Reads...)
	}
	return moves, settlements, reads
}

// A worker that names leases which nobody granted, with tokens of an epoch before, gets no job by it: neither one that waits, of a type that is not
// its own and of a source that is held, nor one that is read later, nor one that was handed over as another's. Or it could settle what never ran.
func TestLeasesThatNobodyGrantedAreNotInherited(t *testing.T) {
	b := newBench(t, Config{})
	b.join(4)
	waits, unread, handed := b.job("s", ""), b.job("s", ""), b.job("s", "")
	b.offer(waits, Queue, "")
	false1, false2, false3 := Token{Epoch: 9, Counter: 1}, Token{Epoch: 9, Counter: 2}, Token{Epoch: 9, Counter: 9}
	if b.e.Inherit(b.now, "x", "s", waits.ID, false1, b.now) {
		t.Error("a job was inherited that no former owner can have granted")
	}
	b.e.Inherit(b.now, "x", "s", unread.ID, false2, b.now)
	b.offer(unread, Queue, "")
	lease := Token{Epoch: 9, Counter: 8}
	b.e.Expect(b.now, Held{JobID: handed.ID, Source: "s", Token: lease, Worker: "w", ExpiresIn: time.Second})
	if b.e.Inherit(b.now, "x", "s", handed.ID, false3, b.now) {
		t.Error("a lease that was handed over gave way to one that was not")
	}
	b.offer(handed, Queue, "")
	for id, tok := range map[JobID]Token{waits.ID: false1, unread.ID: false2, handed.ID: false3} {
		if s := b.e.Done(b.now, "x", Result{Token: tok, JobID: id, Kind: Success}); s.Kind != Refused {
			t.Errorf("token %v settles a job that was never granted: %+v", tok, s)
		}
	}
	if s := b.e.Done(b.now, "w", Result{Token: lease, JobID: handed.ID, Kind: Success}); s.Kind != Succeeded {
		t.Errorf("the one that was handed over: %+v", s)
	}
	if got := b.grants(); len(got) != 2 {
		t.Errorf("granted %v, want the two that nobody has", got)
	}
}

// A job that has been reported is handed over with time for its worker to repeat the report, also when its lease has ended meanwhile because the log
// took no event: the job has run.
func TestReportedJobIsHandedOverWithTime(t *testing.T) {
	b := newBench(t, Config{})
	b.join(4)
	b.offer(b.job("s", ""), Queue, "")
	l := b.grants()[0]
	if s := b.e.Done(b.now, "w", Result{Token: l.Token, JobID: l.Job.ID, Kind: Success}); s.Kind != Succeeded {
		t.Fatalf("%+v", s)
	}
	b.wait(30 * time.Second)
	held := b.e.Held(b.now, 0)
	next := newBench(t, Config{})
	next.now = b.now
	next.e.Attach(next.now, 0, 20)
	next.e.Expect(next.now, held[0])
	next.join(4)
	next.wait(100 * time.Millisecond)
	j := next.job("s", "")
	j.ID = l.Job.ID
	next.offer(j, Queue, "")
	next.wait(time.Second)
	if got := next.grants(); len(got) != 0 {
		t.Fatalf("granted %+v before its worker could repeat what became of it", got)
	}
	if s := next.e.Done(next.now, "w", Result{Token: l.Token, JobID: j.ID, Kind: Success}); s.Kind != Succeeded {
		t.Errorf("%+v", s)
	}
}

// A job that a crashed owner may have granted is not granted before its quarantine is over, unless its worker names it.
func TestTakeover(t *testing.T) {
	b := newBench(t, Config{})
	b.join(4)
	inherited, waits, unread := b.job("s", ""), b.job("s", ""), b.job("s", "")
	for _, j := range []*Job{inherited, waits, unread} {
		j.Quarantine = b.now.Add(29 * time.Second)
	}
	b.offer(inherited, Queue, "")
	b.offer(waits, Queue, "")
	old := Token{Epoch: 9, Counter: 7}
	if !b.e.Inherit(b.now, "w", "s", inherited.ID, old, b.now) || b.e.Inherit(b.now, "x", "s", inherited.ID, Token{Epoch: 9, Counter: 6}, b.now) {
		t.Fatal("one worker, and only one, inherits")
	}
	if b.e.Inherit(b.now, "w", "s", waits.ID, Token{Epoch: 10, Counter: 1}, b.now) {
		t.Fatal("a token of this epoch was inherited")
	}
	claimed := Token{Epoch: 9, Counter: 8}
	if !b.e.Inherit(b.now, "w", "s", unread.ID, claimed, b.now) {
		t.Fatal("a job that was not read yet is not remembered")
	}
	if renewed, _ := b.e.Renew(b.now, "w", []Token{old, claimed}); len(renewed) != 2 {
		t.Fatalf("renewed %v", renewed)
	}
	b.offer(unread, Queue, "")
	if got := b.grants(); len(got) != 0 {
		t.Fatalf("granted %v", got)
	}
	if s := b.e.Done(b.now, "w", Result{Token: claimed, JobID: unread.ID, Kind: Success}); s.Kind != Succeeded {
		t.Fatalf("%+v", s)
	}
	for range 3 {
		b.wait(9 * time.Second)
		b.e.Renew(b.now, "w", []Token{old})
	}
	if got := b.grants(); len(got) != 0 {
		t.Fatalf("granted after 27 s: %v", got)
	}
	b.wait(3 * time.Second)
	got := b.grants()
	if len(got) != 1 || got[0].Job != waits || got[0].Waits[WaitTakeover] < 28*time.Second {
		t.Fatalf("after its quarantine: %+v", got)
	}
	if s := b.e.Done(b.now, "w", Result{Token: old, JobID: inherited.ID, Kind: Success}); s.Kind != Succeeded {
		t.Fatalf("%+v", s)
	}
}

// What was settled before the shard was attached does not run again; another payload under its id is told apart.
func TestRemembered(t *testing.T) {
	b := newBench(t, Config{})
	sdk, own := b.job("s", ""), b.job("s", "")
	own.ID[6] = 8 << 4
	for _, j := range []*Job{sdk, own} {
		j.Digest = 5
		b.e.Remember(b.now, 0, "s", j.ID, 5, b.now.Add(-time.Minute))
	}
	b.offer(sdk, Duplicate, ReasonSettled)
	b.wait(2 * time.Minute)
	own.Digest = 6
	b.offer(own, Supersede, ReasonSettled)
	b.offer(sdk, Queue, "") // 3 minutes after: its window is over
	b.wait(8 * time.Minute)
	b.e.LaneDrained(b.now, "s", "t") // nobody ran it for 30 s
	b.offer(own, Queue, "")
}

// A flow over its share of memory spills, and goes on spilling until its lane is drained; its source's other tenants
// stay. With more than 64 tenants in the lane everybody goes there.
func TestSpillIsSticky(t *testing.T) {
	b := newBench(t, Config{Memory: 16 * 16 * (100 + overhead)}) // a pair's share: 16 jobs
	for range 16 {
		b.offer(b.job("s", "loud"), Queue, "")
	}
	b.offer(b.job("s", "loud"), Spill, ReasonMemory)
	b.offer(b.job("s", "quiet"), Queue, "")
	b.join(100)
	for _, l := range b.grants() {
		b.e.Done(b.now, "w", Result{Token: l.Token, JobID: l.Job.ID, Kind: Success})
		b.e.Settled(b.now, l.Job.ID, l.Token)
	}
	b.offer(b.job("s", "loud"), Spill, ReasonSpilling)
	b.offer(b.job("s", "quiet"), Queue, "")
	if m := b.e.Spilling(); len(m) != 1 || m[0].Tenant != "loud" {
		t.Fatalf("marks %+v", m)
	}
	b.e.LaneDrained(b.now, "s", "t")
	b.offer(b.job("s", "loud"), Queue, "")
	for i := range maxSpillers + 1 {
		tenant := fmt.Sprint("t", i)
		for b.e.Offer(b.now, b.job("s", tenant)).Kind == Queue {
		}
	}
	b.offer(b.job("s", "new"), Spill, ReasonSpilling)
	if m := b.e.Spilling(); len(m) != 1 || m[0].Tenant != "*" {
		t.Fatalf("marks %+v", m)
	}
	if err := audit(b.e); err != nil {
		t.Fatal(err)
	}
}

// Every flow may have four jobs queued though one source fills the memory, up to the budget.
func TestFloorOfMemory(t *testing.T) {
	b := newBench(t, Config{Memory: 256 * (100 + overhead)})
	for i := range 14 {
		for b.e.Offer(b.now, b.job(fmt.Sprint("s", i), "")).Kind == Queue {
		}
	}
	if b.e.bytes > b.e.cfg.Memory/8*7 {
		t.Fatalf("%d of %d bytes: nothing is left for the floors", b.e.bytes, b.e.cfg.Memory)
	}
	for range floorJobs {
		b.offer(b.job("late", ""), Queue, "")
	}
	for i := 0; b.e.bytes+100+overhead <= b.e.cfg.Memory; i++ {
		b.offer(b.job("late", fmt.Sprint("t", i)), Queue, "")
	}
	b.offer(b.job("later", ""), Spill, ReasonMemory)
}

// A lane found at takeover holds back new jobs of its pair, is read no faster than the source runs, and not while it
// is held.
func TestLane(t *testing.T) {
	b := newBench(t, Config{})
	b.e.Lane(b.now, LaneState{Source: "s", Type: "t", BacklogJobs: 1000})
	b.offer(b.job("s", "a"), Spill, ReasonSpilling)
	_, _, reads := b.wait(10 * time.Millisecond)
	if len(reads) != 1 || reads[0].N != minRead {
		t.Fatalf("reads %+v", reads)
	}
	for range minRead {
		j := b.job("s", "a")
		j.FromLane = true
		b.offer(j, Queue, "")
	}
	if _, _, reads = b.wait(10 * time.Millisecond); len(reads) != 0 {
		t.Fatalf("reads %+v with %d unread", reads, minRead)
	}
	b.join(32)
	leases := b.grants()
	if len(leases) != minRead {
		t.Fatalf("%d granted", len(leases))
	}
	if _, _, reads = b.wait(10 * time.Millisecond); len(reads) != 1 || reads[0].N != 2*minRead {
		t.Fatalf("reads %+v with %d running", reads, minRead)
	}
	// Jobs that end within the tick are never seen running; what of the lane was granted in it counts as well.
	for range 2 * minRead {
		j := b.job("s", "a")
		j.FromLane = true
		b.offer(j, Queue, "")
	}
	b.e.Credit(b.now, "w", 32, minRead)
	for _, l := range append(leases, b.grants()...) {
		b.e.Settled(b.now, l.Job.ID, b.e.Done(b.now, "w", Result{Token: l.Token, JobID: l.Job.ID, Kind: Success}).Token)
	}
	if _, _, reads = b.wait(10 * time.Millisecond); len(reads) != 1 || reads[0].N != minRead {
		t.Fatalf("reads %+v when %d of %d began and ended in a tick", reads, minRead, 2*minRead)
	}
	if _, err := b.e.Apply(b.now, Control{Switches: []Switch{{Scope: Scope{Kind: ScopeSource, Source: "s"}, Verb: Hold}}}); err != nil {
		t.Fatal(err)
	}
	if _, _, reads = b.wait(50 * time.Millisecond); len(reads) != 0 {
		t.Fatalf("a held source's lane is read: %+v", reads)
	}
}

// A held tenant of a source that is not held goes round its lane at most 256 jobs a second.
func TestHeldTenantRests(t *testing.T) {
	b := newBench(t, Config{})
	if _, err := b.e.Apply(b.now, Control{Switches: []Switch{{Scope: Scope{Kind: ScopeTenant, Tenant: "x"}, Verb: Hold}}}); err != nil {
		t.Fatal(err)
	}
	copies := 0
	for range 300 {
		b.e.Lane(b.now, LaneState{Source: "s", Type: "t", BacklogJobs: 10000})
		_, _, reads := b.wait(10 * time.Millisecond)
		for _, r := range reads {
			for range r.N {
				j := b.job("s", "x")
				j.FromLane = true
				b.offer(j, Spill, ReasonHeld)
				copies++
			}
		}
	}
	if copies < 256 || copies > 4*256 {
		t.Errorf("%d copies in 3 s", copies)
	}
}

// A job that pins its partition's window is moved; a running one keeps its lease and lives in its lane from then on.
func TestPinned(t *testing.T) {
	b := newBench(t, Config{})
	b.join(1)
	runs, waits := b.job("s", ""), b.job("s", "")
	b.offer(runs, Queue, "")
	b.offer(waits, Queue, "")
	lease := b.grants()[0]
	b.wait(500 * time.Millisecond)
	b.e.Pinned(b.now, []JobID{runs.ID, waits.ID})
	if moves, _, _ := b.wait(10 * time.Millisecond); len(moves) != 0 {
		t.Fatalf("moved when younger than a second: %d", len(moves))
	}
	b.wait(time.Second)
	b.e.Pinned(b.now, []JobID{runs.ID, waits.ID})
	moves, _, _ := b.wait(10 * time.Millisecond)
	if len(moves) != 2 {
		t.Fatalf("%d moves", len(moves))
	}
	lane := Home{Topic: TopicSpill, Offset: 5}
	b.e.Moved(b.now, runs.ID, lane)
	b.e.Moved(b.now, waits.ID, Home{Topic: TopicSpill, Offset: 6})
	if runs.Home != lane || b.e.jobs[waits.ID] != nil {
		t.Fatal("homes")
	}
	copied := b.job("s", "")
	copied.ID, copied.Home, copied.FromLane = runs.ID, lane, true
	b.offer(copied, Known, "")
	if s := b.e.Done(b.now, "w", Result{Token: lease.Token, JobID: runs.ID, Kind: Success}); s.Kind != Succeeded || s.Job.Home != lane {
		t.Fatalf("%+v", s)
	}
	b.wait(40 * time.Second) // by age alone
	b.offer(b.job("s", "other"), Queue, "")
	if moves, _, _ = b.wait(31 * time.Second); len(moves) != 1 {
		t.Fatalf("%d moved after 30 s", len(moves))
	}
}

// An invalid control state changes nothing.
func TestApplyRefuses(t *testing.T) {
	b := newBench(t, Config{})
	negative := -1.0
	one := Scope{Kind: ScopeSource, Source: "s"}
	for name, c := range map[string]Control{
		"priority": {Sources: map[string]Policy{"s": {MaxPriority: 9}}},
		"weight":   {Sources: map[string]Policy{"s": {Weight: 1001}}},
		"rate":     {Sources: map[string]Policy{"s": {Quota: Quota{Rate: &negative}}}},
		"tenant":   {Sources: map[string]Policy{"s": {TenantQuota: Quota{Rate: &negative}}}},
		"override": {Sources: map[string]Policy{"s": {TenantOverrides: map[string]Quota{"x": {Rate: &negative}}}}},
		"verb":     {Switches: []Switch{{Scope: one}}},
		"twice":    {Switches: []Switch{{Scope: one, Verb: Hold}, {Scope: one, Verb: Demote}}},
	} {
		c.Switches = append(c.Switches, Switch{Scope: Scope{Kind: ScopeSource, Source: "held"}, Verb: Hold})
		if _, err := b.e.Apply(b.now, c); err == nil {
			t.Errorf("%s: accepted", name)
		}
		b.offer(b.job("held", ""), Queue, "")
	}
}

// A run timeout is the engine's to enforce when the worker does not, and an attempt; the last one is the end.
func TestRunTimeout(t *testing.T) {
	b := newBench(t, Config{})
	b.join(1)
	j := b.job("s", "")
	j.RunTimeout, j.MaxAttempts = 5*time.Second, 1
	b.offer(j, Queue, "")
	lease := b.grants()[0]
	if lease.RunTimeout != 5*time.Second {
		t.Fatalf("%+v", lease)
	}
	_, settlements, _ := b.wait(5*time.Second + timeoutGrace + 20*time.Millisecond)
	if len(settlements) != 1 || settlements[0].Kind != Dead || settlements[0].Attempt.ErrorType != string(ReasonRunTimeout) {
		t.Fatalf("%+v", settlements)
	}
	if _, lost := b.e.Renew(b.now, "w", []Token{lease.Token}); len(lost) != 1 {
		t.Error("still renewed")
	}
}
