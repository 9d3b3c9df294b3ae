package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// patience is how long a step may take to notice that its budget is over before it is left behind.
const patience = 250 * time.Millisecond

// Stack is what has to be stopped, the last that was pushed first. The zero value is empty. It is not safe for concurrent use.
type Stack struct{ steps []step }

type step struct {
	name   string
	budget time.Duration
	stop   func(context.Context) error
}

// Push adds a step that may take budget.
func (s *Stack) Push(name string, budget time.Duration, stop func(context.Context) error) {
	s.steps = append(s.steps, step{name, budget, stop})
}

// Stop runs the steps, each within its budget and ctx, whatever the ones before it did, and returns all that went wrong. A step that
// ignores the end of its budget is left behind and named. When ctx has ended the remaining steps still run, so that cheap ones are done.
// Steps that take longer than half of their budget are logged.
func (s *Stack) Stop(ctx context.Context, log *slog.Logger) error {
	var wrong []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		step := s.steps[i]
		began := time.Now()
		err := step.run(ctx)
		if took := time.Since(began); took > step.budget/2 {
			log.Warn("a step of the stop was slow", "step", step.name, "took", took, "budget", step.budget)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("stopping %s: %w", step.name, err))
		}
	}
	s.steps = nil
	return errors.Join(wrong...)
}

func (s step) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.budget)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- contained(func() error { return s.stop(ctx) }) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return fmt.Errorf("it did not end within %v: %w", s.budget, ctx.Err())
	}
}
