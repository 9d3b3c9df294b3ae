package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	"github.com/spillway/spillway/pkg/worker"
	"github.com/spillway/spillway/services/enqueue"
	"github.com/spillway/spillway/services/scheduler"
)

// errCut is what a process meets on a wire that was cut.
var errCut = errors.New("the wire is cut")

// wire is all the connections that a process has in one direction; cutting it is what its peers see of a dead process.
type wire struct {
	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
}

// over makes a dialer whose connections hang on the wire.
func (w *wire) over(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		w.mu.Lock()
		down := w.down
		w.mu.Unlock()
		if down {
			return nil, errCut
		}
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return w.hang(c)
	}
}

func (w *wire) hang(c net.Conn) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		c.Close()
		return nil, errCut
	}
	if w.conns == nil {
		w.conns = map[net.Conn]bool{}
	}
	w.conns[c] = true
	return hung{c, w}, nil
}

// cut breaks every connection, and refuses new ones until mend.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// freeze keeps what is connected and refuses new connections until mend.
func (w *wire) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
}

// mend ends a cut or a freeze.
func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}

// hung is a connection on a wire.
type hung struct {
	net.Conn
	wire *wire
}

func (c hung) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c.Conn)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

// listener hangs what it accepts on a wire.
type listener struct {
	net.Listener
	wire *wire
}

func (l listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if on, err := l.wire.hang(c); err == nil {
			return on, nil
		}
	}
}

// process is one part of the product that can be stopped, killed, and cut from the broker.
type process struct {
	name     string
	cancel   context.CancelFunc
	ended    chan error
	broker   wire // to the broker
	peers    wire // to everybody else
	listener net.Listener
}

// stop ends the process in order, as SIGTERM does, and waits for it.
func (p *process) stop() error {
	p.cancel()
	err := <-p.ended
	p.ended <- err
	return err
}

// kill makes the process as good as dead: nothing that it does from now on reaches anybody.
func (p *process) kill() {
	p.broker.cut()
	p.peers.cut()
	if p.listener != nil {
		p.listener.Close()
	}
	p.cancel()
}

// start runs a service until it is stopped, or the bubble ends.
func (w *world) start(p *process, run func(context.Context) error) {
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(w.ctx)
	p.ended = make(chan error, 1)
	w.running.Go(func() {
		err := run(ctx)
		if err != nil && ctx.Err() == nil {
			w.t.Errorf("%s: %v", p.name, err)
		}
		p.ended <- err
	})
}

// kafka opens clients on a process' wire.
func (w *world) kafka(p *process) func(string) (*kafka.Client, error) {
	return func(id string) (*kafka.Client, error) {
		config := w.broker.Config(id, topics.All()...)
		config.Dial = p.broker.over(config.Dial)
		return kafka.New(config)
	}
}

// listen takes an address for a process.
func (w *world) listen(p *process, address string) net.Listener {
	p.listener = listener{w.network.Listen(address), &p.peers}
	return p.listener
}

// enqueue starts a replica of enqueue.
func (w *world) enqueue(n int, change ...func(*enqueue.Config)) *process {
	w.t.Helper()
	p := &process{name: fmt.Sprintf("enqueue-%d", n)}
	config := enqueue.Config{
		Replica: p.name, Prefix: topics.Prefix, Durability: kafka.Single, Payload: 256 << 10, Inflight: 32 << 20, Keys: 8 << 20,
	}
	for _, c := range change {
		c(&config)
	}
	s, err := enqueue.New(config, enqueue.Deps{
		Log: w.log, Telemetry: w.telemetry, Kafka: w.kafka(p), Verifier: w.verifier, MACKey: macKey, Listener: w.listen(p, p.name+":7400"), Dial: w.network.Dial,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.start(p, s.Run)
	w.healthy(p.name, s.Health)
	return p
}

// scheduler starts a replica of scheduler and waits until it is in the group.
func (w *world) scheduler(n int, change ...func(*scheduler.Config)) *process {
	w.t.Helper()
	p, health := w.startScheduler(n, change...)
	w.healthy(p.name, health)
	return p
}

func (w *world) startScheduler(n int, change ...func(*scheduler.Config)) (*process, func() []rpc.Check) {
	w.t.Helper()
	p := &process{name: fmt.Sprintf("scheduler-%d", n)}
	address := p.name + ":7410"
	config := scheduler.Config{
		Replica: p.name, Address: rpctest.Target(address), Prefix: topics.Prefix, Durability: kafka.Single, Memory: 64 << 20, Reserve: 0.7,
	}
	for _, c := range change {
		c(&config)
	}
	s, err := scheduler.New(config, scheduler.Deps{
		Log: w.log.With("replica", p.name), Telemetry: w.telemetry, Kafka: w.kafka(p), Verifier: w.verifier, MACKey: macKey, Listener: w.listen(p, address),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.start(p, s.Run)
	return p, s.Health
}

// healthy waits until every check passes.
func (w *world) healthy(name string, health func() []rpc.Check) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		failing := ""
		for _, c := range health() {
			if !c.OK {
				failing += c.Name + ": " + c.Detail + "; "
			}
		}
		if failing == "" {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal(name, " is not ready: ", failing)
		}
	}
}

// worker runs handler for the types, "tag" if none is named. It finds its schedulers by any of the first three.
func (w *world) worker(slots int, handler worker.Handler, types ...string) *process {
	w.t.Helper()
	p := &process{name: "worker"}
	dial := p.peers.over(func(ctx context.Context, _, address string) (net.Conn, error) { return w.network.Dial(ctx, address) })
	k, err := worker.New(worker.Config{
		Schedulers:  rpctest.Target("scheduler-0:7410") + "," + rpctest.Target("scheduler-1:7410") + "," + rpctest.Target("scheduler-2:7410"),
		Concurrency: slots, Token: w.token(rpc.RoleWorker), Log: w.log, Telemetry: w.telemetry,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "", address) })},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(types) == 0 {
		types = []string{"tag"}
	}
	for _, typ := range types {
		k.Handle(typ, handler)
	}
	w.start(p, k.Run)
	return p
}

// caller is an SDK client of the first enqueue replica. The caller closes it.
func (w *world) caller() *client.Client {
	w.t.Helper()
	c, err := client.Dial(rpctest.Target("enqueue-0:7400"), client.WithToken(w.token(rpc.RoleEnqueue)), client.WithTelemetry(w.telemetry),
		client.WithDialOptions(grpc.WithContextDialer(w.network.Dial)))
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}
