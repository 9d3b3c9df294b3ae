package takeover

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestOneToThreeToOneInOrder: two schedulers come and go by SIGTERM. Jobs that run
// go on under the new owner and run once, nothing waits longer than the rebalance.
func TestOneToThreeToOneInOrder(t *testing.T) { t.Parallel(); oneToThreeToOneInOrder(t, embedded) }

func oneToThreeToOneInOrder(t *testing.T, b broker) {
	a := open(t, b)
	time.Sleep(warm)
	for _, name := range []string{"scheduler-b", "scheduler-c"} {
		a.add(name).AwaitReady()
		time.Sleep(4 * time.Second) // long jobs are under way in every shard
	}
	for _, name := range []string{"scheduler-b", "scheduler-c"} {
		a.stop(name)
		time.Sleep(4 * time.Second)
	}
	v := a.judge(want{fault: "1→3→1 SIGTERM", faults: 2, takeovers: 5, orderly: true, calls: true})
	if v.Duplicates > 0 {
		t.Errorf("%d jobs ran twice after orderly stops", v.Duplicates)
	}
}

// TestOneToThreeToOneKilled: two schedulers come and are killed.
func TestOneToThreeToOneKilled(t *testing.T) { t.Parallel(); oneToThreeToOneKilled(t, embedded) }

func oneToThreeToOneKilled(t *testing.T, b broker) {
	a := open(t, b)
	time.Sleep(warm)
	for _, name := range []string{"scheduler-b", "scheduler-c"} {
		a.add(name).AwaitReady()
	}
	time.Sleep(4 * time.Second)
	for _, name := range []string{"scheduler-b", "scheduler-c"} {
		a.kill(name)
		time.Sleep(session + 3*time.Second)
	}
	a.judge(want{fault: "1→3→1 SIGKILL", faults: 2, takeovers: 5, fresh: freshLimit, found: foundLimit, calls: true})
}

// TestF3FrozenSchedulers: a scheduler is frozen for half a session, for one and a
// half, and for longer than everything that it knows is true, and wakes up each time
// as a zombie that must neither grant, settle nor commit.
func TestF3FrozenSchedulers(t *testing.T) { t.Parallel(); frozenSchedulers(t, embedded) }

func frozenSchedulers(t *testing.T, b broker) {
	spans := []time.Duration{session / 2, session * 3 / 2, 3 * session}
	if *long {
		spans = append(spans, 10*session)
	}
	a := openThree(t, b.with(marathon))
	for i, span := range spans {
		a.freeze([]string{"scheduler-b", "scheduler-c"}[i%2], span, nil)
		time.Sleep(session)
	}
	a.judge(want{fault: fmt.Sprintf("SIGSTOP %v", spans), faults: len(spans), takeovers: 4, fresh: freshLimit, found: foundLimit, calls: true})
}

// TestF1TwiceInTwoSeconds: two schedulers are killed within two seconds; the second
// one while nobody has taken over from the first.
func TestF1TwiceInTwoSeconds(t *testing.T) { t.Parallel(); twiceInTwoSeconds(t, embedded) }

func twiceInTwoSeconds(t *testing.T, b broker) {
	a := openThree(t, b)
	a.kill("scheduler-b")
	time.Sleep(1500 * time.Millisecond)
	a.kill("scheduler-c")
	time.Sleep(session + 3*time.Second)
	a.judge(want{fault: "SIGKILL twice within 2 s", faults: 2, takeovers: 4, fresh: freshLimit, found: foundLimit, calls: true})
}

// TestF19SchedulersComeAndGo: each 3 s one scheduler comes and another one goes, in
// order.
func TestF19SchedulersComeAndGo(t *testing.T) { t.Parallel(); comeAndGo(t, embedded) }

func comeAndGo(t *testing.T, b broker) {
	a := open(t, b)
	time.Sleep(warm)
	rounds := 10
	if *long {
		rounds = 20
	}
	draw := rand.New(rand.NewPCG(a.seed, 19))
	var up []string
	stops := 0
	for i := range rounds {
		if len(up) == 0 || len(up) == 1 && draw.IntN(2) == 0 {
			name := fmt.Sprintf("scheduler-x%d", i)
			a.add(name)
			up = append(up, name)
		} else {
			k := draw.IntN(len(up))
			a.stop(up[k])
			up = append(up[:k], up[k+1:]...)
			stops++
		}
		time.Sleep(3 * time.Second)
	}
	v := a.judge(want{fault: fmt.Sprintf("schedulers come and go, %d × 3 s", rounds), faults: stops, takeovers: stops, orderly: true, calls: true})
	if v.Duplicates > 0 {
		t.Errorf("%d jobs ran twice after orderly stops", v.Duplicates)
	}
}

// TestI10HoldReachesFrozenScheduler: a source is held while one of the schedulers is
// frozen. After the answer nothing of it starts anywhere, also when the frozen one
// wakes up.
func TestI10HoldReachesFrozenScheduler(t *testing.T) { t.Parallel(); holdWhileFrozen(t, embedded) }

func holdWhileFrozen(t *testing.T, b broker) {
	a := openThree(t, b)
	// Sources of every shard, so that some are the frozen one's.
	held := []string{"steady-00", "steady-01", "steady-02", "steady-03", "steady-04", "steady-05"}
	named := 0
	hold := func() {
		for _, source := range held {
			took, silent := a.Hold(source)
			named += len(silent)
			t.Logf("hold of %s answered after %v, silent %v", source, took.Round(time.Millisecond), silent)
		}
	}
	a.freeze("scheduler-b", session/2, hold) // it is still the owner when it wakes up
	time.Sleep(2 * time.Second)
	for _, source := range held {
		a.Resume(source)
	}
	time.Sleep(2 * time.Second)
	a.freeze("scheduler-c", session*3/2, hold) // it is not any more
	time.Sleep(4 * time.Second)
	for _, source := range held {
		a.Resume(source)
	}
	if named == 0 {
		t.Error("no answer named the frozen scheduler as silent")
	}
	a.judge(want{fault: "hold while a scheduler is frozen", faults: 2, takeovers: 1, fresh: freshLimit, found: foundLimit, calls: true})
}
