package deliver

import (
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkDeliver is what a message to a socket costs on real sockets, from the log in memory on, with the clients' own reading in it: 100 clients of one
// channel, 256-byte frames, as many at once as the log has.
func BenchmarkDeliver(b *testing.B) {
	const clients = 100
	s := stands(b, Config{StallAfter: time.Hour})
	var all sync.WaitGroup
	var viewers []*viewer
	for range clients {
		v := s.view()
		viewers = append(viewers, v)
		all.Go(func() { _, _ = io.CopyBuffer(io.Discard, struct{ io.Reader }{v.conn}, make([]byte, 16<<10)) })
	}
	messages := max(1, b.N/clients)
	data := strconv.Quote(strings.Repeat("x", 140))
	m := record(1, "tenant:acme", "id", data, nil)
	tick := time.NewTicker(100 * time.Microsecond)
	defer tick.Stop()
	b.ResetTimer()
	for n := 0; n < messages; n += 100 {
		for range min(100, messages-n) {
			s.log.append(m)
		}
		for s.room.partitions[0].next.Load() < int64(n) { // a fetch ahead, no more
			<-tick.C
		}
	}
	s.until("level", time.Minute, func() bool {
		if s.room.partitions[0].next.Load() < int64(messages) {
			return false
		}
		for _, one := range s.room.all() {
			for _, t := range one.seated() {
				if t.at.Load() != live || one.held() > 0 {
					return false
				}
			}
		}
		return true
	})
	b.StopTimer()
	b.ReportMetric(float64(messages*clients)/b.Elapsed().Seconds(), "deliveries/s")
	for _, v := range viewers {
		_ = v.conn.Close()
	}
	all.Wait()
}
