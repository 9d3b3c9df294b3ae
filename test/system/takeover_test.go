package system

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	"github.com/spillway/spillway/pkg/worker"
)

// onePerShard registers a source in each shard.
func (w *world) onePerShard(prefix string) (sources []string) {
	w.t.Helper()
	for shard := range shards {
		sources = append(sources, nameIn(shard, prefix))
		w.register(sources[shard])
	}
	return sources
}

// TestThreeSchedulersRunEveryJobOnce: the group deals the shards, workers reach all replicas through one, and every job runs once (I1, H28, H33).
func TestThreeSchedulersRunEveryJobOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.enqueue(0)
		ran := &tally{}
		w.scheduler(0)
		for range 2 {
			w.worker(8, ran.handler(5*time.Millisecond))
		}
		w.scheduler(1)
		w.scheduler(2)
		w.until("the shards are dealt", 20*time.Second, func() bool {
			owners := w.owners()
			return len(owners) == 3 && len(owners["scheduler-0"])+len(owners["scheduler-1"])+len(owners["scheduler-2"]) == shards
		})
		c := w.caller()
		defer c.Close()
		var ids []string
		for range 10 {
			for _, source := range sources {
				ids = append(ids, w.send(c, source, 20)...)
			}
			time.Sleep(50 * time.Millisecond)
		}
		w.drained(20*time.Second, ran, ids...)
		if n := ran.again(); n != 0 {
			t.Errorf("%d jobs ran again", n)
		}
	})
}

// TestCrashLosesNothing: a scheduler dies under load. Nothing is lost; only what was running may run again; what its workers still run is
// inherited; jobs that come after the takeover do not wait (I1, I5, I13, H6, F1).
func TestCrashLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.enqueue(0)
		ran := &tally{}
		victim := w.scheduler(0)
		w.worker(8, ran.handler(100*time.Millisecond))
		w.worker(8, ran.handler(100*time.Millisecond))
		w.scheduler(1)
		w.until("both have shards", 20*time.Second, func() bool { return len(w.owners()) == 2 })
		theirs := w.owners()["scheduler-0"]
		c := w.caller()
		defer c.Close()
		stop := w.traffic(c, 100*time.Millisecond, sources...)
		time.Sleep(5 * time.Second)
		died := time.Now()
		victim.kill()
		w.until("the other has all shards", 15*time.Second, func() bool { return len(w.owners()["scheduler-1"]) == shards })
		took := time.Since(died)
		time.Sleep(20 * time.Second)
		list := stop()
		l := w.drained(60*time.Second, ran, idsOf(list)...)
		if n := ran.again(); n > 16 {
			t.Errorf("%d jobs ran again, 16 were running", n)
		}
		if took > 8*time.Second {
			t.Errorf("the takeover took %v", took)
		}
		var worst time.Duration
		for _, job := range list {
			switch at, wait := job.at.Sub(died), ran.waited(job.id); {
			case at < -time.Second, at > took+time.Second, !slices.Contains(theirs, int32(envelope.Shard(job.source, shards))):
				worst = max(worst, wait)
			}
		}
		if worst > 2*time.Second {
			t.Errorf("a job that the dead scheduler cannot have granted waited %v", worst)
		}
		if len(l.attempts) != 0 {
			t.Errorf("%d jobs lost an attempt to the crash", len(l.attempts))
		}
		t.Logf("%d jobs, %d ran again, takeover in %v, the others waited %v at most", len(list), ran.again(), took, worst)
	})
}

// TestRunningJobsAreInherited: jobs that run for longer than it takes to replace a dead scheduler go on, report to the next one, and do not
// run again (H6, I5).
func TestRunningJobsAreInherited(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.enqueue(0)
		ran := &tally{}
		victim := w.scheduler(0)
		w.worker(8, ran.handler(25*time.Second))
		c := w.caller()
		defer c.Close()
		var ids []string
		for _, source := range sources {
			ids = append(ids, w.send(c, source, 2)...)
		}
		w.until("all run", 5*time.Second, func() bool { return ran.total() == len(ids) })
		time.Sleep(2 * time.Second)
		victim.kill()
		w.scheduler(1)
		w.drained(60*time.Second, ran, ids...)
		if n := ran.again(); n != 0 {
			t.Errorf("%d running jobs were run again", n)
		}
	})
}

// TestOrderlyStopLeavesNoQuarantine: a scheduler that stops with nothing running says so in its last commit, and the next one grants at once
// what is there (F5, H6).
func TestOrderlyStopLeavesNoQuarantine(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.enqueue(0)
		ran := &tally{}
		first := w.scheduler(0)
		c := w.caller()
		defer c.Close()
		var ids []string
		for _, source := range sources {
			ids = append(ids, w.send(c, source, 10)...)
		}
		time.Sleep(time.Second)
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		for shard := range shards {
			if at := w.committed(topics.Outcomes(), shard); !at.Meta.Drained {
				t.Errorf("shard %d: the final commit does not say drained: %+v", shard, at)
			}
		}
		w.scheduler(1)
		began := time.Now()
		w.worker(8, ran.handler(0))
		w.until("all run", 2*time.Second, func() bool { return ran.total() == len(ids) })
		w.drained(5*time.Second, ran, ids...)
		t.Logf("granted %v after the start", time.Since(began))
	})
}

// TestStoppingIsNotReady: from the beginning of its stop on a scheduler is not ready, while it waits for what runs.
func TestStoppingIsNotReady(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := w.inShard(1, 1)[0]
		w.enqueue(0)
		ran := &tally{}
		p := w.scheduler(0)
		w.worker(1, ran.handler(2*time.Second))
		c := w.caller()
		defer c.Close()
		w.send(c, source, 1)
		w.until("it runs", time.Second, func() bool { return ran.total() == 1 })
		conn, err := rpc.Dial(rpctest.Target("scheduler-0:7410"), rpc.DialConfig{Options: []grpc.DialOption{grpc.WithContextDialer(w.network.Dial)}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		serving := func() bool {
			r, err := healthpb.NewHealthClient(conn).Check(w.ctx, &healthpb.HealthCheckRequest{})
			return err == nil && r.GetStatus() == healthpb.HealthCheckResponse_SERVING
		}
		if !serving() {
			t.Fatal("not ready before the stop")
		}
		p.cancel()
		for range 3 {
			time.Sleep(400 * time.Millisecond)
			if serving() {
				t.Error("ready while it stops")
			}
		}
	})
}

// TestDrainedIsTakenBackBeforeTheFirstGrant: a scheduler that dies right after its first grant leaves no commit that says drained, or the next
// one would grant the running jobs again at once (I5, H6).
func TestDrainedIsTakenBackBeforeTheFirstGrant(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := nameIn(1, "s")
		w.register(source)
		w.enqueue(0)
		ran := &tally{}
		if err := w.scheduler(0).stop(); err != nil {
			t.Fatal(err)
		}
		c := w.caller()
		defer c.Close()
		ids := w.send(c, source, 4)
		lost := w.worker(8, ran.handler(20*time.Second))
		victim := w.scheduler(1)
		w.until("they run", time.Second, func() bool { return ran.total() == len(ids) })
		victim.kill() // at once
		lost.peers.cut()
		began := time.Now()
		w.worker(8, ran.handler(0))
		w.scheduler(2)
		w.until("they run again", 60*time.Second, func() bool { return ran.total() > len(ids) })
		if wait := time.Since(began); wait < 20*time.Second {
			t.Errorf("jobs that another worker was running were granted again after %v", wait)
		}
		w.drained(60*time.Second, ran, ids...)
	})
}

// TestHoldSurvivesTakeoverAndRestart: what is held stays held when its scheduler dies and when a new one starts (I10, H18).
func TestHoldSurvivesTakeoverAndRestart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("flood")
		w.enqueue(0)
		ran := &tally{}
		w.worker(8, ran.handler(0))
		first := w.scheduler(0)
		c := w.caller()
		defer c.Close()
		w.hold("flood")
		time.Sleep(500 * time.Millisecond)
		ids := w.send(c, "flood", 200)
		time.Sleep(2 * time.Second)
		first.kill()
		second := w.scheduler(1)
		ids = append(ids, w.send(c, "flood", 200)...)
		time.Sleep(35 * time.Second) // longer than a quarantine
		if err := second.stop(); err != nil {
			t.Fatal(err)
		}
		w.scheduler(2)
		time.Sleep(5 * time.Second)
		if n := ran.total(); n != 0 {
			t.Fatalf("%d jobs of a held source ran", n)
		}
		w.resume("flood")
		w.drained(20*time.Second, ran, ids...)
		if n := ran.again(); n != 0 {
			t.Errorf("%d jobs ran again", n)
		}
	})
}

// TestCompletedAboveTheCommitDoNotRunAgain: one job holds the committed offset back while many behind it complete; after a crash only that
// one may run again (H3).
func TestCompletedAboveTheCommitDoNotRunAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := nameIn(2, "s")
		w.register(source)
		w.enqueue(0)
		ran := &tally{}
		victim := w.scheduler(0)
		slow := ""
		old := w.worker(4, func(ctx context.Context, job *worker.Job) error {
			ran.run(job)
			if string(job.Payload) == "slow" {
				<-ctx.Done()
			}
			return nil
		})
		c := w.caller()
		defer c.Close()
		slow = w.send(c, source, 1, payload("slow"))[0]
		w.until("the slow one runs", time.Second, func() bool { return ran.of(slow) == 1 })
		ids := w.send(c, source, 100)
		w.until("the others have run", 10*time.Second, func() bool { return ran.total() == 101 })
		time.Sleep(time.Second)
		at := w.committed(topics.Jobs("default"), 2)
		if at.Offset != 0 || len(at.Meta.Done) == 0 {
			t.Fatalf("committed %+v: the slow job holds nothing back", at)
		}
		victim.kill()
		old.kill()
		w.worker(4, ran.handler(0))
		w.scheduler(1)
		w.drained(60*time.Second, ran, append(ids, slow)...)
		if n := ran.again(); n != 1 || ran.of(slow) != 2 {
			t.Errorf("%d runs again, %d of the slow one", n, ran.of(slow))
		}
	})
}

// TestAttemptsSurviveTakeover: failed attempts count for the next owner too: a job that always fails runs as often as its policy says, however
// its schedulers die (H13).
func TestAttemptsSurviveTakeover(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := nameIn(3, "s")
		w.register(source, attempts(3))
		w.enqueue(0)
		ran := &tally{}
		replica := w.scheduler(0)
		w.worker(4, func(_ context.Context, job *worker.Job) error {
			ran.run(job)
			return fmt.Errorf("broken")
		})
		c := w.caller()
		defer c.Close()
		id := w.send(c, source, 1)[0]
		for n := 1; n <= 2; n++ {
			w.until("another attempt", 90*time.Second, func() bool { return ran.of(id) == n })
			w.until("it is recorded", 5*time.Second, func() bool { _, attempts := w.events(); return attempts[id] == n })
			replica.kill()
			replica = w.scheduler(n % 3)
		}
		l := w.drained(90*time.Second, ran, id)
		if ran.of(id) != 3 || l.attempts[id] != 2 || l.settled[id][0].GetAttempts() != 3 {
			t.Errorf("%d runs, %d failed attempts, settled after %d", ran.of(id), l.attempts[id], l.settled[id][0].GetAttempts())
		}
	})
}
