package worker

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/telemetry"
)

// recorder keeps the spans that are started through it.
type recorder struct {
	noop.TracerProvider
	spans []*recorded
}

type recorded struct {
	noop.Span
	name   string
	parent trace.SpanContext
	start  trace.SpanConfig
	end    trace.SpanConfig
	self   trace.SpanContext
	attrs  []attribute.KeyValue
}

type recordingTracer struct {
	noop.Tracer
	to *recorder
}

func (r *recorder) Tracer(string, ...trace.TracerOption) trace.Tracer {
	return recordingTracer{to: r}
}

func (r recordingTracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	s := &recorded{name: name, start: trace.NewSpanStartConfig(opts...)}
	if !s.start.NewRoot() {
		s.parent = trace.SpanContextFromContext(ctx)
	}
	s.self = trace.NewSpanContext(trace.SpanContextConfig{TraceID: s.parent.TraceID(), SpanID: trace.SpanID{byte(len(r.to.spans) + 1)}})
	r.to.spans = append(r.to.spans, s)
	return trace.ContextWithSpan(ctx, s), s
}

func (s *recorded) SpanContext() trace.SpanContext            { return s.self }
func (s *recorded) SetAttributes(attrs ...attribute.KeyValue) { s.attrs = append(s.attrs, attrs...) }
func (s *recorded) End(opts ...trace.SpanEndOption)           { s.end = trace.NewSpanEndConfig(opts...) }
func (s *recorded) attribute(key attribute.Key) attribute.Value {
	for _, a := range append(s.start.Attributes(), s.attrs...) {
		if a.Key == key {
			return a.Value
		}
	}
	return attribute.Value{}
}

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestTraceShape is the rule of the trace shape: who is whose parent, what is linked, and that the waits are in the queue wait span.
func TestTraceShape(t *testing.T) {
	for _, c := range []struct {
		name    string
		attempt int32
		age     time.Duration
		joined  bool
	}{{"prompt", 1, time.Second, true}, {"retry", 2, time.Second, false}, {"late", 1, 11 * time.Minute, false}} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, 1, func(wd *world, s *scheduler) {
				rec := &recorder{}
				wd.worker.cfg.Telemetry = telemetry.New(telemetry.Config{TracerProvider: rec})
				var inside trace.SpanContext
				wd.worker.Handle("tag", func(ctx context.Context, job *Job) error {
					inside = trace.SpanContextFromContext(ctx)
					if p, ok := client.ParentFrom(ctx); !ok || p.JobID != job.ID || p.Source != "s" {
						t.Errorf("parent of what the handler enqueues: %+v", p)
					}
					return errors.New("x")
				})
				wd.run()
				st, _ := s.accept(3)
				l := grant(1, "tag")
				l.Attempt, l.Traceparent = c.attempt, parent
				accepted := time.Now()
				time.Sleep(c.age)
				l.GrantedAt = timestamppb.New(accepted.Add(c.age))
				l.Waits = []*jobv1.Wait{{Cause: jobv1.WaitCause_WAIT_CAUSE_QUOTA_RATE, Duration: durationpb.New(c.age)}}
				st.send(grants(l))
				st.send(settles(st.next(hasResults).Results[0].Token))

				process := rec.spans[len(rec.spans)-1]
				if process.name != "process tag" || process.start.SpanKind() != trace.SpanKindConsumer || !inside.Equal(process.self) {
					t.Fatalf("span %q of kind %v, handler in %v", process.name, process.start.SpanKind(), inside)
				}
				if links := process.start.Links(); len(links) != 1 || links[0].SpanContext.SpanID().String() != "b7ad6b7169203331" {
					t.Fatalf("links %v", links)
				}
				if process.attribute(telemetry.KeyErrorType).AsString() != "*errors.errorString" || process.attribute(telemetry.KeyAttempt).AsInt64() != int64(c.attempt) {
					t.Fatalf("attributes %v %v", process.start.Attributes(), process.attrs)
				}
				wait := slices.IndexFunc(rec.spans, func(s *recorded) bool { return s.name == "queue wait" })
				if joined := process.parent.SpanID().String() == "b7ad6b7169203331"; joined != c.joined || (wait >= 0) != c.joined {
					t.Fatalf("joined %v, queue wait at %d", joined, wait)
				}
				if wait >= 0 {
					w := rec.spans[wait]
					if !w.parent.Equal(process.parent) || !w.start.Timestamp().Equal(accepted) || !w.end.Timestamp().Equal(accepted.Add(c.age)) {
						t.Fatalf("queue wait from %v to %v", w.start.Timestamp(), w.end.Timestamp())
					}
					if w.attribute(telemetry.KeyWait+".quota_rate").AsFloat64() != c.age.Seconds() {
						t.Fatalf("waits %v", w.start.Attributes())
					}
				}
			})
		})
	}
}
