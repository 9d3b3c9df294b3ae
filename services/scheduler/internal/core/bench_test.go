package core

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// BenchmarkDecide is one job's whole way through the engine: offered, granted, started, done, settled, with that many
// sources busy and 64 slots.
func BenchmarkDecide(b *testing.B) {
	for _, sources := range []int{10, 1000, 10000, 100000} {
		b.Run(fmt.Sprint("flows=", sources), func(b *testing.B) {
			now := origin
			e := New(Config{Seed: 1, Memory: 1 << 30})
			e.Attach(now, 0, 1)
			e.Join(now, Worker{ID: "w", Types: []string{"t"}, Concurrency: 64})
			names := make([]string, sources)
			for i := range names {
				names[i] = fmt.Sprint("source-", i)
			}
			var free []*Job
			n := uint64(0)
			offer := func() {
				var j *Job
				if k := len(free); k > 0 {
					j, free = free[k-1], free[:k-1]
				} else {
					j = &Job{}
				}
				n++
				*j = Job{Source: names[n%uint64(sources)], Type: "t", Priority: Default, Size: 256, Home: Home{Topic: 2, Offset: int64(n)}}
				binary.BigEndian.PutUint64(j.ID[8:], n)
				j.ID[6] = 7 << 4
				if v := e.Offer(now, j); v.Kind != Queue {
					b.Fatalf("%+v", v)
				}
			}
			for range 2 * sources {
				offer()
			}
			var running []Lease
			seen := int64(0)
			e.Credit(now, "w", 64, 0)
			granted := 0
			step := func() {
				for {
					a := e.Next(now)
					if a.Kind == Idle {
						break
					}
					if a.Kind == Grant {
						granted++
						seen++
						running = append(running, a.Lease)
						offer()
					}
				}
				for _, l := range running {
					s := e.Done(now, "w", Result{Token: l.Token, JobID: l.Job.ID, Kind: Success})
					e.Settled(now, s.Job.ID, s.Token)
					free = append(free, s.Job)
				}
				running = running[:0]
				e.Credit(now, "w", 64, seen)
				now = now.Add(time.Millisecond)
				if n%10 == 0 {
					e.Tick(now)
				}
			}
			for range 100 {
				step()
			}
			b.ReportAllocs()
			b.ResetTimer()
			granted = 0
			for granted < b.N {
				step()
			}
			b.ReportMetric(float64(granted)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}
