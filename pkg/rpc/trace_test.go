package rpc_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/telemetry"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
)

func named(t *testing.T, spans tracetest.SpanStubs, kind trace.SpanKind) tracetest.SpanStub {
	t.Helper()
	for _, s := range spans {
		if s.SpanKind == kind {
			return s
		}
	}
	t.Fatalf("no %v span among %v", kind, spans)
	return tracetest.SpanStub{}
}

// TestTracesOfOurOwnCallersGoOn: where the telemetry says that callers are ours, a call is its caller's child.
func TestTracesOfOurOwnCallersGoOn(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	tel := telemetry.New(telemetry.Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)), JoinCallers: true})
	bubble(t, func(c *rpc.Config) { c.Telemetry = tel }, func(w *world) {
		w.enqueue = func(context.Context, *enqueueRequest) (*enqueueResponse, error) { return new(enqueueResponse), nil }
		for _, tel := range []*telemetry.Telemetry{tel, nil} { // the second caller is not traced
			c := w.dial(rpc.DialConfig{Telemetry: tel, Token: sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleEnqueue}})})
			if _, err := enqueuev1.NewEnqueueServiceClient(c).Enqueue(w.Context(), good()); err != nil {
				w.Error(err)
			}
			c.Close()
		}
	})
	spans := exporter.GetSpans()
	client, server := named(t, spans, trace.SpanKindClient), named(t, spans, trace.SpanKindServer)
	if len(spans) != 3 || server.Parent.SpanID() != client.SpanContext.SpanID() || server.SpanContext.TraceID() != client.SpanContext.TraceID() || len(server.Links) != 0 {
		t.Errorf("the server's span has parent %v and links %v among %d spans", server.Parent, server.Links, len(spans))
	}
	if last := spans[2]; last.Parent.IsValid() || last.SpanContext.TraceID() == client.SpanContext.TraceID() {
		t.Errorf("a caller without a trace: parent %v", last.Parent)
	}
}

// TestS38OutsideTracesAreLinks: a caller's trace is a link and its decision to sample is ignored, whoever sends it.
func TestS38OutsideTracesAreLinks(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	reader := sdkmetric.NewManualReader()
	tel := telemetry.New(telemetry.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)),
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
	})
	bubble(t, func(c *rpc.Config) { c.Telemetry = tel }, func(w *world) {
		w.enqueue = func(ctx context.Context, _ *enqueueRequest) (*enqueueResponse, error) {
			if !trace.SpanContextFromContext(ctx).IsValid() || trace.SpanContextFromContext(ctx).IsRemote() {
				w.Error("the handler has no span")
			}
			if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("baggage")) == 0 {
				w.Error("the test sent no baggage")
			}
			return nil, &rpc.Error{Code: codes.FailedPrecondition, Reason: rpc.ReasonSourceBlocked}
		}
		c := w.dial(rpc.DialConfig{Telemetry: tel, Token: sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleEnqueue}})})
		defer c.Close()
		ctx := metadata.AppendToOutgoingContext(w.Context(), "baggage", "authorization=secret", "traceparent", "forged")
		_, err := enqueuev1.NewEnqueueServiceClient(c).Enqueue(ctx, good())
		want(w, err, codes.FailedPrecondition, rpc.ReasonSourceBlocked)
	})
	spans := exporter.GetSpans()
	client, server := named(t, spans, trace.SpanKindClient), named(t, spans, trace.SpanKindServer)
	if len(spans) != 2 || server.Parent.IsValid() || server.SpanContext.TraceID() == client.SpanContext.TraceID() {
		t.Errorf("the server's span has parent %v among %d spans", server.Parent, len(spans))
	}
	if len(server.Links) != 1 || !server.Links[0].SpanContext.Equal(client.SpanContext.WithRemote(true)) {
		t.Errorf("links %+v", server.Links)
	}
	if server.Name != methEnqueue[1:] || client.Name != methEnqueue[1:] {
		t.Errorf("names %q, %q", server.Name, client.Name)
	}
	for kind, s := range map[string]tracetest.SpanStub{"Ok or Unset": server, "Error": client} {
		got := fmt.Sprint(s.Attributes)
		for _, a := range []string{"FAILED_PRECONDITION", "grpc", "SOURCE_BLOCKED"} {
			if !strings.Contains(got, a) {
				t.Errorf("no %s in %s", a, got)
			}
		}
		if (s.Status.Code.String() == "Error") != (kind == "Error") {
			t.Errorf("status %v, want %s", s.Status, kind)
		}
	}
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	found := ""
	for _, m := range data.ScopeMetrics[0].Metrics {
		found += m.Name + " "
	}
	if !strings.Contains(found, telemetry.MetricServerCalls) || !strings.Contains(found, telemetry.MetricClientCalls) {
		t.Errorf("metered: %s", found)
	}
}

// A panic is seen in the trace, and its answer names that trace.
func TestPanicsAreTraced(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	tel := telemetry.New(telemetry.Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))})
	var err error
	bubble(t, func(c *rpc.Config) { c.Telemetry = tel }, func(w *world) {
		w.enqueue = func(context.Context, *enqueueRequest) (*enqueueResponse, error) { panic("ouch") }
		c, done := w.caller(rpc.RoleEnqueue)
		defer done()
		_, err = c.Enqueue(w.Context(), good())
	})
	want(t, err, codes.Internal, "")
	server := named(t, exporter.GetSpans(), trace.SpanKindServer)
	if server.Status.Code.String() != "Error" || !strings.Contains(err.Error(), server.SpanContext.TraceID().String()) {
		t.Errorf("status %v of trace %v; answer %v", server.Status, server.SpanContext.TraceID(), err)
	}
}
