package trace

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/telemetry"
	"github.com/spillway/spillway/pkg/worker"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/test/product"
)

// exportEvery is how long spans wait for others before they are sent, here and in the product's processes.
const exportEvery = 200 * time.Millisecond

// workerVariable holds the configuration of a worker process.
const workerVariable = "SPILLWAY_TRACE_WORKER"

type workerConfig struct {
	Schedulers, WorkerToken string
	Notifier, PublishToken  string
	Collector               string
}

func TestMain(m *testing.M) {
	if text := os.Getenv(workerVariable); text != "" {
		if err := runWorker(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(product.Main(m))
}

// report is the telemetry of a process of ours, which exports to a collector under a name.
func report(collector, name string) (*telemetry.Telemetry, error) {
	e, err := newExporter(collector)
	if err != nil {
		return nil, err
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(e, sdk.WithBatchTimeout(exportEvery)), sdk.WithSampler(sdk.AlwaysSample()), sdk.WithResource(
		resource.NewSchemaless(attribute.String("service.name", name), attribute.String("service.instance.id", name+"-0"), attribute.Int("process.pid", os.Getpid()))))
	return telemetry.New(telemetry.Config{TracerProvider: provider, Shutdown: provider.Shutdown}), nil
}

// runWorker is a worker process: an order that is shipped makes a notification. It ends when its parent does.
func runWorker(text string) error {
	var cfg workerConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the process
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	var tel *telemetry.Telemetry
	if cfg.Collector != "" {
		var err error
		if tel, err = report(cfg.Collector, "shipping"); err != nil {
			return err
		}
		defer tel.Shutdown(context.WithoutCancel(ctx))
	}
	conn, err := rpc.Dial(cfg.Notifier, rpc.DialConfig{Token: cfg.PublishToken, Telemetry: tel})
	if err != nil {
		return err
	}
	defer conn.Close()
	w, err := worker.New(worker.Config{
		Schedulers: cfg.Schedulers, Token: cfg.WorkerToken, Concurrency: 4, Telemetry: tel, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	w.Handle(shipType, func(ctx context.Context, job *worker.Job) error {
		_, err := notifierv1.NewNotifierServiceClient(conn).Publish(ctx, &notifierv1.PublishRequest{
			Channel: channel, Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Data: job.Payload, Source: job.Source, Tenant: job.Tenant,
		})
		return err
	})
	return w.Run(ctx)
}

// startWorker starts a worker process against a dev, which publishes to a notifier. collector may be "": then it exports nothing.
func startWorker(t *testing.T, dev *product.Dev, notifier, collector string) *product.Process {
	t.Helper()
	f := dev.File()
	text, err := json.Marshal(workerConfig{
		Schedulers: f.Endpoints.Scheduler[0], WorkerToken: f.Tokens.Worker, Notifier: notifier, PublishToken: f.Tokens.Service, Collector: collector,
	})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), workerVariable+"="+string(text))
	return product.Launch(t, "worker", cmd, true, nil)
}
