package process

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Signals returns a context that ends with the second signal and one that ends
// with the first.
func Signals(parent context.Context) (ctx, sending context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	sending, endSending := context.WithCancel(ctx)
	caught := make(chan os.Signal, 2)
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for _, end := range []func(){endSending, cancel} {
			select {
			case <-caught:
				end()
			case <-done:
				return
			}
		}
	})
	return ctx, sending, func() {
		signal.Stop(caught)
		close(done)
		watcher.Wait()
		cancel()
	}
}
