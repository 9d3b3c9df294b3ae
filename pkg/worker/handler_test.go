package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

func TestOutcome(t *testing.T) {
	deep := fmt.Errorf("a: %w", fmt.Errorf("b: %w", &reasonError{"X_REASON", "x"}))
	for _, c := range []struct {
		name      string
		err       error
		cause     error
		kind      schedulerv1.ResultKind
		errorType string
		delay     time.Duration
	}{
		{"nil", nil, nil, schedulerv1.ResultKind_RESULT_KIND_SUCCESS, "", 0},
		{"nil after the run timeout", nil, ErrRunTimeout, schedulerv1.ResultKind_RESULT_KIND_SUCCESS, "", 0},
		{"plain", errors.New("x"), nil, schedulerv1.ResultKind_RESULT_KIND_RETRY, "*errors.errorString", 0},
		{"reason", deep, nil, schedulerv1.ResultKind_RESULT_KIND_RETRY, "X_REASON", 0},
		{"run timeout", context.Canceled, ErrRunTimeout, schedulerv1.ResultKind_RESULT_KIND_RETRY, "RUN_TIMEOUT", 0},
		{"permanent", Permanent(errors.New("x")), nil, schedulerv1.ResultKind_RESULT_KIND_PERMANENT, "*errors.errorString", 0},
		{"wrapped permanent", fmt.Errorf("y: %w", Permanent(errors.New("x"))), nil, schedulerv1.ResultKind_RESULT_KIND_PERMANENT, "*errors.errorString", 0},
		{"snooze", Snooze(time.Minute), nil, schedulerv1.ResultKind_RESULT_KIND_SNOOZE, "", time.Minute},
		{"snooze back in time", Snooze(-time.Minute), nil, schedulerv1.ResultKind_RESULT_KIND_SNOOZE, "", 0},
	} {
		r := outcome(c.err, c.cause)
		if r.Kind != c.kind || r.ErrorType != c.errorType || r.Delay.AsDuration() != c.delay {
			t.Errorf("%s: %v", c.name, r)
		}
	}
	if Permanent(nil) != nil {
		t.Error("Permanent(nil) is an error")
	}
}

// TestErrorTextFitsTheWire: a proto string must be valid UTF-8 and an error text at most 2 KiB.
func TestErrorTextFitsTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "text")) + strings.Repeat("é", rapid.IntRange(0, 2000).Draw(t, "tail"))
		r := outcome(errors.New(text), nil)
		if _, err := proto.Marshal(r); err != nil || len(r.Error) > maxErrorText {
			t.Fatalf("%d bytes: %v", len(r.Error), err)
		}
	})
}

func TestTypedPayloads(t *testing.T) {
	var got any
	asJSON := JSON(func(_ context.Context, _ *Job, v map[string]int) error { got = v["n"]; return nil })
	asProto := Proto(func(_ context.Context, _ *Job, v *wrapperspb.Int64Value) error { got = v.Value; return nil })
	if err := asJSON(t.Context(), &Job{Payload: []byte(`{"n": 7}`)}); err != nil || got != 7 {
		t.Fatalf("json: %v %v", got, err)
	}
	payload, _ := proto.Marshal(wrapperspb.Int64(8))
	if err := asProto(t.Context(), &Job{Payload: payload}); err != nil || got != int64(8) {
		t.Fatalf("proto: %v %v", got, err)
	}
	var permanent permanentError
	for _, h := range []Handler{asJSON, asProto} {
		if err := h(t.Context(), &Job{Payload: []byte{0xff, 0xff}}); !errors.As(err, &permanent) {
			t.Fatalf("a payload that cannot be decoded: %v", err)
		}
	}
}

func TestMiddlewareOrderAndContext(t *testing.T) {
	bubble(t, 1, func(wd *world, s *scheduler) {
		var order []string
		note := func(name string) Middleware {
			return func(next Handler) Handler {
				return func(ctx context.Context, job *Job) error {
					order = append(order, name)
					return next(ctx, job)
				}
			}
		}
		done := make(chan struct{})
		wd.worker.Handle("tag", func(ctx context.Context, job *Job) error {
			defer close(done)
			if from, ok := FromContext(ctx); !ok || from != job {
				t.Error("the context does not know its job")
			}
			if _, ok := ctx.Deadline(); !ok {
				t.Error("no deadline")
			}
			return nil
		})
		wd.worker.Use(note("outer"), note("inner"))
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "tag")))
		<-done
		if len(order) != 2 || order[0] != "outer" || order[1] != "inner" {
			t.Fatalf("order %v", order)
		}
		st.send(settles(token(1)))
	})
}

// TestWheelModel compares the wheel with a map of deadlines, across jumps of time longer than the wheel.
func TestWheelModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := time.Unix(1_000_000, 0)
		w, now := wheel{start: start}, start
		model := map[*lease]time.Time{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				l := &lease{}
				at := now.Add(time.Duration(rapid.IntRange(0, 60_000).Draw(t, "in")) * time.Millisecond)
				model[l] = at
				w.add(l, at)
			},
			"remove": func(t *rapid.T) {
				for l := range model {
					w.remove(l)
					w.remove(l)
					delete(model, l)
					return
				}
			},
			"advance": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 40_000).Draw(t, "ms")) * time.Millisecond)
				w.advance(now, func(l *lease) {
					if at := model[l]; at.After(now) {
						w.add(l, at)
						return
					}
					delete(model, l)
				})
				for _, at := range model {
					if now.Sub(at) > 2*wheelStep {
						t.Fatalf("a deadline is %s late", now.Sub(at))
					}
				}
			},
			"": func(t *rapid.T) {
				if w.count != len(model) {
					t.Fatalf("%d in the wheel, %d in the model", w.count, len(model))
				}
				next := w.next()
				if next.IsZero() != (len(model) == 0) {
					t.Fatalf("next %v with %d in the model", next, len(model))
				}
			},
		})
	})
}
