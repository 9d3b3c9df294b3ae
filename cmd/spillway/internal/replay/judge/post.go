package judge

import (
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
)

// Letter is what a notification of a replay says.
type Letter struct {
	Run  uint64 `json:"run"` // the seed
	Flow uint32 `json:"flow"`
	Job  uint32 `json:"job"`
	// At is when the handler asked for it to be published, Unix nanoseconds.
	At   int64  `json:"at"`
	Text string `json:"text"`
}

var text = strings.Repeat("the customer wrote back, ", TextBytes/25)

// Write is the letter as JSON.
func (l Letter) Write() []byte {
	l.Text = text
	b, err := json.Marshal(l)
	if err != nil {
		panic(err) // four numbers and a constant
	}
	return b
}

// Post is the account of the notifications: what the readers got and how long
// it took. Safe for concurrent use.
type Post struct {
	run   plan.Run
	base  time.Time
	jobs  []int // by flow
	mu    sync.Mutex
	got   []boxes // by reader
	takes []take
	again int
	gaps  int
	cuts  int
}

// boxes are bits by flow and job.
type boxes map[uint32][]uint64

// take is the way of one notification. All times but took are since the run's
// begin.
type take struct {
	due, at time.Duration // when its job was due, when the handler asked for it
	took    time.Duration // from then on
}

// NewPost opens the account of a run.
func NewPost(run plan.Run, readers int) *Post {
	p := &Post{run: run, got: make([]boxes, readers)}
	for _, s := range run.Schedules {
		p.jobs = append(p.jobs, s.Count())
	}
	for i := range p.got {
		p.got[i] = make(boxes)
	}
	return p
}

// Begin tells when the run begins. It is called before its first job is sent.
func (p *Post) Begin(base time.Time) { p.mu.Lock(); p.base = base; p.mu.Unlock() }

// Took notes that a reader has a notification. Only tenants' own ones count for
// the times: those are what a flood must not touch.
func (p *Post) Took(reader int, data []byte, now time.Time) {
	var l Letter
	if json.Unmarshal(data, &l) != nil || l.Run != p.run.Seed || int(l.Flow) >= len(p.jobs) || int(l.Job) >= p.jobs[l.Flow] {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.got[reader][l.Flow]
	if b == nil {
		b = make([]uint64, p.jobs[l.Flow]/64+1)
		p.got[reader][l.Flow] = b
	}
	if bit := uint64(1) << (l.Job % 64); b[l.Job/64]&bit == 0 {
		b[l.Job/64] |= bit
	} else {
		p.again++
		return
	}
	if l.Flow < Tenants {
		p.takes = append(p.takes, take{
			due: p.run.Schedules[l.Flow].At(int(l.Job)), at: time.Duration(l.At - p.base.UnixNano()), took: time.Duration(now.UnixNano() - l.At),
		})
	}
}

// Gap notes that the service said that something may be missing, Cut that a
// reader lost its connection.
func (p *Post) Gap() { p.mu.Lock(); p.gaps++; p.mu.Unlock() }

// Cut is described at Gap.
func (p *Post) Cut() { p.mu.Lock(); p.cuts++; p.mu.Unlock() }

// Has reports whether a reader has the notification of a job.
func (p *Post) Has(reader, flow, job int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.got[reader][uint32(flow)]
	return b != nil && b[job/64]&(1<<(job%64)) != 0
}

// Between are the times of the tenants' notifications that were asked for from
// from on and before to.
func (p *Post) Between(from, to time.Duration) Spread {
	p.mu.Lock()
	defer p.mu.Unlock()
	var times []time.Duration
	for _, t := range p.takes {
		if t.at >= from && t.at < to {
			times = append(times, t.took)
		}
	}
	return NewSpread(times)
}

// Screens are the times from when a tenant's job was due to its notification at
// a client, of the jobs due from from on and before to. What never came is not
// among them.
func (p *Post) Screens(from, to time.Duration) Spread {
	p.mu.Lock()
	defer p.mu.Unlock()
	var times []time.Duration
	for _, t := range p.takes {
		if t.due >= from && t.due < to {
			times = append(times, t.at+t.took-t.due)
		}
	}
	return NewSpread(times)
}

// Counts are repeated deliveries, gaps and lost connections.
func (p *Post) Counts() (again, gaps, cuts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.again, p.gaps, p.cuts
}
