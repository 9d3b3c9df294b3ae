package replay

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/judge"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/status"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// switchTimeout bounds a hold or resume: many times what is promised.
const switchTimeout = 10 * time.Second

// duty is who looks at what the schedulers say of their sources, in the topic
// status, and throws the switch.
type duty struct {
	reader   *status.Reader
	client   *kafka.Client
	switches automationv1.SwitchServiceClient
	hang     func() error
	stop     context.CancelFunc
	running  sync.WaitGroup
}

func (p *product) operator(ctx context.Context) (operator, error) {
	f := p.target()
	topic := kafka.Topics{Prefix: f.Prefix}.Status()
	client, err := connect.Reach(ctx, connect.Of(f.Broker), "replay", topic)
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	conn, err := rpc.Dial(f.Endpoints.Automation, rpc.DialConfig{Token: f.Tokens.Operator})
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("dial automation: %w", err)
	}
	d := &duty{reader: status.NewReader(client, topic, p.log), client: client, switches: automationv1.NewSwitchServiceClient(conn), hang: conn.Close}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	d.running.Go(func() { _ = d.reader.Run(life) }) // it ends only with its context
	return d, nil
}

// name is operator.name.
func (d *duty) name(ctx context.Context) (string, time.Time, error) {
	var namer judge.Namer
	for {
		changed := d.reader.Changed()
		if source, named := namer.See(d.talks()); named {
			return source, time.Now(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", time.Time{}, ctx.Err()
		}
	}
}

// talks adds up what the schedulers say.
func (d *duty) talks() []judge.Talk {
	var list []judge.Talk
	at := make(map[string]int)
	for _, r := range d.reader.Live(logv1.ReplicaKind_REPLICA_KIND_SCHEDULER) {
		for _, t := range r.Top {
			i, known := at[t.GetSource()]
			if !known {
				i = len(list)
				at[t.GetSource()] = i
				list = append(list, judge.Talk{Source: t.GetSource()})
			}
			list[i].Arrivals += t.GetArrivalsPerS()
			list[i].WorkerSeconds += t.GetWorkerSecondsPerS()
			list[i].Backlog += t.GetBacklogJobs()
		}
	}
	return list
}

func scope(source string) *automationv1.Scope {
	return &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: source}}
}

// hold is operator.hold. The switch ends by itself, should this process die.
func (d *duty) hold(ctx context.Context, source string, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, switchTimeout)
	defer cancel()
	_, err := d.switches.Hold(ctx, &automationv1.HoldRequest{Spec: &automationv1.SwitchSpec{
		Scope: scope(source), Reason: by + ": it has ten times what the others have", Ttl: durationpb.New(ttl),
	}})
	if err != nil {
		return fmt.Errorf("hold %s: %w", source, err)
	}
	return nil
}

// resume is operator.resume.
func (d *duty) resume(ctx context.Context, source string) error {
	ctx, cancel := context.WithTimeout(ctx, switchTimeout)
	defer cancel()
	_, err := d.switches.Resume(ctx, &automationv1.ResumeRequest{Scope: scope(source), Reason: by, RampRate: judge.Ramp})
	if err != nil {
		return fmt.Errorf("resume %s: %w", source, err)
	}
	return nil
}

func (d *duty) close() {
	d.stop()
	d.running.Wait()
	d.client.Close()
	_ = d.hang()
}
