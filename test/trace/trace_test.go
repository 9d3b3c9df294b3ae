package trace

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/subscriber"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/test/product"
)

const (
	source     = "orders"
	tenant     = "acme"
	shipType   = "ship"
	notifyType = "notify"
	channel    = "user:acme:ada"

	enqueueMethod = "spillway.enqueue.v1.EnqueueService/Enqueue"
	publishMethod = "spillway.notifier.v1.NotifierService/Publish"

	// messageLimit is how long a notification may take from its job's acceptance, on a busy machine.
	messageLimit = 30 * time.Second
	// spansLimit is how long spans may take to be exported: some times exportEvery.
	spansLimit = 20 * time.Second
)

// scene is the product under a collector, with a worker and a subscriber.
type scene struct {
	t                 *testing.T
	seen              *collector
	dev               *product.Dev
	enqueue, notifier string // gRPC addresses
	joined            bool   // these let calls go on in their callers' traces, as dev's do
	worker            *product.Process
	listener          *product.Listener
}

// begin starts everything on a broker, which flags of dev name. With export, the environment asks for traces, as an operator would.
func begin(t *testing.T, export bool, flags ...string) *scene {
	t.Helper()
	s := &scene{t: t, seen: collect(t), joined: true}
	worker := ""
	if export {
		for name, value := range map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + s.seen.address, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_TRACES_EXPORTER": "otlp",
			"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "OTEL_BSP_SCHEDULE_DELAY": fmt.Sprint(exportEvery.Milliseconds()),
		} {
			t.Setenv(name, value)
		}
		worker = s.seen.address
	}
	s.dev = product.StartDev(t, t.TempDir(), flags...)
	if out, talk, code := product.Run(t, messageLimit, "source", "register", source, "--type", shipType, "--type", notifyType, "--data-dir", s.dev.Dir); code != 0 {
		t.Fatalf("register: %s%s", out, talk)
	}
	s.enqueue, s.notifier = s.dev.File().Endpoints.Enqueue, s.dev.File().Endpoints.Notifier
	s.worker = startWorker(t, s.dev, s.notifier, worker)
	s.listener = s.dev.Listen("", "ada", tenant, channel)
	s.warm()
	return s
}

// warm publishes until a notification has arrived: sources are known then, and connections made.
func (s *scene) warm() {
	s.t.Helper()
	conn, err := rpc.Dial(s.notifier, rpc.DialConfig{Token: s.dev.File().Tokens.Service})
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	product.Until(s.t, messageLimit, "the notifier knows the source", func() bool {
		ctx, cancel := context.WithTimeout(s.t.Context(), messageLimit)
		defer cancel()
		_, err := notifierv1.NewNotifierServiceClient(conn).Publish(ctx, &notifierv1.PublishRequest{
			Channel: channel, Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Data: []byte(`"warm"`), Source: source, Tenant: tenant, IdempotencyKey: "warm",
		})
		if err != nil && rpc.ReasonOf(err) != "UNKNOWN_SOURCE" {
			s.t.Fatalf("publish: %v", err)
		}
		return err == nil
	})
	s.message(`"warm"`)
}

// message waits for the notification with some data.
func (s *scene) message(data string) subscriber.Event {
	s.t.Helper()
	return s.listener.Await(messageLimit, "a notification with "+data, func(e subscriber.Event) bool { return e.T == subscriber.Msg && string(e.Data) == data })
}

// caller enqueues one job, in a span of its own when it is traced, and returns the job's id.
func (s *scene) caller(typ, payload string) string {
	s.t.Helper()
	tel, err := report(s.seen.address, "shop")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			s.t.Error(err)
		}
	}()
	c, err := client.Dial(s.enqueue, client.WithToken(s.dev.File().Tokens.Service), client.WithTelemetry(tel))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), messageLimit)
	defer cancel()
	ctx, checkout := tel.Tracer().Start(ctx, "checkout")
	defer checkout.End()
	r, err := c.Enqueue(ctx, client.Job{Source: source, Tenant: tenant, Type: typ, Payload: []byte(payload)})
	if err != nil {
		s.t.Fatalf("enqueue: %v", err)
	}
	return r.JobID
}

// way is what was exported of one job, once all of it is there.
type way struct {
	t      *testing.T
	joined bool // calls went on in their callers' traces
	// spans are those of its traces, from the caller's on by parents and links.
	spans []*span
}

// follow waits until spans of all names were exported of a job, and all that they are children of or linked to, and returns what was.
func (s *scene) follow(t *testing.T, job string, names ...string) *way {
	t.Helper()
	var w *way
	enough := func() bool {
		w = &way{t: t, joined: s.joined, spans: connected(s.seen.all(), job)}
		for _, name := range names {
			if !slices.ContainsFunc(w.spans, func(x *span) bool { return x.name == name }) {
				return false
			}
		}
		return complete(w.spans)
	}
	for deadline := time.Now().Add(spansLimit); !enough(); {
		if time.Now().After(deadline) {
			t.Fatalf("not all of %q were exported within %v; there is\n%s\nand in all\n%s", names, spansLimit, tree(w.spans), tree(s.seen.all()))
		}
		time.Sleep(exportEvery / 4)
	}
	t.Logf("what was exported of job %s:\n%s", job, tree(w.spans))
	return w
}

// complete tells that parents and links lead nowhere else.
func complete(spans []*span) bool {
	known := map[place]bool{}
	for _, x := range spans {
		known[x.place] = true
	}
	return !slices.ContainsFunc(spans, func(x *span) bool {
		return x.parent != "" && !known[place{x.trace, x.parent}] || slices.ContainsFunc(x.links, func(to place) bool { return !known[to] })
	})
}

// connected are the traces that a job has a span in, and those that links connect with them.
func connected(all []*span, job string) []*span {
	traces := map[string]bool{}
	for _, x := range all {
		if x.attributes["spillway.job.id"] == job {
			traces[x.trace] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for _, x := range all {
			for _, l := range x.links {
				if traces[x.trace] != traces[l.trace] {
					traces[x.trace], traces[l.trace], grown = true, true, true
				}
			}
		}
	}
	var list []*span
	for _, x := range all {
		if traces[x.trace] {
			list = append(list, x)
		}
	}
	return list
}

// one is the only span of a name and a kind. Its process, by its resource, has to be of a name, and in the order of its parts.
func (w *way) one(name string, kind uint64, process string) *span {
	w.t.Helper()
	var found []*span
	for _, x := range w.spans {
		if x.name == name && x.kind == kind && x.attributes["spillway.sessions"] != "0" { // other notifiers read it, too, and have no socket for it
			found = append(found, x)
		}
	}
	if len(found) != 1 {
		w.t.Fatalf("%d spans %q of kind %s, want one", len(found), name, kinds[kind])
	}
	x := found[0]
	if x.process != process || x.instance == "" || x.pid == "" {
		w.t.Errorf("%q is of process %q, instance %q, pid %q; want %q", name, x.process, x.instance, x.pid, process)
	}
	if x.end.Before(x.start) || x.failed {
		w.t.Errorf("%q took %v, failed %v", name, x.end.Sub(x.start), x.failed)
	}
	return x
}

// child tells that a span's parent is another one.
func (w *way) child(x, parent *span) {
	w.t.Helper()
	if x.trace != parent.trace || x.parent != parent.place.span {
		w.t.Errorf("%v is not a child of %v", x, parent)
	}
}

// link tells that a span is linked to another one.
func (w *way) link(x, to *span) {
	w.t.Helper()
	if !slices.Contains(x.links, to.place) {
		w.t.Errorf("%v is not linked to %v", x, to)
	}
}

// edge tells that a call came in by the rule. Where callers are ours its span is the caller's child; from outside it is a root of its own,
// linked to the caller's.
func (w *way) edge(x, caller *span) {
	w.t.Helper()
	if w.joined {
		w.child(x, caller)
		return
	}
	if x.parent != "" || x.trace == caller.trace {
		w.t.Errorf("%v has a parent, or is in the caller's trace: whoever calls could force and merge traces", x)
	}
	w.link(x, caller)
}

// about tells that spans say whose they are.
func (w *way) about(key, value string, spans ...*span) {
	w.t.Helper()
	for _, x := range spans {
		if got := x.attributes[key]; got != value {
			w.t.Errorf("%v: %s is %q, want %q", x, key, got, value)
		}
	}
}

// fromCaller checks the first part of a way: caller, enqueue, and what ran the job, in a process of that name. It returns the span of the run.
func (w *way) fromCaller(job, typ, runner string) (send, process *span) {
	w.t.Helper()
	checkout, call := w.one("checkout", internal, "shop"), w.one(enqueueMethod, calling, "shop")
	accept := w.one(enqueueMethod, server, "spillway-enqueue")
	send = w.one("send jobs.default", producer, "spillway-enqueue")
	wait, process := w.one("queue wait", internal, runner), w.one("process "+typ, consumer, runner)
	w.child(call, checkout)
	w.edge(accept, call)
	w.child(send, accept)
	w.child(wait, send)
	w.child(process, send)
	w.link(process, send)
	w.about("spillway.job.id", job, send, wait, process)
	w.about("spillway.source", source, send, wait, process)
	w.about("spillway.tenant", tenant, send, wait, process)
	w.about("spillway.attempt", "1", process)
	if process.start.Before(send.start) {
		w.t.Errorf("the job ran before it was sent: %v", process.start.Sub(send.start))
	}
	return send, process
}

// toSocket checks the last part: from what published, by its span, to the socket.
func (w *way) toSocket(from *span) {
	w.t.Helper()
	send, deliver := w.one("send notifications", producer, "spillway-notifier"), w.one("deliver", consumer, "spillway-notifier")
	w.child(send, from)
	w.child(deliver, send)
	w.link(deliver, send)
	w.about("spillway.source", source, send, deliver)
	w.about("spillway.tenant", tenant, send, deliver)
	w.about("spillway.sessions", "1", deliver)
	if send.attributes["messaging.message.id"] == "" || send.attributes["messaging.message.id"] != deliver.attributes["messaging.message.id"] {
		w.t.Errorf("sent is %q, delivered %q", send.attributes["messaging.message.id"], deliver.attributes["messaging.message.id"])
	}
}

// processes are those that the spans of one trace come from.
func (w *way) processes(trace string) []string {
	var list []string
	for _, x := range w.spans {
		if x.trace == trace && !slices.Contains(list, x.process) {
			list = append(list, x.process)
		}
	}
	slices.Sort(list)
	return list
}

// published follows an order whose worker publishes a notification with a call of its own.
func (s *scene) published(t *testing.T) {
	data := `{"order":7}`
	job := s.caller(shipType, data)
	s.message(data)
	w := s.follow(t, job, "checkout", "queue wait", "process "+shipType, "deliver")
	_, process := w.fromCaller(job, shipType, "shipping")
	call, accept := w.one(publishMethod, calling, "shipping"), w.one(publishMethod, server, "spillway-notifier")
	w.child(call, process)
	w.edge(accept, call)
	w.toSocket(accept)
	// From the caller's span to the socket's: one trace, by the spans of all processes that make any. A scheduler makes none for a job that
	// nothing unusual happens to; what it decided is on the wait that it ended.
	if s.joined {
		w.whole("shipping", "shop", "spillway-enqueue", "spillway-notifier")
	}
}

// whole tells that there is one trace, with spans of these processes, and that the wait has what the scheduler says of it.
func (w *way) whole(processes ...string) {
	w.t.Helper()
	first := w.spans[0]
	for _, x := range w.spans {
		if x.trace != first.trace {
			w.t.Errorf("%v is in trace %s, %v in %s", first, first.trace, x, x.trace)
		}
	}
	if got := w.processes(first.trace); !slices.Equal(got, processes) {
		w.t.Errorf("the trace has spans of %v, want %v", got, processes)
	}
	for _, x := range w.spans {
		if x.name == "queue wait" && !slices.ContainsFunc(slices.Collect(maps.Keys(x.attributes)), func(key string) bool { return strings.HasPrefix(key, "spillway.wait.") }) {
			w.t.Errorf("the scheduler has said nothing of the wait: %v", x.attributes)
		}
	}
}

// notified follows a job of type notify, which the notifier runs itself: one trace from enqueue to the socket.
func (s *scene) notified(t *testing.T) {
	data := `{"order":8}`
	payload, err := json.Marshal(map[string]any{"channel": channel, "class": "EVENT", "data": json.RawMessage(data), "ttl": "60s"})
	if err != nil {
		t.Fatal(err)
	}
	job := s.caller(notifyType, string(payload))
	if got := s.message(data); got.ID != job {
		t.Errorf("the notification of job %s has id %s", job, got.ID)
	}
	w := s.follow(t, job, "checkout", "queue wait", "process "+notifyType, "deliver")
	_, process := w.fromCaller(job, notifyType, "spillway-notifier")
	w.toSocket(process)
	deliver := w.one("deliver", consumer, "spillway-notifier")
	w.about("spillway.job.id", job, w.one("send notifications", producer, "spillway-notifier"), deliver)
	accept := w.one(enqueueMethod, server, "spillway-enqueue")
	if deliver.trace != accept.trace {
		t.Errorf("accepted in trace %s, delivered in %s", accept.trace, deliver.trace)
	}
	if s.joined {
		w.whole("shop", "spillway-enqueue", "spillway-notifier")
	}
}

// pids tells that the names of processes are those of processes: nothing that was followed was one.
func (s *scene) pids(t *testing.T) {
	f := s.dev.File()
	names := map[string]string{
		strconv.Itoa(os.Getpid()): "shop", strconv.Itoa(s.worker.PID()): "shipping",
		strconv.Itoa(f.Process("enqueue")): "spillway-enqueue", strconv.Itoa(f.Process("notifier")): "spillway-notifier", strconv.Itoa(f.Process("automation")): "spillway-automation",
	}
	if len(names) != 5 || f.Process("scheduler-0") == 0 {
		t.Fatalf("processes %v, scheduler %d", names, f.Process("scheduler-0"))
	}
	for _, x := range s.seen.all() {
		if names[x.pid] != x.process {
			t.Errorf("%v is of pid %s, which is %q", x, x.pid, names[x.pid])
		}
	}
}

// fromOutside has replicas that trust no caller, as they are unless told so, take over what dev's do: calls are linked to their callers' traces.
func (s *scene) fromOutside(t *testing.T) {
	other := *s
	other.joined = false
	enqueue, notifier := s.dev.Serve("enqueue", "enqueue-outside"), s.dev.Serve("notifier", "notifier-outside")
	enqueue.AwaitReady()
	notifier.AwaitReady()
	other.enqueue, other.notifier = enqueue.GRPC, notifier.GRPC
	s.worker.Stop() // it publishes to dev's
	other.worker = startWorker(t, s.dev, other.notifier, s.seen.address)
	other.published(t)
}

// TestTraceFromCallerToSocket is on the embedded broker.
func TestTraceFromCallerToSocket(t *testing.T) {
	s := begin(t, true)
	t.Run("Published", s.published)
	t.Run("Notified", s.notified)
	t.Run("Processes", s.pids)
	t.Run("FromOutside", s.fromOutside)
}

// TestNothingIsExportedUnlessAskedFor: the same way without a single OTEL_ variable: no exporter calls.
func TestNothingIsExportedUnlessAskedFor(t *testing.T) {
	s := begin(t, false)
	data := `{"order":9}`
	s.quiet(shipType, data)
	s.message(data)
	s.listener.Close()
	s.dev.Stop() // which would flush what waits
	s.worker.Stop()
	if calls := s.seen.called(); len(calls) != 0 {
		t.Errorf("exporters called %v", calls)
	}
}

// quiet enqueues one job as a caller that traces nothing.
func (s *scene) quiet(typ, payload string) {
	s.t.Helper()
	c, err := client.Dial(s.enqueue, client.WithToken(s.dev.File().Tokens.Service))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), messageLimit)
	defer cancel()
	if _, err := c.Enqueue(ctx, client.Job{Source: source, Tenant: tenant, Type: typ, Payload: []byte(payload)}); err != nil {
		s.t.Fatalf("enqueue: %v", err)
	}
}
