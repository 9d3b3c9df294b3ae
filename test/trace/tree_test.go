package trace

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// shown are the attributes that the text of a trace has.
var shown = []string{"spillway.job.id", "spillway.source", "spillway.tenant", "spillway.attempt", "spillway.sessions", "rpc.response.status_code", "messaging.destination.name"}

// tree writes spans as text: each trace's from its root, indented below their parents, with their links.
func tree(spans []*span) string {
	slices.SortStableFunc(spans, func(a, b *span) int { return a.start.Compare(b.start) })
	at := map[place]*span{}
	for _, s := range spans {
		at[s.place] = s
	}
	var out strings.Builder
	if len(spans) == 0 {
		return "nothing\n"
	}
	began := spans[0].start
	var below func(parent *span, depth int)
	write := func(s *span, depth int) {
		fmt.Fprintf(&out, "%8.1f ms %8.1f ms  %s%s %s  [%s %s]", ms(s.start.Sub(began)), ms(s.end.Sub(s.start)), strings.Repeat("   ", depth), s.name, kinds[s.kind], s.process, s.instance)
		for _, key := range shown {
			if v := s.attributes[key]; v != "" {
				fmt.Fprintf(&out, " %s=%s", key[strings.LastIndexByte(key, '.')+1:], v)
			}
		}
		for key, v := range s.attributes {
			if cause, is := strings.CutPrefix(key, "spillway.wait."); is {
				fmt.Fprintf(&out, " %s=%ss", cause, v)
			}
		}
		for _, l := range s.links {
			name := "one outside"
			if to := at[l]; to != nil {
				name = to.name
			}
			fmt.Fprintf(&out, " ⇠ %s (%.6s)", name, l.trace)
		}
		out.WriteByte('\n')
		below(s, depth+1)
	}
	below = func(parent *span, depth int) {
		for _, s := range spans {
			if s.trace == parent.trace && s.parent == parent.place.span {
				write(s, depth)
			}
		}
	}
	seen := map[string]bool{}
	for _, s := range spans {
		if _, known := at[place{s.trace, s.parent}]; known {
			continue
		}
		if !seen[s.trace] {
			fmt.Fprintf(&out, "trace %s\n", s.trace)
			seen[s.trace] = true
		}
		write(s, 1)
	}
	return out.String()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
