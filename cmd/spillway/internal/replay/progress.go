package replay

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/replay/judge"
)

// progressEvery is how often the line is drawn anew.
const progressEvery = 500 * time.Millisecond

// draw keeps one line on a terminal fresh until ctx ends, then removes it.
func (r *runner) draw(ctx context.Context, w io.Writer) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var last [2]int // done by the tenants, by the flood
	for {
		select {
		case <-ctx.Done():
			fmt.Fprint(w, "\r\x1b[K")
			return
		case <-tick.C:
			fmt.Fprintf(w, "\r\x1b[K%s", r.line(&last))
		}
	}
}

func (r *runner) line(last *[2]int) string {
	phase := ""
	if p := r.phase.Load(); p != nil {
		phase = *p
	}
	per := float64(time.Second / progressEvery)
	done, slowest := 0, time.Duration(0)
	for i := range judge.Tenants {
		l := r.book.Live(i)
		done += l.Finished
		slowest = max(slowest, l.Slowest)
	}
	flood := r.book.Live(flooder)
	line := fmt.Sprintf("%4.0f s %-6s| tenants: %.0f/s done, slowest start %.0f ms | flood: %d sent, %.0f/s done, %d open",
		time.Since(time.Unix(0, r.start.Load())).Seconds(), phase, float64(done-last[0])*per, milliseconds(slowest), flood.Sent, float64(flood.Finished-last[1])*per, flood.Open)
	*last = [2]int{done, flood.Finished}
	return line
}
