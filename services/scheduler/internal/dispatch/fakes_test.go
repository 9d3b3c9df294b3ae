package dispatch

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// durable is a Settler whose log takes 3 ms, and which then tells the engine and the worker, as the settle room does.
type durable struct {
	loop *Loop
	mu   sync.Mutex
	all  []core.Settlement
}

func (d *durable) Settle(s core.Settlement) {
	d.mu.Lock()
	d.all = append(d.all, s)
	d.mu.Unlock()
	time.AfterFunc(3*time.Millisecond, func() {
		d.loop.Do(func(now time.Time, e *core.Engine) { e.Settled(now, s.Job.ID, s.Token) })
		if s.Attempt.Worker != "" {
			d.loop.Settled(s.Attempt.Worker, s.Token)
		}
	})
}

func (d *durable) kinds() []core.SettlementKind {
	d.mu.Lock()
	defer d.mu.Unlock()
	var k []core.SettlementKind
	for _, s := range d.all {
		k = append(k, s.Kind)
	}
	return k
}

type lanes struct{ reads, moves atomic.Int64 }

func (l *lanes) Read(r []core.LaneRead)            { l.reads.Add(int64(len(r))) }
func (l *lanes) Move(j []*core.Job, _ []core.Home) { l.moves.Add(int64(len(j))) }

// gate is open unless shut, or the control log has something that was not applied.
type gate struct {
	shut   atomic.Bool
	silent atomic.Bool // nothing is renewed
	latest atomic.Int64
}

func (g *gate) Open(_ time.Time, applied int64) bool {
	return !g.shut.Load() && applied >= g.latest.Load()
}

func (g *gate) Renews(time.Time) bool { return !g.silent.Load() }

// stuckGate answers when it is closed.
type stuckGate chan struct{}

func (g stuckGate) Open(time.Time, int64) bool { <-g; return false }
func (g stuckGate) Renews(time.Time) bool      { return false }

type beat struct{ pokes, summaries atomic.Int64 }

func (b *beat) Poke()                    { b.pokes.Add(1) }
func (b *beat) Summarise([]core.Summary) { b.summaries.Add(1) }

// house is a loop with the real engine, which owns shard 0 under epoch 7, and fakes around.
type house struct {
	t      *testing.T
	loop   *Loop
	settle *durable
	gate   *gate
	beat   *beat
	count  byte
}

func bubble(t *testing.T, cfg Config, test func(*house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Replica = "r0"
		h := &house{t: t, gate: &gate{}, beat: &beat{}}
		h.gate.latest.Store(-1)
		h.loop = New(cfg, Deps{Log: slog.New(slog.DiscardHandler), Engine: core.New(core.Config{Seed: 1})})
		h.settle = &durable{loop: h.loop}
		l := &lanes{}
		h.loop.Connect(Ports{Settler: h.settle, Mover: l, Reader: l, Gate: h.gate, Beat: h.beat})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.loop.Run(ctx) }()
		defer func() {
			time.Sleep(10 * time.Millisecond) // what is being settled
			cancel()
			<-done
		}()
		h.own(7)
		test(h)
	})
}

// own attaches shard 0.
func (h *house) own(epoch int64) {
	h.loop.Do(func(now time.Time, e *core.Engine) { e.Attach(now, 0, epoch) })
	h.loop.Own(map[int32]int64{0: epoch})
}

// offer gives the engine a job of shard 0.
func (h *house) offer(source string) *core.Job {
	h.t.Helper()
	h.count++
	job := &core.Job{
		ID: core.JobID{6: 0x70, 15: h.count}, Source: source, Type: "tag", Priority: core.Default, Size: 100, AcceptedAt: time.Now(),
		Home: core.Home{Topic: core.Topic(core.Default), Offset: int64(h.count)}, Record: &core.Record{},
	}
	h.loop.Do(func(now time.Time, e *core.Engine) {
		if v := e.Offer(now, job); v.Kind != core.Queue {
			h.t.Errorf("offer: %+v", v)
		}
	})
	return job
}

// peer is a worker with a session that does what a test says.
type peer struct {
	*Session
	h      *house
	mu     sync.Mutex
	frames []*frame.ToWorker
}

func worker(id string, slots int32) frame.Hello {
	return frame.Hello{Worker: core.Worker{ID: id, Types: []string{"tag"}, Concurrency: slots}}
}

var someone = frame.Identity{Subject: "someone"}

// open begins a session that reads all that it is sent and, if it has free slots, says so.
func (h *house) open(hello frame.Hello, free int32) *peer {
	h.t.Helper()
	s, err := h.loop.Open(someone, hello)
	if err != nil {
		h.t.Fatal(err)
	}
	p := &peer{Session: s, h: h}
	go func() {
		for {
			f, err := s.Next(context.Background())
			if err != nil {
				return
			}
			p.mu.Lock()
			p.frames = append(p.frames, f)
			p.mu.Unlock()
		}
	}()
	p.receive(frame.FromWorker{Credit: &frame.Credit{Free: free}})
	return p
}

func (p *peer) receive(f frame.FromWorker) {
	p.h.t.Helper()
	if err := p.Receive(f); err != nil {
		p.h.t.Fatal(err)
	}
}

// next waits until a frame fits, and forgets it and those before it.
func (p *peer) next(what string, fits func(*frame.ToWorker) bool) *frame.ToWorker {
	p.h.t.Helper()
	for range 1000 {
		synctest.Wait()
		p.mu.Lock()
		for i, f := range p.frames {
			if fits(f) {
				p.frames = p.frames[i+1:]
				p.mu.Unlock()
				return f
			}
		}
		p.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	p.h.t.Fatalf("%s: no %s within a second", p.worker, what)
	return nil
}

func (p *peer) lease() frame.Granted {
	p.h.t.Helper()
	return p.next("lease", func(f *frame.ToWorker) bool { return len(f.Leases) > 0 }).Leases[0]
}

// quiet checks that nothing that fits comes within a time.
func (p *peer) quiet(d time.Duration, what string, fits func(*frame.ToWorker) bool) {
	p.h.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.frames {
		if fits(f) {
			p.h.t.Fatalf("%s: %s: %+v", p.worker, what, f)
		}
	}
}

func hasLease(f *frame.ToWorker) bool { return len(f.Leases) > 0 }

func success(g frame.Granted) frame.FromWorker {
	return frame.FromWorker{Results: []core.Result{{Token: g.Token, JobID: g.Job.ID, Kind: core.Success}}}
}
