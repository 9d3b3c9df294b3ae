package replay

import (
	"context"
	"math"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/judge"
)

// sampleEvery is how often memory is looked at. The kernel keeps each process's
// peak; looking is only for those that do not live until the end.
const sampleEvery = 500 * time.Millisecond

// sampler keeps the peak resident memory of processes by name.
type sampler struct {
	of      func() []readyfile.Process
	ceiling func(name string) int64

	mu    sync.Mutex
	order []string
	peak  map[string]judge.Memory
}

// run looks until ctx ends.
func (s *sampler) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.look()
		}
	}
}

func (s *sampler) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peak == nil {
		s.peak = make(map[string]judge.Memory)
	}
	for _, p := range s.of() {
		u, ok := process.Measure(p.PID)
		m, known := s.peak[p.Name]
		if !known {
			if !ok {
				continue // not measurable here: it has no row
			}
			s.order = append(s.order, p.Name)
		}
		s.peak[p.Name] = judge.Memory{Process: p.Name, Peak: max(m.Peak, u.Peak), CPU: max(m.CPU, u.CPU.Seconds()), Ceiling: s.ceiling(p.Name), Restarts: p.Restarts}
	}
}

// mark is how busy the machine has been by now, and how much of it was this run's.
type mark struct {
	at   time.Time
	busy time.Duration
	own  map[int]time.Duration // by process
	ok   bool
}

// mark looks at all processes of the run, and at the machine.
func (s *sampler) mark() (m mark) {
	m.at, m.own = time.Now(), make(map[int]time.Duration)
	m.busy, m.ok = process.Busy()
	for _, pid := range append([]int{os.Getpid()}, pids(s.of())...) {
		u, ok := process.Measure(pid)
		m.own[pid], m.ok = u.CPU, m.ok && ok
	}
	return m
}

func pids(list []readyfile.Process) (pids []int) {
	for _, p := range list {
		pids = append(pids, p.PID)
	}
	return pids
}

// others is the part of all cores that other processes took between two marks, in percent; nil where that cannot be read, and when a process was
// started again meanwhile: what it had taken before is known to nobody.
func others(from, to mark) *float64 {
	d := to.at.Sub(from.at) * time.Duration(runtime.NumCPU())
	if !from.ok || !to.ok || d <= 0 || len(from.own) != len(to.own) {
		return nil
	}
	rest := to.busy - from.busy
	for pid, used := range to.own {
		before, was := from.own[pid]
		if !was {
			return nil
		}
		rest -= used - before
	}
	share := math.Round(100 * max(0, rest).Seconds() / d.Seconds())
	return &share
}

// peaks returns what was found, and this process's own.
func (s *sampler) peaks() (list []judge.Memory, own judge.Memory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list = []judge.Memory{}
	for _, name := range s.order {
		list = append(list, s.peak[name])
	}
	u, _ := process.Measure(os.Getpid())
	return list, judge.Memory{Process: "replay", Peak: u.Peak, CPU: u.CPU.Seconds()}
}
