package history

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// maxDetails is how many anomalies of a kind are told in words.
const maxDetails = 5

// Verdict is what Check found.
type Verdict struct {
	// Sent is how many jobs were sent; each was accepted, refused or is of unknown
	// fate.
	Sent, Accepted, Refused, Unknown int
	// Ran is how many of them ran, Duplicates how many executions were repeated
	// because a fault met them in flight.
	Ran, Duplicates int
	// Stale is how many terminal events no reader counts, because their writer was
	// not the owner any more.
	Stale int
	// Anomalies counts by name; a run that kept every promise has none. Details
	// tells the first of each in words.
	Anomalies map[string]int
	Details   []string
	// Answers counts why calls were refused or may have failed.
	Answers map[string]int
	// Invalid says why the run proves nothing, whatever the anomalies are.
	Invalid []string

	*view
	figures []string
}

// Clean reports whether the run is valid and has no anomaly.
func (o *Verdict) Clean() bool { return len(o.Anomalies) == 0 && len(o.Invalid) == 0 }

// DuplicatesOf is how many second runs the i-th fault explains.
func (o *Verdict) DuplicatesOf(i int) int { return o.view.faults[i].duplicates }

// Figures are measured values that have no limit of their own.
func (o *Verdict) Figures() []string { return o.figures }

// String tells everything.
func (o *Verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent, %d accepted, %d refused, %d unknown; %d ran, %d duplicates by a fault, %d stale outcomes", o.Sent, o.Accepted, o.Refused, o.Unknown, o.Ran, o.Duplicates, o.Stale)
	for _, name := range slices.Sorted(maps.Keys(o.Anomalies)) {
		fmt.Fprintf(&b, "\n%s: %d", name, o.Anomalies[name])
	}
	for _, d := range o.Details {
		b.WriteString("\n  " + d)
	}
	for _, why := range sorted(o.Answers) {
		fmt.Fprintf(&b, "\n%d calls: %s", o.Answers[why], why)
	}
	for _, why := range o.Invalid {
		b.WriteString("\nproves nothing: " + why)
	}
	return b.String()
}

// count adds a job to the sums.
func (o *Verdict) count(j *job) {
	if len(j.runs) > 0 {
		o.Ran++
	}
	if j.invoke == nil {
		return
	}
	o.Sent++
	switch {
	case j.ok > 0:
		o.Accepted++
	case j.info == 0 && j.fail > 0:
		o.Refused++
	default:
		o.Unknown++
	}
}

func (o *Verdict) add(name string, j *job, what string) {
	o.note(name, fmt.Sprintf("%s (%s of %s): %s", cmp.Or(strings.Join(j.ids, ","), "no id"), j.key, j.source, what))
}

func (o *Verdict) addSource(name, source, what string) { o.note(name, source+": "+what) }

func (o *Verdict) note(name, what string) {
	if o.Anomalies[name]++; o.Anomalies[name] <= maxDetails {
		o.Details = append(o.Details, name+": "+what)
	}
}

func (o *Verdict) figure(name string, value float64) {
	o.figures = append(o.figures, fmt.Sprintf("%s: %g", name, value))
}

// at is a time of the run, for people.
func (v *view) at(t int64) string {
	if t == math.MaxInt64 {
		return "the end"
	}
	return time.Duration(t - v.begin).Round(time.Millisecond).String()
}

// validity asks whether the run could have shown anything.
func (o *Verdict) validity() {
	o.Stale = len(o.view.stale)
	if o.Sent < o.rules.Jobs {
		o.Invalid = append(o.Invalid, fmt.Sprintf("%d jobs were sent, want %d", o.Sent, o.rules.Jobs))
	}
	if float64(o.Accepted) < o.rules.Accepted*float64(o.Sent) {
		o.Invalid = append(o.Invalid, fmt.Sprintf("%d of %d were accepted, want %.0f %%", o.Accepted, o.Sent, 100*o.rules.Accepted))
	}
	fired := 0
	for _, f := range o.view.faults {
		if f.to != math.MaxInt64 {
			fired++
		}
	}
	if fired < o.rules.Faults {
		o.Invalid = append(o.Invalid, fmt.Sprintf("%d faults fired and healed, want %d", fired, o.rules.Faults))
	}
	moved := 0
	for _, e := range o.view.fences {
		if len(o.view.faults) > 0 && e.Mono > o.view.faults[0].Mono {
			moved++
		}
	}
	if moved < o.rules.Takeovers {
		o.Invalid = append(o.Invalid, fmt.Sprintf("%d takeovers after the first fault, want %d: it hit nobody who owned anything", moved, o.rules.Takeovers))
	}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
