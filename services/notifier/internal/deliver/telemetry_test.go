package deliver

import (
	"testing"
	"testing/synctest"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/telemetry"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// A notification whose sender is traced has one span for all sockets, in its trace and linked to it; others have none.
func TestDeliveriesAreInTheirTraces(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	bubbleOf(t, Config{}, func(p *Ports) { p.Telemetry = telemetry.New(telemetry.Config{TracerProvider: provider}) }, func(t *testing.T, w *world) {
		a, b := w.dial(ann(), "tenant:acme"), w.dial(ann(), "tenant:acme")
		w.expect(a, "sub tenant:acme ok")
		w.expect(b, "sub tenant:acme ok")
		publish := func(id, traceparent string, at time.Time) {
			m := record(4, "tenant:acme", id, "1", func(n *logv1.Notification) {
				n.JobId, n.At = "job-"+id, timestamppb.New(at)
			})
			if traceparent != "" {
				m.Headers = append(m.Headers, kafka.Header{Key: "traceparent", Value: []byte(traceparent)})
			}
			w.log.append(m)
			w.expect(a, "msg tenant:acme "+id)
			w.expect(b, "msg tenant:acme "+id)
		}
		const id = "4bf92f3577b34da6a3ce929d0e0e4736"
		publish("1", "00-"+id+"-00f067aa0ba902b7-01", time.Now())
		publish("2", "00-"+id+"-00f067aa0ba902b8-00", time.Now())
		publish("3", "", time.Now())
		publish("4", "00-"+id+"-00f067aa0ba902b9-01", time.Now().Add(-11*time.Minute))
		synctest.Wait()
		ended := spans.Ended()
		if len(ended) != 2 {
			t.Fatalf("%d spans", len(ended))
		}
		for i, s := range ended {
			if s.Name() != "deliver" || s.SpanKind() != trace.SpanKindConsumer || len(s.Links()) != 1 || s.Links()[0].SpanContext.TraceID().String() != id {
				t.Errorf("span %q, %s, links %v", s.Name(), s.SpanKind(), s.Links())
			}
			got := map[string]string{}
			for _, kv := range s.Attributes() {
				got[string(kv.Key)] = kv.Value.String()
			}
			for key, want := range map[string]string{
				"spillway.sessions": "2", "spillway.source": "billing", "spillway.tenant": "acme", "spillway.job.id": "job-" + []string{"1", "4"}[i],
				"messaging.destination.name": "notifications", "messaging.operation.name": "deliver",
			} {
				if got[key] != want {
					t.Errorf("span %d: %s is %q, want %q", i, key, got[key], want)
				}
			}
		}
		if first := ended[0]; first.SpanContext().TraceID().String() != id || first.Parent().SpanID().String() != "00f067aa0ba902b7" {
			t.Errorf("trace %s, parent %s", first.SpanContext().TraceID(), first.Parent().SpanID())
		}
		if late := ended[1]; late.SpanContext().TraceID().String() == id || late.Parent().IsValid() {
			t.Error("what is older than ten minutes is a trace of its own")
		}
	})
}

// Sessions that the notifier ended are counted by their codes; clients that go, or whose connections break, are not among them.
func TestGoodbyesAreNotCountedAsEnded(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	bubbleOf(t, Config{}, func(p *Ports) { p.Telemetry = telemetry.New(telemetry.Config{MeterProvider: provider}) }, func(t *testing.T, w *world) {
		polite, broken := w.dial(ann()), w.dial(ann())
		polite.Close()
		broken.Cut()
		mute, err := w.raw()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mute.read(); ending(err) != "close 4005" {
			t.Fatal(err)
		}
		synctest.Wait()
		var all metricdata.ResourceMetrics
		if err := reader.Collect(w.ctx, &all); err != nil {
			t.Fatal(err)
		}
		got := map[int64]int64{}
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == telemetry.MetricEnded {
					for _, point := range sum.DataPoints {
						code, _ := point.Attributes.Value(telemetry.KeyCode)
						got[code.AsInt64()] += point.Value
					}
				}
			}
		}
		if len(got) != 1 || got[4005] != 1 {
			t.Errorf("ended, by code: %v", got)
		}
	})
}
