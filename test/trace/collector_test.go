package trace

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// exportMethod is what exporters of traces call.
const exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// raw is a codec that leaves messages as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = slices.Clone(data); return nil }
func (raw) Name() string                       { return "proto" }

// collector takes what is exported over OTLP/gRPC, in the test's process.
type collector struct {
	t       testing.TB
	address string

	mu    sync.Mutex
	calls map[string]int // by method
	spans []*span
	wrong error
}

func collect(t testing.TB) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{t: t, address: l.Addr().String(), calls: map[string]int{}}
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(c.take))
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := errors.Join(<-done, c.wrong); err != nil {
			t.Errorf("collector: %v", err)
		}
	})
	return c
}

// take answers any unary call of an exporter with an empty message.
func (c *collector) take(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	var spans []*span
	var err error
	if method == exportMethod {
		spans, err = decode(request)
	}
	c.mu.Lock()
	c.calls[method]++
	c.spans = append(c.spans, spans...)
	if err != nil {
		c.wrong = errors.Join(c.wrong, fmt.Errorf("%s: %w", method, err))
	}
	c.mu.Unlock()
	return stream.SendMsg(&[]byte{})
}

// all is what was exported so far.
func (c *collector) all() []*span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// called is how often exporters called, by method.
func (c *collector) called() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := map[string]int{}
	for method, n := range c.calls {
		calls[method] = n
	}
	return calls
}

// exporter sends spans of a test's own processes to a collector.
type exporter struct{ conn *grpc.ClientConn }

func newExporter(address string) (*exporter, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	return &exporter{conn}, err
}

const exportTimeout = 5 * time.Second

func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	request, answer := encode(spans), []byte(nil)
	return e.conn.Invoke(ctx, exportMethod, &request, &answer)
}

func (e *exporter) Shutdown(context.Context) error { return e.conn.Close() }
