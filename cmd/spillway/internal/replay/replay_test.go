package replay

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/judge"
)

// line is a client's connection in a test.
type line struct {
	in     chan []byte
	closed chan struct{}
}

func (l *line) Next(ctx context.Context) ([]byte, bool, error) {
	select {
	case data, ok := <-l.in:
		if !ok {
			return nil, false, errors.New("cut")
		}
		return data, data == nil, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

func (l *line) Close() { close(l.closed) }

// Readers take what comes, come back when they are cut off, and what they do not
// have of finished jobs is missing. The others never read, and come back every
// ten seconds.
func TestAudience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := judge.Plan(7, judge.Times{Quiet: time.Second, Flood: time.Second, After: time.Second})
		post := judge.NewPost(run, judge.Tenants*judge.Readers)
		var mu sync.Mutex
		lines := make(map[client][]*line)
		of := func(c client) []*line { mu.Lock(); defer mu.Unlock(); return lines[c] }
		a := &audience{post: post, dial: func(_ context.Context, c client) (socket, error) {
			l := &line{in: make(chan []byte), closed: make(chan struct{})}
			mu.Lock()
			defer mu.Unlock()
			lines[c] = append(lines[c], l)
			return l, nil
		}}
		if err := a.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := client{number: 0, tenant: "t1", reads: true}
		mu.Lock()
		if len(lines) != judge.Tenants*judge.Clients || len(lines[first]) != 1 {
			t.Fatalf("%d clients", len(lines))
		}
		mu.Unlock()
		letter := func(flow, job int) []byte {
			return judge.Letter{Run: 7, Flow: uint32(flow), Job: uint32(job), At: time.Now().UnixNano()}.Write()
		}
		book := tally.New(run)
		for k := range 3 {
			book.Sent(0, k)
			book.Finished(0, k)
		}
		book.Sent(1, 0) // not finished: nobody waits for its notification
		of(first)[0].in <- letter(0, 0)
		of(first)[0].in <- nil // a gap
		close(of(first)[0].in)
		time.Sleep(2 * redialEvery) // of the bubble
		synctest.Wait()
		if len(of(first)) != 2 {
			t.Fatal("a reader that was cut off did not come back")
		}
		of(first)[1].in <- letter(0, 2)
		synctest.Wait()
		if expected, missing := a.missing(book, run); expected != 3 || missing != 1 {
			t.Errorf("%d of %d are missing", missing, expected)
		}
		if again, gaps, cuts := post.Counts(); again != 0 || gaps != 1 || cuts != 1 {
			t.Error(again, gaps, cuts)
		}
		time.Sleep(2 * sleepFor) // of the bubble
		a.leave()
		for c, all := range lines {
			if n := len(all); !c.reads && n != 3 && n != 4 {
				t.Errorf("%+v, which does not read, came back %d times in 20 s", c, n-1)
			}
		}
		for c, all := range lines {
			for _, l := range all {
				select {
				case <-l.closed:
				default:
					t.Errorf("a connection of %+v was left open", c)
				}
			}
		}
	})
}

func TestIssuer(t *testing.T) {
	if id, err := issuer("e30.eyJpc3MiOiJjbHVzdGVyLTEifQ.c2ln"); err != nil || id != "cluster-1" {
		t.Errorf("%q, %v", id, err)
	}
	for _, token := range []string{"", "a.b", "a.!.c", "a.e30.c"} {
		if _, err := issuer(token); err == nil {
			t.Errorf("%q has an issuer", token)
		}
	}
}

// A process that was started again keeps its peak, and has its restart counted.
func TestSamplerKeepsPeaks(t *testing.T) {
	s := &sampler{ceiling: func(string) int64 { return 1 << 40 }, of: func() []readyfile.Process { return nil }}
	s.peak = map[string]judge.Memory{"scheduler-0": {Process: "scheduler-0", Peak: 1 << 30}}
	s.order = []string{"scheduler-0"}
	s.of = func() []readyfile.Process {
		return []readyfile.Process{{Name: "scheduler-0", PID: 0, Restarts: 1}, {Name: "unknown", PID: 0}}
	}
	s.look()
	list, _ := s.peaks()
	if len(list) != 1 || list[0].Peak != 1<<30 || list[0].Restarts != 1 {
		t.Errorf("%+v", list)
	}
}

// 1 is the verdict of a broken promise: what was interrupted has none, however it failed then.
func TestAnInterruptedReplayHasItsOwnExitCode(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	failure := exit.Errorf(exit.Unavailable, "no broker")
	if got := exit.Code(verdictless(ctx, failure)); got != exit.Unavailable {
		t.Errorf("not interrupted: %d", got)
	}
	interrupt()
	for _, err := range []error{failure, errStopped, ctx.Err(), errors.New("the broker ended")} {
		if got := exit.Code(errors.Join(verdictless(ctx, err), errors.New("and something at the end"))); got != 130 {
			t.Errorf("%v: exit code %d", err, got)
		}
	}
}
