package deliver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/subscriber"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket/sockettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const cluster = "6f1e6b1a-0000-4000-8000-000000000001"

// fakeLog is a log in memory.
type fakeLog struct {
	mu      sync.Mutex
	first   []int64
	records [][]kafka.Message
	changed chan struct{}
	failing error
}

func newLog(partitions int) *fakeLog {
	return &fakeLog{first: make([]int64, partitions), records: make([][]kafka.Message, partitions), changed: make(chan struct{})}
}

func (l *fakeLog) append(m kafka.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m.Offset = l.first[m.Partition] + int64(len(l.records[m.Partition]))
	l.records[m.Partition] = append(l.records[m.Partition], m)
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *fakeLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing = err
}

func (l *fakeLog) Fetch(ctx context.Context, _ string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error) {
	wait := time.NewTimer(maxWait)
	defer wait.Stop()
	for over := false; ; {
		l.mu.Lock()
		first, records, changed, err := l.first[partition], l.records[partition], l.changed, l.failing
		l.mu.Unlock()
		if err != nil {
			return kafka.Batch{}, err
		}
		batch := kafka.Batch{HighWatermark: first + int64(len(records)), LogStart: first}
		for i := max(0, from-first); i < int64(len(records)) && batch.Bytes < maxBytes; i++ {
			batch.Messages = append(batch.Messages, records[i])
			batch.Bytes += records[i].Size()
		}
		if over || len(batch.Messages) > 0 {
			return batch, nil
		}
		select {
		case <-changed:
		case <-wait.C:
			over = true
		case <-ctx.Done():
			return kafka.Batch{}, ctx.Err()
		}
	}
}

func (l *fakeLog) Ends(context.Context, string, []int) (map[int]kafka.Range, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing != nil {
		return nil, l.failing
	}
	ends := map[int]kafka.Range{}
	for p, first := range l.first {
		ends[p] = kafka.Range{First: first, Next: first + int64(len(l.records[p]))}
	}
	return ends, nil
}

func (l *fakeLog) Refresh(context.Context) error { return nil }

// record is a notification as the log holds it.
func record(partitions int, channel core.Channel, id, data string, change func(*logv1.Notification)) kafka.Message {
	n := &logv1.Notification{
		Id: id, Channel: string(channel), Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Data: []byte(data),
		At: timestamppb.Now(), ExpiresAt: timestamppb.New(time.Now().Add(time.Hour)), Source: "billing", Tenant: channel.Tenant(),
	}
	if change != nil {
		change(n)
	}
	value, err := proto.Marshal(n)
	if err != nil {
		panic(err)
	}
	return kafka.Message{Partition: envelope.Shard(string(channel), partitions), Value: value, Headers: []kafka.Header{envelope.VersionHeader()}}
}

// token is what verify understands: no signature, for tests that are not about it.
type token struct {
	User, Tenant string
	Patterns     []string
	Expires      time.Time
}

func (k token) String() string {
	b, _ := json.Marshal(k)
	return string(b)
}

func verify(text string, now time.Time) (core.Subscriber, error) {
	if text == "later" {
		return core.Subscriber{}, rpc.ErrNotReady
	}
	var k token
	if json.Unmarshal([]byte(text), &k) != nil || !now.Before(k.Expires.Add(time.Minute)) {
		return core.Subscriber{}, rpc.ErrToken
	}
	return core.Subscriber{User: k.User, Rights: core.Rights{Tenant: k.Tenant, Patterns: k.Patterns}, Expires: k.Expires}, nil
}

// ann is a user who may hear everything of tenant acme.
func ann() token {
	return token{User: "ann", Tenant: "acme", Patterns: []string{"tenant:*", "user:acme:ann", "topic:acme:*"}, Expires: time.Now().Add(time.Hour)}
}

func ports(log Log) Ports {
	return Ports{
		Log: log, Verify: verify, Cluster: func() string { return cluster }, CursorKey: []byte(strings.Repeat("k", 32)),
		Out: slog.New(slog.DiscardHandler),
	}
}

// world is a room that runs in a bubble, with websockets in memory.
type world struct {
	t    *testing.T
	ctx  context.Context
	log  *fakeLog
	room *Room
	net  *sockettest.Listener
	stop context.CancelFunc
	runs chan error
}

func bubble(t *testing.T, cfg Config, f func(t *testing.T, w *world)) {
	t.Helper()
	bubbleOf(t, cfg, func(*Ports) {}, f)
}

func bubbleOf(t *testing.T, cfg Config, change func(*Ports), f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Topic, cfg.Partitions = "spillway.notifications", cmp.Or(cfg.Partitions, 4)
		log := newLog(cfg.Partitions)
		given := ports(log)
		change(&given)
		w := serve(t, cfg, given, log)
		f(t, w)
		w.end()
	})
}

func serve(t *testing.T, cfg Config, given Ports, log *fakeLog) *world {
	room, err := New(cfg, given)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	w := &world{t: t, ctx: t.Context(), log: log, room: room, net: sockettest.ListenWindow(16<<10, 16<<10), stop: stop, runs: make(chan error, 1)}
	go func() { w.runs <- room.Run(ctx) }()
	server := &http.Server{Handler: room}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(w.net) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	synctest.Wait()
	return w
}

func (w *world) end() {
	w.t.Helper()
	w.stop()
	if err := <-w.runs; err != nil {
		w.t.Errorf("run: %v", err)
	}
	if n := w.room.Sessions(); n != 0 || w.room.strangers != 0 || w.room.budget.Used() != 0 || w.room.socket.Budget.Used() != 0 || len(w.room.users) != 0 || len(w.room.addresses) != 0 {
		w.t.Errorf("%d sessions, %d strangers, users %v and addresses %v are left", n, w.room.strangers, w.room.users, w.room.addresses)
	}
}

func (w *world) dial(k token, channels ...string) *subscriber.Session {
	w.t.Helper()
	s, err := w.try(subscriber.Config{Token: k.String(), Channels: channels})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) try(cfg subscriber.Config) (*subscriber.Session, error) {
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return w.net.DialContext(ctx, network, address)
	}
	s, err := subscriber.Dial(ctx, "ws://notifier"+Path, cfg)
	if err == nil {
		w.t.Cleanup(s.Cut)
	}
	return s, err
}

// publish appends a notification whose data is its id.
func (w *world) publish(channel core.Channel, id string) {
	w.log.append(record(w.room.cfg.Partitions, channel, id, fmt.Sprintf("%q", id), nil))
}

// next returns the next event that is not a cursor.
func (w *world) next(s *subscriber.Session) string {
	w.t.Helper()
	for {
		ctx, cancel := context.WithTimeout(w.ctx, 15*time.Second)
		e, err := s.Next(ctx)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return "nothing"
		case err != nil:
			return ending(err)
		case e.T == subscriber.Cursor:
		default:
			return event(e)
		}
	}
}

func ending(err error) string {
	var closed *subscriber.Closed
	var refused *subscriber.Refused
	switch {
	case errors.As(err, &closed):
		return fmt.Sprint("close ", closed.Code)
	case errors.As(err, &refused):
		return fmt.Sprint("refused ", refused.Status)
	}
	return err.Error()
}

func event(e subscriber.Event) string {
	switch e.T {
	case subscriber.Msg:
		return "msg " + e.Channel + " " + e.ID
	case subscriber.Sub:
		return fmt.Sprint("sub ", e.Channel, " ", cmp.Or(e.Error, "ok"))
	case subscriber.Gap:
		return strings.Join(strings.Fields(strings.Join([]string{"gap", e.Scope, e.Channel, e.Reason}, " ")), " ")
	case subscriber.Error:
		return "error " + e.Code.Word
	case subscriber.Go:
		return fmt.Sprint("go ", e.Code.Number)
	}
	return e.T
}

func (w *world) expect(s *subscriber.Session, events ...string) {
	w.t.Helper()
	for i, want := range events {
		if got := w.next(s); got != want {
			w.t.Fatalf("event %d is %q, want %q", i, got, want)
		}
	}
}

// pass lets time go by for sessions that are read meanwhile.
func (w *world) pass(d time.Duration, sessions ...*subscriber.Session) {
	ctx, cancel := context.WithTimeout(w.ctx, d)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range sessions {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.Next(ctx); err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	<-ctx.Done()
}
