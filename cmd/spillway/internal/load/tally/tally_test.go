package tally

import (
	"testing"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
)

const ms = time.Millisecond

func newBook(t *testing.T, quiet, sending time.Duration, specs ...string) (*Book, plan.Run) {
	t.Helper()
	flows, err := plan.Parse(specs)
	if err != nil {
		t.Fatal(err)
	}
	run := plan.NewRun(1, flows, quiet, sending)
	return New(run), run
}

func TestUnstartedJobsWaitUntilTheEnd(t *testing.T) {
	b, run := newBook(t, 0, 10*time.Second, "a=10")
	for k := range 100 {
		b.Sent(0, k)
		b.Answered(0, k, run.Schedules[0].At(k)+ms, Accepted)
		if k != 40 {
			b.Started(0, k, run.Schedules[0].At(k)+2*ms)
			b.Finished(0, k)
		}
	}
	f := b.Phase(0, 10*time.Second, time.Minute).Flows[0]
	want := (time.Minute - run.Schedules[0].At(40)).Seconds() * 1000
	if f.Wait.P50 != 2 || f.Wait.Max != want || f.Accept.Max != 1 {
		t.Errorf("wait %+v, accept %+v, want the unstarted job to wait %v ms", f.Wait, f.Accept, want)
	}
	if f.Sent != 100 || f.Accepted != 100 || f.Started != 99 || f.Finished != 99 || b.Open() != 1 {
		t.Errorf("%+v, open %d", f, b.Open())
	}
}

func TestPhasesAndGroups(t *testing.T) {
	b, run := newBook(t, 5*time.Second, 5*time.Second, "victim*2=10", "flood=10")
	for i, s := range run.Schedules {
		for k := range s.Count() {
			b.Sent(i, k)
			b.Answered(i, k, s.At(k), Accepted)
			wait := ms
			if s.At(k) >= 5*time.Second {
				wait = time.Duration(2+i) * ms
			}
			b.Started(i, k, s.At(k)+wait)
		}
	}
	quiet, flood := b.Phase(0, run.Quiet, time.Minute), b.Phase(run.Quiet, run.Quiet+run.For, time.Minute)
	if len(quiet.Flows) != 2 || len(quiet.Groups) != 1 || quiet.Groups[0].Sent != 100 || quiet.Groups[0].Wait.Max != 1 {
		t.Errorf("quiet = %+v", quiet)
	}
	g := flood.Groups[0]
	if len(flood.Flows) != 3 || g.Name != "victim" || g.Sent != 100 || g.Wait.P50 != 2 || g.Wait.P99 != 3 || g.Worst.Name != "victim-02" {
		t.Errorf("flood = %+v, worst %+v", flood, g.Worst)
	}
}

func TestLedgerFindsWhatIsWrong(t *testing.T) {
	b, _ := newBook(t, 0, time.Second, "a=10")
	type step struct {
		answer  Answer
		starts  int
		outcome Outcome
	}
	steps := []step{
		{Accepted, 1, Succeeded},
		{Accepted, 3, Succeeded}, // two duplicates
		{Accepted, 0, Absent},    // lost: in no log
		{Accepted, 0, Succeeded}, // lost: settled without having run
		{Accepted, 0, Waiting},   // remaining
		{Refused, 0, Absent},
		{Refused, 1, Succeeded}, // unexpected
		{Unknown, 0, Absent},    // never arrived: fine
		{None, 1, Succeeded},    // unknown that ran: fine
		{Accepted, 1, Dead},
	}
	for k, s := range steps {
		b.Sent(0, k)
		b.Answered(0, k, 0, s.answer)
		for range s.starts {
			b.Started(0, k, ms)
		}
	}
	got := b.Ledger(func(f Fate) Outcome { return steps[f.Seq].outcome })
	want := Ledger{Sent: 10, Accepted: 6, Refused: 2, Unknown: 2, Succeeded: 5, Dead: 1, Remaining: 1, Lost: 2, Duplicates: 2, Unexpected: 1}
	if got != want {
		t.Errorf("ledger = %+v\nwant     %+v", got, want)
	}
}

func TestStartedWithinCountsRepeatedStarts(t *testing.T) {
	b, _ := newBook(t, 0, time.Second, "a=10")
	b.Started(0, 0, 10*ms)
	b.Started(0, 0, 30*ms)
	b.Started(0, 1, 25*ms)
	b.Started(0, 2, 50*ms)
	if n := b.StartedWithin(0, 20*ms, 40*ms); n != 2 {
		t.Errorf("%d starts within the hold, want 2", n)
	}
	if b.Started(0, 999, ms) || b.Started(7, 0, ms) {
		t.Error("a job that the run does not have was counted")
	}
}

func TestLateAnswersAndStartsKeepTheCountOfOpenJobs(t *testing.T) {
	b, _ := newBook(t, 0, time.Second, "a=10")
	b.Sent(0, 0)
	b.Started(0, 0, ms) // before its answer
	if b.Open() != 1 {
		t.Error("a started job is not waited for")
	}
	b.Finished(0, 0)
	b.Answered(0, 0, 2*ms, Accepted)
	if b.Open() != 0 {
		t.Error("a finished job is waited for")
	}
	b.Sent(0, 1)
	b.Answered(0, 1, ms, Refused)
	b.Sent(0, 2)
	b.Answered(0, 2, ms, Unknown)
	if b.Open() != 0 {
		t.Error("a refused or unknown job that never started is waited for")
	}
	if l := b.Live(0); l.Sent != 3 || l.Accepted != 1 || l.Refused != 1 || l.Unknown != 1 || l.Finished != 1 {
		t.Errorf("live = %+v", l)
	}
}
