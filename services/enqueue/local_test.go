package enqueue_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue"
)

// registry is automation as far as local mode needs it: it writes the control log.
type registry struct {
	automationv1.UnimplementedSourceAdminServiceServer
	w     *world
	mu    sync.Mutex
	calls int
	delay time.Duration
}

func (r *registry) put(s *automationv1.Source) error {
	r.mu.Lock()
	r.calls++
	r.mu.Unlock()
	time.Sleep(r.delay)
	ctx, cancel := context.WithTimeout(r.w.ctx, time.Second)
	defer cancel()
	_, err := r.w.control.Append(ctx, &logv1.Command{ExpectedRevision: -1, Actor: "enqueue", Act: &logv1.Command_PutSource{PutSource: &logv1.PutSource{Source: s}}})
	return err
}

func (r *registry) RegisterSource(_ context.Context, req *automationv1.RegisterSourceRequest) (*automationv1.RegisterSourceResponse, error) {
	return &automationv1.RegisterSourceResponse{}, r.put(req.GetSource())
}

func (r *registry) UpdateSource(_ context.Context, req *automationv1.UpdateSourceRequest) (*automationv1.UpdateSourceResponse, error) {
	old, _ := r.w.state.State().Source(req.GetSource().GetName())
	if old.GetEtag() != req.GetEtag() || !slices.Equal(req.GetUpdateMask().GetPaths(), []string{"types"}) {
		return nil, status.Error(codes.Aborted, "stale")
	}
	s := proto.CloneOf(old)
	s.Types = req.GetSource().GetTypes()
	return &automationv1.UpdateSourceResponse{}, r.put(s)
}

// Local mode registers what it does not know, one call at a time a name, and answers UNKNOWN_SOURCE after two seconds without it.
func TestLocalMode(t *testing.T) {
	local := func(c *enqueue.Config, _ *enqueue.Deps) { c.Register = "passthrough:///automation:7430" }
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		began := time.Now()
		if _, err := w.send(spec("early")); rpc.ReasonOf(err) != "UNKNOWN_SOURCE" || time.Since(began) > 2500*time.Millisecond {
			t.Errorf("without automation, after %v: %v", time.Since(began), err)
		}
		r := &registry{w: w, delay: 100 * time.Millisecond}
		server := grpc.NewServer()
		automationv1.RegisterSourceAdminServiceServer(server, r)
		go server.Serve(w.network.Listen("automation:7430"))
		defer server.Stop()
		time.Sleep(5 * time.Second) // the connection's back-off
		var calls sync.WaitGroup
		for range 20 {
			calls.Go(func() {
				if _, err := w.send(spec("new")); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if r.calls != 1 {
			t.Errorf("%d registrations of one name", r.calls)
		}
		for i := range 8 {
			s := spec("new")
			s.Type = fmt.Sprint("type-", i)
			_, err := w.send(s)
			if want := map[bool]string{true: "UNKNOWN_TYPE"}[i == 7]; rpc.ReasonOf(err) != want {
				t.Errorf("type %d: %v", i, err)
			}
		}
	}, local)
}
