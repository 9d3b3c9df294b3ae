package deliver

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
)

// slowLog takes its time for what is there already, and knows how much of it was asked for at once.
type slowLog struct {
	*fakeLog
	mu        sync.Mutex
	now, peak int
}

func (l *slowLog) Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error) {
	l.fakeLog.mu.Lock()
	behind := from < l.first[partition]+int64(len(l.records[partition]))
	l.fakeLog.mu.Unlock()
	if behind {
		l.count(maxBytes)
		defer l.count(-maxBytes)
		time.Sleep(100 * time.Millisecond)
	}
	return l.fakeLog.Fetch(ctx, topic, partition, from, maxBytes, maxWait)
}

func (l *slowLog) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now += n
	l.peak = max(l.peak, l.now)
}

// A replica that starts on a full log has few answers unpacked at once, however many partitions there are: one is 250 times what was asked for if
// notifications repeat themselves. A partition that is level does not wait for those that are not.
func TestPartitionsCatchUpAFewAtATime(t *testing.T) {
	const partitions, records = 24, 20
	var slow *slowLog
	fill := func(p *Ports) {
		slow = &slowLog{fakeLog: p.Log.(*fakeLog)}
		for n := range (partitions - 1) * records {
			m := record(partitions, "tenant:acme", "id", `"`+strings.Repeat("x", 8<<10)+`"`, nil)
			m.Partition = 1 + n%(partitions-1)
			slow.append(m)
		}
		p.Log = slow
	}
	bubbleOf(t, Config{Partitions: partitions}, fill, func(t *testing.T, w *world) {
		time.Sleep(pollWait * 5 / 2) // between two polls of what is level
		m := record(partitions, "tenant:acme", "new", `1`, nil)
		m.Partition = 0
		slow.append(m)
		synctest.Wait()
		if next := w.room.partitions[0].next.Load(); next != 1 || w.room.read() {
			t.Errorf("the level partition is at %d; all are read: %t", next, w.room.read())
		}
		for !w.room.read() {
			time.Sleep(100 * time.Millisecond)
		}
		for _, p := range w.room.partitions[1:] {
			if p.next.Load() != records {
				t.Errorf("partition %d is at %d", p.number, p.next.Load())
			}
		}
		slow.mu.Lock()
		defer slow.mu.Unlock()
		if slow.peak > catchUps*behindBytes {
			t.Errorf("%d bytes were asked for at once, want at most %d", slow.peak, catchUps*behindBytes)
		}
	})
}
