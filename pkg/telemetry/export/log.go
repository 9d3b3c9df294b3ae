package export

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
)

// logHandler gives log records to the exporter. The trace of the context goes
// along by itself. Groups become prefixes of keys.
type logHandler struct {
	logger log.Logger
	prefix string
	attrs  []attribute.KeyValue // with their prefixes
}

// Enabled leaves the level to the local handler, but for debug lines: those are
// for the terminal.
func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo && h.logger.Enabled(ctx, log.EnabledParameters{Severity: severity(level)})
}

// Handle queues the record; it never waits for a collector.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	var out log.Record
	out.SetTimestamp(r.Time)
	out.SetBody(attribute.StringValue(r.Message))
	out.SetSeverity(severity(r.Level))
	out.SetSeverityText(r.Level.String())
	out.AddAttributes(h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttributes(convert(nil, h.prefix, a)...)
		return true
	})
	h.logger.Emit(ctx, out)
	return nil
}

// WithAttrs is slog's.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.attrs = slices.Clip(h.attrs)
	for _, a := range attrs {
		next.attrs = convert(next.attrs, h.prefix, a)
	}
	return &next
}

// WithGroup is slog's.
func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.prefix += name + "."
	return &next
}

// severity maps slog's levels (4 apart) to OpenTelemetry's (4 apart, INFO 9).
func severity(level slog.Level) log.Severity {
	return log.Severity(min(max(int(level)+int(log.SeverityInfo), int(log.SeverityTrace1)), int(log.SeverityFatal4)))
}

// convert appends an attribute, flattened.
func convert(to []attribute.KeyValue, prefix string, a slog.Attr) []attribute.KeyValue {
	v := a.Value.Resolve()
	key := prefix + a.Key
	switch v.Kind() {
	case slog.KindGroup:
		if a.Key != "" {
			prefix = key + "."
		}
		for _, member := range v.Group() {
			to = convert(to, prefix, member)
		}
		return to
	case slog.KindBool:
		return append(to, attribute.Bool(key, v.Bool()))
	case slog.KindInt64:
		return append(to, attribute.Int64(key, v.Int64()))
	case slog.KindFloat64:
		return append(to, attribute.Float64(key, v.Float64()))
	case slog.KindTime:
		return append(to, attribute.String(key, v.Time().Format(time.RFC3339Nano)))
	default:
		return append(to, attribute.String(key, v.String()))
	}
}
