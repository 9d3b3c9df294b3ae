package plan

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Limits of one flow. They keep a mistyped flow from taking the machine's
// memory before the run says anything.
const (
	// MaxRate is the highest rate of one flow, in jobs per second: three times
	// what the embedded broker can acknowledge.
	MaxRate = 1_000_000
	// MaxFlows bounds NAME*N and the sum over all flows.
	MaxFlows = 1_000
	// MaxTenants bounds tenants=N, ten times the widest workload of the tests.
	MaxTenants = 10_000
	// MaxPayload is the hard limit of a job's payload (900 KiB).
	MaxPayload = 900 << 10
	// MaxWork is the longest a handler may be told to take: the longest run
	// timeout that a source may have.
	MaxWork = 24 * time.Hour
)

// DefaultType is the job type of flows that name none: all of them share one
// pool of workers.
const DefaultType = "load"

// DefaultPayload is the payload size, in bytes, of flows that name none.
const DefaultPayload = 256

// Flow is one source of jobs with a fixed rate.
type Flow struct {
	// Name is the source that the jobs are enqueued as.
	Name string
	// Rate is in jobs per second, above 0 and at most MaxRate.
	Rate float64
	// Work is how long a handler takes for a job that does not hang.
	Work time.Duration
	// HangShare is the share of jobs, 0 to 1, that take HangFor instead.
	HangShare float64
	// HangFor is how long a job of that share takes.
	HangFor time.Duration
	// Tenants is over how many tenants the jobs are spread, in turn.
	Tenants int
	// FirstTenant shifts them: 0 begins with t1, 3 with t4.
	FirstTenant int
	// Type is the job type.
	Type string
	// Priority is one of critical, high, default, low, bulk; "" leaves it to
	// the source.
	Priority string
	// Payload is the payload size in bytes, at least the instruction's length.
	Payload int
}

// Flood reports whether the flow stays silent in the quiet phase.
func (f Flow) Flood() bool { return strings.HasPrefix(f.Name, "flood") }

// Group is the name that the flow is pooled under ("victim" for "victim-07"),
// or "" if its name does not end in a number.
func (f Flow) Group() string {
	name, number, ok := cutLast(f.Name, "-")
	if !ok || name == "" {
		return ""
	}
	for _, c := range number {
		if c < '0' || c > '9' {
			return ""
		}
	}
	if number == "" {
		return ""
	}
	return name
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Parse reads flows in the form NAME=RATE[,key=value…]. NAME*N stands for N
// flows NAME-01 … NAME-N. Every problem of every flow is reported, joined.
func Parse(specs []string) ([]Flow, error) {
	var flows []Flow
	var problems []error
	seen := make(map[string]bool)
	for _, spec := range specs {
		fs, err := parseSpec(spec)
		if err != nil {
			problems = append(problems, fmt.Errorf("flow %q: %w", spec, err))
			continue
		}
		for _, f := range fs {
			if seen[f.Name] {
				problems = append(problems, fmt.Errorf("flow %q: %s is named twice", spec, f.Name))
			}
			seen[f.Name] = true
		}
		flows = append(flows, fs...)
	}
	if len(flows) > MaxFlows {
		problems = append(problems, fmt.Errorf("%d flows, at most %d", len(flows), MaxFlows))
	}
	return flows, errors.Join(problems...)
}

func parseSpec(spec string) ([]Flow, error) {
	parts := strings.Split(spec, ",")
	name, rate, ok := strings.Cut(parts[0], "=")
	if !ok {
		return nil, errors.New("want NAME=RATE[,key=value…]")
	}
	count := 0
	if base, n, star := strings.Cut(name, "*"); star {
		c, err := strconv.Atoi(n)
		if err != nil || c < 1 || c > MaxFlows {
			return nil, fmt.Errorf("%q: want a number of flows from 1 to %d after *", name, MaxFlows)
		}
		name, count = base, c
	}
	if err := checkName(name, 64-4); err != nil { // 4: room for "-" and up to three digits
		return nil, err
	}
	r, err := strconv.ParseFloat(rate, 64)
	if err != nil || !(r > 0) || r > MaxRate {
		return nil, fmt.Errorf("rate %q: want jobs per second, above 0 and at most %d", rate, MaxRate)
	}
	f := Flow{Name: name, Rate: r, Tenants: 1, Type: DefaultType, Payload: DefaultPayload}
	for _, pair := range parts[1:] {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("%q: want key=value", pair)
		}
		if err := f.set(key, value); err != nil {
			return nil, fmt.Errorf("%s=%s: %w", key, value, err)
		}
	}
	if count == 0 {
		return []Flow{f}, nil
	}
	width := max(2, len(strconv.Itoa(count)))
	flows := make([]Flow, count)
	for i := range flows {
		flows[i] = f
		flows[i].Name = fmt.Sprintf("%s-%0*d", name, width, i+1)
	}
	return flows, nil
}

func (f *Flow) set(key, value string) (err error) {
	switch key {
	case "work":
		f.Work, err = parseWork(value)
	case "hang":
		share, long, ok := strings.Cut(value, ":")
		percent, isPercent := strings.CutSuffix(share, "%")
		if !ok || !isPercent {
			return errors.New("want SHARE%:DURATION, such as 2%:10s")
		}
		p, perr := strconv.ParseFloat(percent, 64)
		if perr != nil || math.IsNaN(p) || p < 0 || p > 100 {
			return errors.New("want a share from 0% to 100%")
		}
		f.HangShare = p / 100
		f.HangFor, err = parseWork(long)
	case "tenants":
		f.Tenants, err = parseInt(value, 1, MaxTenants)
	case "type":
		f.Type, err = value, checkName(value, 64)
	case "priority":
		switch value {
		case "critical", "high", "default", "low", "bulk":
			f.Priority = value
		default:
			err = errors.New("want critical, high, default, low or bulk")
		}
	case "payload":
		var n int
		n, err = parseInt(value, 0, MaxPayload)
		f.Payload = max(n, InstructionBytes)
	default:
		err = errors.New("unknown key; the keys are work, hang, tenants, type, priority and payload")
	}
	return err
}

func parseInt(value string, low, high int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("want a whole number from %d to %d", low, high)
	}
	return n, nil
}

func parseWork(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > MaxWork {
		return 0, fmt.Errorf("want a duration from 0 to %v, such as 20ms", MaxWork)
	}
	return d, nil
}

// checkName holds names to what a source and a type may be called.
func checkName(name string, limit int) error {
	if name == "" || len(name) > limit {
		return fmt.Errorf("name %q: want 1 to %d characters", name, limit)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return fmt.Errorf("name %q: want only a-z, 0-9, dot, underscore and dash", name)
		}
	}
	return nil
}
