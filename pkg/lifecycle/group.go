package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"sync"
)

// Group runs named goroutines that live and end together.
type Group struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	errs []error
}

// NewGroup returns an empty group. Its goroutines are cancelled when ctx ends, when one of them fails, and by Stop.
func NewGroup(ctx context.Context) *Group {
	g := &Group{}
	g.ctx, g.cancel = context.WithCancel(ctx)
	return g
}

// Context is what the group's goroutines run under.
func (g *Group) Context() context.Context { return g.ctx }

// Go runs f, which must return soon after its context ends. An error other than the cancellation's ends the group; so does a panic, which
// becomes an error with its stack. The name stands in errors and, as label "goroutine", in profiles.
func (g *Group) Go(name string, f func(ctx context.Context) error) {
	g.wg.Go(func() {
		var err error
		pprof.Do(g.ctx, pprof.Labels("goroutine", name), func(ctx context.Context) {
			err = contained(func() error { return f(ctx) })
		})
		if err == nil || errors.Is(err, context.Canceled) && g.ctx.Err() != nil {
			return
		}
		g.mu.Lock()
		g.errs = append(g.errs, fmt.Errorf("%s: %w", name, err))
		g.mu.Unlock()
		g.cancel()
	})
}

// Stop cancels the group.
func (g *Group) Stop() { g.cancel() }

// Wait returns when all goroutines have ended, with every error.
func (g *Group) Wait() error {
	g.wg.Wait()
	g.cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	return errors.Join(g.errs...)
}
