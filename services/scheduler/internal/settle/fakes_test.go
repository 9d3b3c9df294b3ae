package settle

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spillway/spillway/pkg/kafka/produce"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// diary records what happened in which order, over all fakes.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
	d.mu.Unlock()
}

func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.lines...)
}

// fakeLog acknowledges after a while; fails makes the next appends fail.
type fakeLog struct {
	diary *diary
	mu    sync.Mutex
	next  int64
	fails []error // for each of the next calls: nil succeeds
	full  int     // so many of the next calls are refused with err
	err   error
}

func (l *fakeLog) Send(rec produce.Record, done func(int64, error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full > 0 {
		l.full--
		return l.err
	}
	var fail error
	if len(l.fails) > 0 {
		fail, l.fails = l.fails[0], l.fails[1:]
	}
	offset := l.next
	l.next++
	go func() {
		time.Sleep(5 * time.Millisecond)
		if fail != nil {
			done(0, fail)
			return
		}
		l.diary.note("durable %s/%d", rec.Topic, rec.Partition)
		done(offset, nil)
	}()
	return nil
}

type fakeEngine struct {
	mu     sync.Mutex
	engine *core.Engine
}

func (e *fakeEngine) Do(f func(time.Time, *core.Engine)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(time.Now(), e.engine)
}

type fakeHomes struct {
	diary *diary
	lane  int32
	lost  bool
}

func (h *fakeHomes) Epoch(int32) (int64, bool) { return 7, !h.lost }
func (h *fakeHomes) Event(_ int32, _ core.JobID, offset int64, outcome jobv1.Outcome) {
	h.diary.note("event %v", outcome)
}
func (h *fakeHomes) Complete(_ int32, _ core.JobID, home core.Home) {
	h.diary.note("complete %s/%d@%d", TopicName(home.Topic), home.Partition, home.Offset)
}
func (h *fakeHomes) Lane(context.Context, int32, int64, string, string) (int32, error) {
	h.diary.note("lane")
	return h.lane, nil
}
func (h *fakeHomes) Landed(int32, int64, int32, int64) { h.diary.note("landed") }

type fakeWorkers struct{ diary *diary }

func (w fakeWorkers) Settled(worker string, _ core.Token) { w.diary.note("told %s", worker) }
