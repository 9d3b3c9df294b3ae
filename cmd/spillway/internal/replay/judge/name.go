package judge

import "slices"

// Talk is what one source uses, over all schedulers.
type Talk struct {
	Source        string
	Arrivals      float64 // jobs a second
	WorkerSeconds float64 // a second
	Backlog       int64
}

const (
	// nameTimes is by how much the top talker's arrivals must exceed the median
	// of the others, nameCounts in how many counts in a row.
	nameTimes  = 10
	nameCounts = 2
	// nameOthers is how many others there must be to compare with, and
	// nameFloor the least that their median is taken for, in jobs a second.
	nameOthers = 3
	nameFloor  = 1
)

// Namer finds the source that floods: the same one has at least ten times the
// median arrivals of the others, in two counts in a row.
type Namer struct {
	last   []Talk
	source string
	counts int
}

// See takes the latest count; one that it has seen already changes nothing. It
// returns the source, once there is one.
func (n *Namer) See(talks []Talk) (source string, named bool) {
	if slices.Equal(talks, n.last) {
		return n.source, n.counts >= nameCounts
	}
	n.last = slices.Clone(talks)
	source = loudest(talks)
	switch {
	case source == "":
		n.source, n.counts = "", 0
	case source == n.source:
		n.counts++
	default:
		n.source, n.counts = source, 1
	}
	return n.source, n.counts >= nameCounts
}

func loudest(talks []Talk) string {
	if len(talks) < 1+nameOthers {
		return ""
	}
	arrivals := make([]float64, len(talks))
	top := 0
	for i, t := range talks {
		arrivals[i] = t.Arrivals
		if t.Arrivals > talks[top].Arrivals {
			top = i
		}
	}
	slices.Sort(arrivals)
	others := arrivals[:len(arrivals)-1]
	if talks[top].Arrivals < nameTimes*max(others[len(others)/2], nameFloor) {
		return ""
	}
	return talks[top].Source
}
