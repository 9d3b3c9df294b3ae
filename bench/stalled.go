package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// use is the memory of the notifier, in bytes: what is resident, and what the last collection of its heap found alive, which follows from where the next
// one begins and GOGC (the memory limit is far).
// slow is how often a session fell behind since the process began.
type use struct{ resident, alive, slow float64 }

func (i *installation) use() (use, error) {
	resident, err := memory(i.pid("notifier"), "VmRSS")
	if err != nil {
		return use{}, err
	}
	m, err := i.metrics()
	return use{resident: resident, alive: m["go_memstats_next_gc_bytes"] / (1 + m["go_gc_gogc_percent"]/100), slow: m["spillway_notifier_slow_total"]}, err
}

// stalled measures what readers who stop reading cost the others and the notifier.
func (b *bench) stalled(runs int) error {
	i, err := b.install()
	if i != nil {
		defer i.stop()
	}
	if err != nil {
		return err
	}
	if err := i.register(benchSource, nil, "bench"); err != nil {
		return err
	}
	ctx := context.Background()
	fmt.Printf("%d cores, %s, %s, %d pairs, %s\n\n", runtime.NumCPU(), runtime.Version(), b.log(), runs, time.Now().UTC().Format(time.DateOnly))
	var p50s, p99s [2][]float64
	var ratio []float64
	for range runs + 1 { // the first pair warms up
		for side, stalled := range []int{0, 10} {
			c, err := i.crowd(100, stalled)
			if err != nil {
				return err
			}
			if err = i.send(ctx, 200, 10*time.Second); err != nil {
				c.leave()
				return err
			}
			if err := c.end(ctx, 2000); err != nil {
				return err
			}
			p50s[side], p99s[side] = append(p50s[side], at(c.ages, .5)), append(p99s[side], at(c.ages, .99))
		}
		ratio = append(ratio, p99s[1][len(p99s[1])-1]/p99s[0][len(p99s[0])-1])
	}
	fmt.Println("100 clients of one channel, 200 messages/s of 256 to 1,024 bytes for 10 s, from when each was due until a client has read it:")
	fmt.Printf("\n| | p50 | p99 |\n|---|---|---|\n| all read | %s ms | %s ms |\n| 10 stopped, the others | %s ms | %s ms |\n\np99 with over p99 without: %s\n\n",
		show(p50s[0][1:]), show(p99s[0][1:]), show(p50s[1][1:]), show(p99s[1][1:]), show(ratio[1:]))

	var resident, heap [2][]float64
	var more, moreHeap []float64
	for n := range runs + 1 {
		for side, stalled := range []int{0, 1000} {
			c, err := i.crowd(2000, stalled)
			if err != nil {
				return err
			}
			before, err := i.use()
			if err != nil {
				return err
			}
			sent := make(chan error, 1)
			go func() { sent <- i.send(ctx, 25, 14*time.Second) }()
			time.Sleep(8500 * time.Millisecond) // until their sockets are full
			var rss, alive []float64
			var now use
			for range 20 {
				if now, err = i.use(); err != nil {
					return err
				}
				rss, alive = append(rss, now.resident), append(alive, now.alive)
				time.Sleep(250 * time.Millisecond)
			}
			err = <-sent
			c.leave()
			time.Sleep(time.Second) // until the notifier has seen them go
			if err != nil {
				return err
			}
			if fell := now.slow - before.slow; fell < float64(stalled) {
				return fmt.Errorf("%.0f sessions fell behind, %d were to", fell, stalled)
			}
			if n == 0 {
				continue
			}
			slices.Sort(rss)
			slices.Sort(alive)
			resident[side], heap[side] = append(resident[side], rss[len(rss)/2]/(1<<20)), append(heap[side], alive[len(alive)/2]/(1<<20))
		}
		if n > 0 {
			last := len(resident[0]) - 1
			more = append(more, (resident[1][last]-resident[0][last])*1024/1000)
			moreHeap = append(moreHeap, (heap[1][last]-heap[0][last])*1024/1000)
		}
	}
	fmt.Printf("2,000 clients of one channel, 25 messages/s; the notifier's process alone, which holds no client:\n\n| | resident | heap alive |\n|---|---|---|\n")
	fmt.Printf("| all read | %s MiB | %s MiB |\n| 1,000 stopped | %s MiB | %s MiB |\n| more for each that stopped | %s KiB | %s KiB |\n",
		show(resident[0]), show(heap[0]), show(resident[1]), show(heap[1]), show(more), show(moreHeap))
	return nil
}
