package load

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/send"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
)

// Hold asks for a flow to be held during the run.
type Hold struct {
	// Flow is the index of the flow.
	Flow int
	// At is when to hold, of the sending time; For is how long.
	At, For time.Duration
}

// ParseHold reads FLOW@10s+5s.
func ParseHold(text string, flows []plan.Flow) (*Hold, error) {
	name, times, ok := strings.Cut(text, "@")
	at, long, both := strings.Cut(times, "+")
	if !ok || !both {
		return nil, errors.New("want FLOW@WHEN+HOWLONG, such as flood@10s+5s")
	}
	h := &Hold{Flow: slices.IndexFunc(flows, func(f plan.Flow) bool { return f.Name == name })}
	if h.Flow < 0 {
		return nil, fmt.Errorf("no flow is named %q", name)
	}
	var err1, err2 error
	h.At, err1 = time.ParseDuration(at)
	h.For, err2 = time.ParseDuration(long)
	if err := errors.Join(err1, err2); err != nil || h.At < 0 || h.For <= 0 {
		return nil, errors.New("want FLOW@WHEN+HOWLONG, such as flood@10s+5s")
	}
	return h, nil
}

// switchTimeout bounds a hold or resume: many times what is promised.
const switchTimeout = 10 * time.Second

// Switch is what a hold did. The times are the generator's own: from calling
// to having the answer in hand.
type Switch struct {
	HoldMS float64 `json:"hold_ms"`
	// StartedAfterHold are handlers of the flow that started after the answer
	// to the hold and before the resume was asked for.
	StartedAfterHold int     `json:"started_after_hold"`
	ResumeMS         float64 `json:"resume_ms"`

	answered, resumed time.Duration // of the run
	flow              int
}

// count fills in StartedAfterHold; call it when no handler reports any more.
func (s *Switch) count(book *tally.Book) {
	if s != nil {
		s.StartedAfterHold = book.StartedWithin(s.flow, s.answered, s.resumed)
	}
}

// holdAndResume throws the switch at its time and takes it back. The flow is
// resumed even if ctx ends in between.
func (h *Hold) holdAndResume(ctx context.Context, conn grpc.ClientConnInterface, run plan.Run, base time.Time) (*Switch, error) {
	if !send.SleepUntil(ctx, base.Add(run.Quiet+h.At)) {
		return nil, nil
	}
	service := automationv1.NewSwitchServiceClient(conn)
	scope := &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: run.Flows[h.Flow].Name}}
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), switchTimeout)
	defer cancel()
	asked := time.Now()
	_, err := service.Hold(call, &automationv1.HoldRequest{Spec: &automationv1.SwitchSpec{
		Scope: scope, Reason: "spillway load --hold", Ttl: durationpb.New(h.For + time.Minute), // gone by itself should this process die
	}})
	if err != nil {
		return nil, fmt.Errorf("hold %s: %w", run.Flows[h.Flow].Name, err)
	}
	s := &Switch{flow: h.Flow, answered: time.Since(base), HoldMS: milliseconds(time.Since(asked))}
	send.SleepUntil(ctx, time.Now().Add(h.For))

	call, cancel = context.WithTimeout(context.WithoutCancel(ctx), switchTimeout)
	defer cancel()
	asked = time.Now()
	s.resumed = time.Since(base)
	if _, err := service.Resume(call, &automationv1.ResumeRequest{Scope: scope, Reason: "spillway load --hold"}); err != nil {
		return s, fmt.Errorf("resume %s: %w", run.Flows[h.Flow].Name, err)
	}
	s.ResumeMS = milliseconds(time.Since(asked))
	return s, nil
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond).Microseconds()) / 1000
}
