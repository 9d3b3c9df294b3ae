package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

// helloWait is how long a caller may hold a stream open without saying who it is.
const helloWait = 10 * time.Second

// Stream is one worker's stream as the room behind it sees it. Receive and Next are called from one goroutine each.
type Stream interface {
	// Receive applies a frame. An error ends the stream.
	Receive(frame.FromWorker) error
	// Next waits for the next frame to send. An error ends the stream.
	Next(context.Context) (*frame.ToWorker, error)
	// Done is closed when the stream has to end; Err says why.
	Done() <-chan struct{}
	Err() error
	// Farewell asks the worker to open another stream.
	Farewell(frame.Farewell)
	// Close tells that the stream has ended. It may be called after Done.
	Close()
}

// Open begins the stream of a worker. It fails with one of core's errors.
type Open func(frame.Identity, frame.Hello) (Stream, error)

// Handler serves WorkerService.
type Handler struct {
	schedulerv1.UnimplementedWorkerServiceServer
	open Open
	log  *slog.Logger
}

// New makes a handler that hands its streams to open.
func New(open Open, log *slog.Logger) *Handler { return &Handler{open: open, log: log} }

// Roles is the role that each method of the service needs.
func Roles() map[string]rpc.Role {
	return map[string]rpc.Role{schedulerv1.WorkerService_Work_FullMethodName: rpc.RoleWorker}
}

// Work serves one worker until either side ends the stream. Frames are valid by the rules of their proto: the server's chain has checked
// them.
func (h *Handler) Work(wire schedulerv1.WorkerService_WorkServer) error {
	caller, ok := rpc.CallerFrom(wire.Context())
	if !ok {
		return notAllowed("no caller")
	}
	frames := make(chan received)
	go read(wire, frames)
	first, err := hello(wire.Context(), frames)
	if err != nil {
		return err
	}
	if err := admit(caller, first.Hello); err != nil {
		return err
	}
	s, err := h.open(frame.Identity{Subject: caller.Subject}, *first.Hello)
	if err != nil {
		return statusOf(err)
	}
	defer s.Close()
	worker := first.Hello.Worker
	h.log.Info("worker connected", "worker_id", worker.ID, "subject", caller.Subject, "version", first.Hello.Version,
		"types", worker.Types, "concurrency", worker.Concurrency)
	first.Hello = nil // Open has taken it
	if err := s.Receive(first); err != nil {
		return statusOf(err)
	}

	ctx, cancel := context.WithCancel(wire.Context())
	defer cancel()
	written := make(chan error, 1)
	go func() { written <- write(ctx, wire, s) }()
	err = h.serve(ctx, caller, s, frames, written)
	h.log.Info("worker gone", "worker_id", worker.ID, "subject", caller.Subject, "error", err)
	return statusOf(err)
}

// serve applies frames until the stream ends. A clean end is nil.
func (h *Handler) serve(ctx context.Context, caller rpc.Caller, s Stream, frames <-chan received, written <-chan error) error {
	var expired <-chan time.Time
	if !caller.Expires.IsZero() {
		timer := time.NewTimer(time.Until(caller.Expires))
		defer timer.Stop()
		expired = timer.C
	}
	for {
		select {
		case r := <-frames:
			switch {
			case errors.Is(r.err, io.EOF):
				return nil
			case r.err != nil:
				return r.err
			}
			if r.frame.Hello != nil {
				if err := admit(caller, r.frame.Hello); err != nil {
					return err
				}
			}
			if err := s.Receive(r.frame); err != nil {
				return err
			}
		case err := <-written:
			return err
		case <-expired: // S5: the server's chain cuts the stream a minute later
			s.Farewell(frame.Farewell{Reason: "the credential has expired", Within: time.Minute})
		case <-s.Done():
			return s.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type received struct {
	frame frame.FromWorker
	err   error
}

// read hands frames over until the stream's context ends, which it does when the handler returns.
func read(wire schedulerv1.WorkerService_WorkServer, frames chan<- received) {
	for {
		var r received
		m, err := wire.Recv()
		if err == nil {
			r.frame, err = fromWire(m)
		}
		r.err = err
		select {
		case frames <- r:
		case <-wire.Context().Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func write(ctx context.Context, wire schedulerv1.WorkerService_WorkServer, s Stream) error {
	for {
		f, err := s.Next(ctx)
		if err != nil {
			return err
		}
		if err := wire.Send(toWire(f)); err != nil {
			return err
		}
	}
}

// hello waits for the first frame.
func hello(ctx context.Context, frames <-chan received) (frame.FromWorker, error) {
	timer := time.NewTimer(helloWait)
	defer timer.Stop()
	select {
	case r := <-frames:
		switch {
		case r.err != nil:
			return frame.FromWorker{}, statusOf(r.err)
		case r.frame.Hello == nil:
			return frame.FromWorker{}, invalid("hello", "must be in the first frame of a stream")
		}
		return r.frame, nil
	case <-timer.C:
		return frame.FromWorker{}, invalid("hello", fmt.Sprintf("no frame within %s", helloWait))
	case <-ctx.Done():
		return frame.FromWorker{}, statusOf(ctx.Err())
	}
}

// admit holds a worker to its credential (S16). Grants are not filtered by source, so a credential for some sources only cannot take work
// at all.
func admit(caller rpc.Caller, h *frame.Hello) error {
	if caller.Sources != nil {
		return notAllowed("a worker's credential cannot be limited to sources")
	}
	for _, typ := range h.Worker.Types {
		if !caller.MayType(typ) {
			return notAllowed("the credential does not cover a type in hello")
		}
	}
	return nil
}
