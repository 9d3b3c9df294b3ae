package telemetry

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// LogHandler is the handler of every logger: it adds trace_id and span_id where the context has them, writes to local, and to the log
// exporter when there is one.
func (t *Telemetry) LogHandler(local slog.Handler) slog.Handler {
	local = traced{local}
	if logs := t.orNop().logs; logs != nil {
		return slog.NewMultiHandler(local, logs) // exported records carry the trace by themselves
	}
	return local
}

// traced ties lines to traces.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if s := trace.SpanContextFromContext(ctx); s.IsValid() {
		r = r.Clone() // another handler may share the attributes' array
		r.AddAttrs(slog.String("trace_id", s.TraceID().String()), slog.String("span_id", s.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(attrs)} }
func (h traced) WithGroup(name string) slog.Handler       { return traced{h.Handler.WithGroup(name)} }
