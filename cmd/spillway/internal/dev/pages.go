package dev

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/cmd/spillway/internal/keyring"
	"github.com/spillway/spillway/cmd/spillway/internal/pages"
	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

const (
	// pagesSource is the source of what people publish from the inbox.
	pagesSource = "inbox"
	// notifyType is the type of jobs that become notifications.
	notifyType = "notify"
	// knownEvery is how often a notifier is asked again that does not know the
	// source yet which automation has just registered.
	knownEvery = 50 * time.Millisecond
)

// desk serves the pages for people in dev's own process, and does for them what
// needs a credential. It speaks only gRPC to the services.
type desk struct {
	dev      *Dev
	cluster  string
	notifier *grpc.ClientConn // nil without a notifier
	admin    *grpc.ClientConn

	mu         sync.Mutex
	registered bool
}

// origins are those of the pages, which notifiers accept.
func (d *Dev) origins() []string { return pages.Origins(d.pages.Addr().String()) }

// servePages serves the pages on the listener that start has opened, until Stop.
func (d *Dev) servePages(cluster string) error {
	k := &desk{dev: d, cluster: cluster}
	config := pages.Config{Websocket: func() string { return d.File().Endpoints.Websocket }, Token: k.token, Places: k.places}
	f := d.File()
	if f.Endpoints.Notifier != "" {
		var err error
		if k.notifier, err = rpc.Dial(f.Endpoints.Notifier, rpc.DialConfig{TokenFile: d.keys.tokenFile("service")}); err != nil {
			return fmt.Errorf("pages: %w", err)
		}
		if k.admin, err = rpc.Dial(f.Endpoints.Automation, rpc.DialConfig{TokenFile: d.keys.tokenFile("operator")}); err != nil {
			return errors.Join(fmt.Errorf("pages: %w", err), k.close())
		}
		config.Publish = k.publish
	}
	p, err := pages.New(config)
	if err != nil {
		return errors.Join(err, k.close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.pagesStop = cancel
	d.running.Go(func() {
		if err := errors.Join(p.Serve(ctx, d.pages), k.close()); err != nil {
			d.log.Error("pages", "error", err.Error())
		}
	})
	return nil
}

func (k *desk) close() error {
	var wrong []error
	for _, conn := range []*grpc.ClientConn{k.notifier, k.admin} {
		if conn != nil {
			wrong = append(wrong, conn.Close())
		}
	}
	return errors.Join(wrong...)
}

// token signs a subscriber's token for who looks at the inbox.
func (k *desk) token(user, tenant string) (string, error) {
	return keyring.SignSubscriber(k.dev.keys.signer, keyring.Subscriber{
		User: user, Tenant: tenant, Channels: keyring.Channels(user, tenant),
	}, k.cluster, keyring.SubscriberTTL, time.Now())
}

// publish publishes what somebody has typed. The first one registers its source.
func (k *desk) publish(ctx context.Context, n pages.Notification) (string, error) {
	fresh, err := k.register(ctx)
	if err != nil {
		return "", err
	}
	for {
		r, err := notifierv1.NewNotifierServiceClient(k.notifier).Publish(ctx, &notifierv1.PublishRequest{
			Channel: n.Channel, Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Data: n.Data, Source: pagesSource, Tenant: n.Tenant,
		})
		if !fresh || rpc.ReasonOf(err) != "UNKNOWN_SOURCE" {
			return r.GetId(), err
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(knownEvery):
		}
	}
}

// register registers the source of the pages unless it has done so before, and
// says whether it did now.
func (k *desk) register(ctx context.Context) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.registered {
		return false, nil
	}
	source := &automationv1.Source{
		Name: pagesSource, Description: "what people publish from the inbox of spillway dev", Types: []string{notifyType}, Principals: []string{"*"},
	}
	_, err := automationv1.NewSourceAdminServiceClient(k.admin).RegisterSource(ctx, &automationv1.RegisterSourceRequest{Source: source, Reason: "local mode: published from the inbox"})
	if err != nil && rpc.ReasonOf(err) != "IDEMPOTENCY_CONFLICT" { // somebody has changed it: theirs counts
		return false, fmt.Errorf("register the source %s: %w", pagesSource, err)
	}
	k.registered = true
	return true, nil
}

// places is where everything is.
func (k *desk) places() []pages.Place {
	f := k.dev.File()
	list := []pages.Place{{Name: "enqueue", Address: f.Endpoints.Enqueue, Note: "gRPC: jobs of callers"}}
	for _, address := range f.Endpoints.Scheduler {
		list = append(list, pages.Place{Name: "scheduler", Address: address, Note: "gRPC: workers"})
	}
	if f.Endpoints.Notifier != "" {
		list = append(list,
			pages.Place{Name: "notifier", Address: f.Endpoints.Notifier, Note: "gRPC: notifications of callers"},
			pages.Place{Name: "websocket", Address: f.Endpoints.Websocket, Note: "subscribers"})
	}
	list = append(list, pages.Place{Name: "automation", Address: f.Endpoints.Automation, Note: "gRPC: sources, quotas, switches"})
	for _, r := range f.Replicas {
		list = append(list, pages.Place{Name: r.Name + " metrics", Address: r.Admin + "/metrics"})
	}
	return append(list, pages.Place{Name: "log", Address: f.Broker.Address}, pages.Place{Name: "data", Address: f.DataDir, Note: "tokens are in dev.json and keys/"})
}

// openPages opens the port of the pages, which stays with this process.
func (d *Dev) openPages(ports *reservation) (err error) {
	port := 0
	if d.opts.PortBase != 0 {
		port = d.opts.PortBase + pagesPort
	}
	if d.pages, err = ports.listen(port); err != nil {
		return fmt.Errorf("pages: %w", err)
	}
	return nil
}

// closePages ends the pages, served or not.
func (d *Dev) closePages() {
	switch {
	case d.pagesStop != nil:
		d.pagesStop() // the server closes the listener
	case d.pages != nil:
		if err := d.pages.Close(); err != nil {
			d.log.Error("pages", "error", err.Error())
		}
	}
}
