package worker

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

func topology(s ...*scheduler) *schedulerv1.WorkResponse {
	t := &schedulerv1.Topology{}
	for _, s := range s {
		t.Replicas = append(t.Replicas, &schedulerv1.Replica{Id: s.id, Address: s.address})
	}
	return &schedulerv1.WorkResponse{Topology: t}
}

func TestOneStreamToEveryReplica(t *testing.T) {
	bubble(t, 4, func(wd *world, a *scheduler) {
		b, c := newScheduler(t, wd.network, "replica-1"), newScheduler(t, wd.network, "replica-2")
		defer b.server.Stop()
		defer c.server.Stop()
		wd.worker.Handle("tag", nothing)
		wd.run()
		sa, _ := a.accept(0)
		sa.send(topology(a, b, c))
		b.accept(1)
		c.accept(2)
		time.Sleep(time.Minute)
		if n := len(a.streams) + len(b.streams) + len(c.streams); n != 0 {
			t.Fatalf("%d more streams", n)
		}
	})
}

func TestReconnectNamesLeasesAndRepeatsResults(t *testing.T) {
	bubble(t, 4, func(wd *world, s *scheduler) {
		wd.worker.Handle("fast", nothing)
		wd.worker.Handle("slow", func(context.Context, *Job) error { time.Sleep(10 * time.Second); return nil })
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "fast"), grant(2, "slow")))
		st.next(hasResults)
		st.end <- status.Error(codes.Unavailable, "bye")
		began := time.Now()
		st, hello := s.accept(3)
		if time.Since(began) > time.Second {
			t.Fatalf("reconnected after %s", time.Since(began))
		}
		held := map[int64]bool{}
		for _, h := range hello.Held {
			held[h.Token.Counter] = true
		}
		if len(held) != 2 || !held[1] || !held[2] {
			t.Fatalf("held %v", hello.Held)
		}
		if f := st.next(hasResults); f.Results[0].Token.Counter != 1 {
			t.Fatalf("results %v", f.Results)
		}
		st.send(settles(token(1)))
		if f := st.next(func(f *schedulerv1.WorkRequest) bool { return hasResults(f) && f.Results[0].Token.Counter == 2 }); f.Results[0].Kind != schedulerv1.ResultKind_RESULT_KIND_SUCCESS {
			t.Fatalf("result of the job that ran across the break: %v", f.Results)
		}
	})
}

// TestResultsGoToTheShardsNewOwner is H6: the worker tells the new owner what it holds, renews there and reports there.
func TestResultsGoToTheShardsNewOwner(t *testing.T) {
	bubble(t, 4, func(wd *world, a *scheduler) {
		b := newScheduler(t, wd.network, "replica-1")
		defer b.server.Stop()
		wd.worker.Handle("slow", func(context.Context, *Job) error { time.Sleep(12 * time.Second); return nil })
		wd.run()
		sa, _ := a.accept(3)
		sa.send(topology(a, b))
		sb, _ := b.accept()
		sa.send(grants(grant(1, "slow")))
		sa.next(hasStarted)
		sa.send(&schedulerv1.WorkResponse{Ownership: owns(0)})
		sa.drop()
		sb.send(&schedulerv1.WorkResponse{Ownership: owns(2, 3)})
		h := sb.next(func(f *schedulerv1.WorkRequest) bool { return f.Hello != nil }).Hello
		if len(h.Held) != 1 || h.Held[0].Token.Counter != 1 || h.Held[0].Source != "s" {
			t.Fatalf("held %v", h.Held)
		}
		f := sb.next(hasRenew)
		sb.send(&schedulerv1.WorkResponse{Renewed: &schedulerv1.Renewed{Tokens: f.Renew}})
		if r := sb.next(hasResults).Results[0]; r.Token.Counter != 1 {
			t.Fatalf("result %v", r)
		}
		sb.send(settles(token(1)))
		for {
			select {
			case f := <-sa.in:
				if hasResults(f) || hasRenew(f) {
					t.Fatalf("the former owner was told %v", f)
				}
				continue
			default:
			}
			break
		}
	})
}

// TestUnownedShardKeepsResults: between two owners a result waits; the former owner would refuse it.
func TestUnownedShardKeepsResults(t *testing.T) {
	bubble(t, 4, func(wd *world, s *scheduler) {
		wd.worker.Handle("slow", func(context.Context, *Job) error { time.Sleep(time.Second); return nil })
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "slow")))
		st.next(hasStarted)
		st.send(&schedulerv1.WorkResponse{Ownership: owns(0)})
		time.Sleep(30 * time.Second)
		st.drop()
		wd.worker.mu.Lock()
		n := len(wd.worker.unsettled)
		wd.worker.mu.Unlock()
		if n != 1 {
			t.Fatalf("%d results kept", n)
		}
		st.send(&schedulerv1.WorkResponse{Ownership: owns(2, 3)})
		if r := st.next(hasResults).Results[0]; r.Token.Counter != 1 {
			t.Fatalf("result %v", r)
		}
		st.send(settles(token(1)))
	})
}

// TestDrainOfReplica: another stream is opened at once; the old one takes results until the new one is welcome, or for good if the replica
// turns the new one away because it stops.
func TestDrainOfReplica(t *testing.T) {
	goodbye := &schedulerv1.WorkResponse{Drain: &schedulerv1.Drain{Reason: "old"}}
	slow := func(context.Context, *Job) error { time.Sleep(time.Second); return nil }
	t.Run("old stream", func(t *testing.T) {
		bubble(t, 1, func(wd *world, s *scheduler) {
			wd.worker.Handle("slow", slow)
			wd.run()
			st, _ := s.accept(3)
			st.send(grants(grant(1, "slow")))
			st.next(hasStarted)
			began := time.Now()
			st.send(goodbye)
			again, hello := s.accept(3)
			if time.Since(began) > time.Millisecond || len(hello.Held) != 1 {
				t.Fatalf("after %s, held %v", time.Since(began), hello.Held)
			}
			if r := again.next(hasResults).Results[0]; r.Token.Counter != 1 {
				t.Fatalf("result %v", r)
			}
			again.send(settles(token(1)))
			if _, ok := <-st.in; ok {
				st.drop()
			}
		})
	})
	t.Run("replica stops", func(t *testing.T) {
		bubble(t, 2, func(wd *world, s *scheduler) {
			wd.worker.Handle("slow", slow)
			wd.run()
			st, _ := s.accept(3)
			st.send(grants(grant(1, "slow")))
			st.next(hasStarted)
			st.send(goodbye)
			go func() {
				for again := range s.streams {
					again.end <- status.Error(codes.Unavailable, "stopping")
				}
			}()
			if r := st.next(hasResults).Results[0]; r.Token.Counter != 1 {
				t.Fatalf("result %v", r)
			}
			st.send(settles(token(1)))
			wd.end()
			close(s.streams)
		})
	})
}

func TestBootstrapTriesEveryAddressAndComesBack(t *testing.T) {
	bubble(t, 1, func(wd *world, s *scheduler) {
		wd.worker.cfg.Schedulers = "passthrough:///nobody, " + s.address
		wd.worker.Handle("tag", nothing)
		wd.run()
		s.accept(3)
		s.server.Stop()
		time.Sleep(time.Minute)
		again := newScheduler(t, wd.network, "replica-0")
		defer again.server.Stop()
		began := time.Now()
		again.accept(3)
		if d := time.Since(began); d > 2*backoffMax {
			t.Fatalf("back after %s", d)
		}
	})
}

// TestBootstrapIsNotHeldUpByADeadTopology: the last topology names a replica that is gone, and the bootstrap list names it too. The other
// addresses of the list are tried all the same.
func TestBootstrapIsNotHeldUpByADeadTopology(t *testing.T) {
	w, err := New(Config{Schedulers: "a:1, b:1", Concurrency: 1})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	w.topology = []*replica{{Id: "a", Address: "a:1"}}
	for _, c := range []struct {
		name    string
		retries map[string]*retry
		boot    int
		want    []string
	}{
		{"the dead one may be dialled", nil, 0, []string{"a:1", "b:1"}},
		{"it waits for its next try", map[string]*retry{"a:1": {after: now.Add(time.Second)}}, 0, []string{"b:1"}},
		{"all wait", map[string]*retry{"a:1": {after: now.Add(time.Second)}, "b:1": {after: now.Add(time.Second)}}, 1, nil},
	} {
		w.links = nil
		dial, _ := w.wanted(now, c.retries, c.boot)
		var got []string
		for _, l := range dial {
			got = append(got, l.address)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: dials %v, want %v", c.name, got, c.want)
		}
	}
}
