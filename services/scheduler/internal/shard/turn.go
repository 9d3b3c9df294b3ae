package shard

import "context"

// turn is a lock that is held across requests to the broker, so it can be waited for with a deadline. The zero value is not usable.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn; it fails when ctx ends first.
func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// give lets the next one have it.
func (t turn) give() { <-t }
