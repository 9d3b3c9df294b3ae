package load

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
)

// progressEvery is how often the line is drawn anew.
const progressEvery = 500 * time.Millisecond

// progress draws one line on a terminal while the run goes on.
type progress struct {
	w    io.Writer
	run  plan.Run
	base time.Time
	book *tally.Book
	last [2]tally.Live // what flood and others had at the last line
}

// draw keeps the line fresh until ctx ends, then removes it.
func (p *progress) draw(ctx context.Context) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			fmt.Fprint(p.w, "\r\x1b[K")
			return
		case <-tick.C:
			fmt.Fprintf(p.w, "\r\x1b[K%s", p.line(time.Since(p.base)))
		}
	}
}

func (p *progress) line(now time.Duration) string {
	var sums [2]tally.Live // 0: floods, 1: the others
	for i, f := range p.run.Flows {
		n := 1
		if f.Flood() {
			n = 0
		}
		l := p.book.Live(i)
		sums[n].Sent += l.Sent
		sums[n].Finished += l.Finished
		sums[n].Open += l.Open
		sums[n].Slowest = max(sums[n].Slowest, l.Slowest)
	}
	phase := "drain"
	switch {
	case now < 0:
		phase = "start"
	case now < p.run.Quiet:
		phase = "quiet"
	case now < p.run.Quiet+p.run.For:
		phase = "sending"
	}
	line := fmt.Sprintf("%3.0f s %-8s", now.Seconds(), phase)
	for n, name := range []string{"flood", "others"} {
		s := sums[n]
		if s.Sent == 0 {
			continue
		}
		per := float64(time.Second / progressEvery)
		line += fmt.Sprintf("| %s: %.0f/s sent, %.0f/s done, %d open, slowest start %s ", name,
			float64(s.Sent-p.last[n].Sent)*per, float64(s.Finished-p.last[n].Finished)*per, s.Open, ms(milliseconds(s.Slowest)))
	}
	p.last = sums
	return line
}
