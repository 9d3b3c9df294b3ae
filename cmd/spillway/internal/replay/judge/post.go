package judge

import (
	"encoding/json"
	"strings"
	"sync"
	"time"
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
	run   uint64
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

// take is the way of one notification.
type take struct{ at, took time.Duration }

// NewPost opens the account of a run; jobs is how many each flow has.
func NewPost(run uint64, jobs []int, readers int) *Post {
	p := &Post{run: run, jobs: jobs, got: make([]boxes, readers)}
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
	if json.Unmarshal(data, &l) != nil || l.Run != p.run || int(l.Flow) >= len(p.jobs) || int(l.Job) >= p.jobs[l.Flow] {
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
		p.takes = append(p.takes, take{time.Duration(l.At - p.base.UnixNano()), time.Duration(now.UnixNano() - l.At)})
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

// Counts are repeated deliveries, gaps and lost connections.
func (p *Post) Counts() (again, gaps, cuts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.again, p.gaps, p.cuts
}
