package history

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Kind says what an event tells.
type Kind string

// The kinds.
const (
	// Invoke: a job is about to be sent. OK, Fail and Info are what became of the
	// call: accepted, certainly not accepted, anything else.
	Invoke Kind = "invoke"
	OK     Kind = "ok"
	Fail   Kind = "fail"
	Info   Kind = "info"
	// Start: a handler is about to have its effect. End: it had it.
	Start Kind = "exec-start"
	End   Kind = "exec-end"
	// Fence, Handover and Settled are events of the outcomes log: a shard has a new
	// owner, its owner hands it over, a job has its outcome.
	Fence    Kind = "fence"
	Handover Kind = "handover"
	Settled  Kind = "settled"
	// Hold: a hold of a source has answered. Resume: it is about to be resumed.
	Hold   Kind = "hold"
	Resume Kind = "resume"
	// Fault: something is about to be done to a process. Heal: the process is whole
	// again, or gone for good.
	Fault Kind = "fault"
	Heal  Kind = "heal"
)

// Token is a lease's fencing token.
type Token struct {
	Shard   int32 `json:"shard"`
	Epoch   int64 `json:"epoch"`
	Counter int64 `json:"counter"`
}

// before reports whether t was issued earlier than u, for the same job.
func (t Token) before(u Token) bool {
	return t.Epoch < u.Epoch || t.Epoch == u.Epoch && t.Counter < u.Counter
}

// Event is one line of a history. Which fields are set follows from its kind.
type Event struct {
	// Mono is when it was written: nanoseconds of the machine's monotonic clock.
	// Wall is the same in Unix nanoseconds; for events of the log it is the
	// writer's own time, and Mono is computed from it.
	Mono int64 `json:"mono"`
	Wall int64 `json:"wall"`
	// Proc is the process that wrote it, Target the one that a fault is done to.
	Proc   string `json:"proc,omitempty"`
	Target string `json:"target,omitempty"`
	Kind   Kind   `json:"kind"`
	// Key is the job as the generator knows it, Job as the product does.
	Key    string `json:"key,omitempty"`
	Job    string `json:"job,omitempty"`
	Source string `json:"source,omitempty"`
	// Due is when the job was to be sent, on the clock of Mono; 0: its wait is not
	// judged.
	Due int64 `json:"due,omitempty"`
	// Fails is how many attempts of the job fail by order.
	Fails   int `json:"fails,omitempty"`
	Attempt int `json:"attempt,omitempty"`
	// Token is an execution's token. In events of the log it is the shard and the
	// epoch of the writer, Offset where the event lies, and Lease, in a settled one,
	// the token of the last attempt.
	Token  *Token `json:"token,omitempty"`
	Lease  *Token `json:"lease,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	// Sum is the payload's hash, as sent and as received.
	Sum string `json:"sum,omitempty"`
	// Code is the error's reason or code, the outcome, the replica of a fence, how
	// an execution ended ("ok", "failed by order", "context ended"), or what a
	// fault does: one of Kill, Stop, Freeze.
	Code string `json:"code,omitempty"`
}

// Now is the machine's monotonic clock and the wall clock, in nanoseconds.
func Now() (mono, wall int64) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every Unix has it
	}
	return ts.Nano(), time.Now().UnixNano()
}

// Log is one process's history: a file that lines are appended to, each by one
// write, so that it survives the writer. Safe for concurrent use.
type Log struct {
	proc string
	seen func(Event) // told of every event, in order; nil: nobody
	mu   sync.Mutex
	f    *os.File
}

// Create opens a history for appending.
func Create(path, proc string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &Log{proc: proc, f: f}, nil
}

// Write stamps an event and appends it.
func (l *Log) Write(e Event) error {
	e.Mono, e.Wall = Now()
	return l.WriteAs(e)
}

// WriteAs appends an event that has its time already.
func (l *Log) WriteAs(e Event) error {
	e.Proc = l.proc
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if l.seen != nil {
		l.seen(e)
	}
	return nil
}

// Close closes the file.
func (l *Log) Close() error { return l.f.Close() }

// Read reads histories and puts their events in order of time. A last line that
// its writer did not live to finish is left out.
func Read(paths ...string) ([]Event, error) {
	var all []Event
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
		lines := bufio.NewReader(f)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break
			}
			var e Event
			if err := json.Unmarshal(line, &e); err != nil {
				f.Close()
				return nil, fmt.Errorf("history %s: %w", path, err)
			}
			all = append(all, e)
		}
		f.Close()
	}
	slices.SortStableFunc(all, func(a, b Event) int {
		switch {
		case a.Mono < b.Mono:
			return -1
		case a.Mono > b.Mono:
			return 1
		}
		return 0
	})
	return all, nil
}
