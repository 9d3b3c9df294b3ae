package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
)

// childDir makes the test binary a broker on that directory, to be killed.
const childDir = "SPILLWAY_BROKER_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := Run(context.Background(), config(dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

var layout = kafka.Layout{Topics: kafka.Topics{Prefix: kafka.DefaultPrefix}, Shards: 2, Lanes: 2, Durability: kafka.Single}

func config(dir string) Config { return Config{Dir: dir, Socket: filepath.Join(dir, "s")} }

// newDir is a directory of mode 0700 whose path is short enough for a socket.
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "broker")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, c Config) *Broker {
	t.Helper()
	b, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func client(t *testing.T, dir, id string) *kafka.Client {
	t.Helper()
	c, err := kafka.New(kafka.Config{Addresses: []string{"unix:" + filepath.Join(dir, "s")}, ClientID: id})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

func install(t *testing.T, c *kafka.Client) {
	t.Helper()
	if err := kafka.Install(t.Context(), c, layout); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, c *kafka.Client, topic string, n, size int) {
	t.Helper()
	for range n {
		if _, err := c.Append(t.Context(), topic, 0, incompressible(size)); err != nil {
			t.Fatal(err)
		}
	}
}

// incompressible is one record of that many bytes.
func incompressible(size int) []kafka.Record {
	value := make([]byte, size)
	x := uint64(time.Now().UnixNano())
	for i := range value {
		x = x*6364136223846793005 + 1442695040888963407
		value[i] = byte(x >> 56)
	}
	return []kafka.Record{{Value: value}}
}

func TestCleanRestart(t *testing.T) {
	dir := newDir(t)
	b := start(t, config(dir))
	c := client(t, dir, "test")
	install(t, c)
	write(t, c, layout.Jobs("high"), 5, 100)
	if err := c.DeleteRecords(t.Context(), layout.Jobs("high"), map[int]int64{0: 3}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "s")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	start(t, config(dir))
	c = client(t, dir, "test")
	install(t, c)
	ends, err := c.Ends(t.Context(), layout.Jobs("high"), []int{0})
	if err != nil || ends[0] != (kafka.Range{First: 3, Next: 5}) {
		t.Errorf("ends are %v (%v)", ends, err)
	}
}

// kill -9 loses no acknowledged record and no commit; K2: deleted records may
// come back.
func TestKill(t *testing.T) {
	dir := newDir(t)
	kill := spawn(t, dir)
	c := client(t, dir, "test")
	install(t, c)
	topic := layout.Jobs("low")
	write(t, c, topic, 50, 1000)
	at := kafka.Commit{Topic: topic, Partition: 0, Offset: 49, Metadata: "1;;-;-;"}
	if err := c.CommitOffsets(t.Context(), kafka.Member{Group: layout.Group(), Generation: -1}, []kafka.Commit{at}); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteRecords(t.Context(), topic, map[int]int64{0: 49}); err != nil {
		t.Fatal(err)
	}
	kill()

	start(t, config(dir)) // over the stale socket and lock file
	c = client(t, dir, "test")
	ends, err := c.Ends(t.Context(), topic, []int{0})
	if err != nil || ends[0].Next != 50 {
		t.Errorf("ends are %v (%v), want next 50", ends, err)
	}
	found, err := c.Committed(t.Context(), layout.Group(), topic, []int{0})
	if err != nil || found[0] != at {
		t.Errorf("commit is %+v (%v)", found[0], err)
	}
}

// spawn runs a broker in a process of its own; kill is kill -9.
func spawn(t *testing.T, dir string) (kill func()) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	t.Cleanup(kill)
	return kill
}

// Producers go on over a kill -9 and a restart: what was acknowledged is
// there, and it takes no longer than the broker does.
func TestKillUnderLoad(t *testing.T) {
	dir := newDir(t)
	kill := spawn(t, dir)
	c := client(t, dir, "test")
	install(t, c)
	topic := layout.Jobs("low")
	p := produce.New(c, produce.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	var mu sync.Mutex
	acked := make(map[string]bool)
	load := func(round string) time.Duration {
		var slowest atomic.Int64
		var callers sync.WaitGroup
		under := make(chan struct{}) // closed when every caller has had an answer: they are at it
		var first atomic.Int64
		for i := range 64 {
			callers.Go(func() {
				for k := range 50 {
					value := fmt.Sprintf("%s-%d-%d", round, i, k)
					begin := time.Now()
					if _, err := p.Produce(t.Context(), produce.Record{Topic: topic, Partition: k % 2, Value: []byte(value)}); err != nil {
						t.Errorf("%s: %v", value, err)
						return
					}
					slowest.Store(max(slowest.Load(), int64(time.Since(begin))))
					mu.Lock()
					acked[value] = true
					mu.Unlock()
					if k == 0 && first.Add(1) == 64 {
						close(under)
					}
				}
			})
		}
		if round == "killed" {
			select {
			case <-under:
			case <-time.After(10 * time.Second):
				t.Error("the callers are not at it")
			}
			kill()
			spawn(t, dir)
		}
		callers.Wait()
		return time.Duration(slowest.Load())
	}
	load("calm")
	slowest := load("killed")
	cancel()
	running.Wait()

	seen, total := make(map[string]bool), 0
	for q := range 2 {
		for next := int64(0); ; {
			batch, err := c.Fetch(t.Context(), topic, q, next, 1<<20, time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if len(batch.Messages) == 0 {
				break
			}
			for _, m := range batch.Messages {
				seen[string(m.Value)] = true
				next = m.Offset + 1
				total++
			}
		}
	}
	for value := range acked {
		if !seen[value] {
			t.Errorf("%s was acknowledged and is lost", value)
		}
	}
	t.Logf("%d acknowledged, %d duplicates, slowest %v", len(acked), total-len(seen), slowest)
	if slowest > 5*time.Second {
		t.Errorf("one record took %v over a restart", slowest)
	}
}

// K1: new records below the commit would never be seen.
func TestRefusesAStoreThatLostRecords(t *testing.T) {
	dir := newDir(t)
	b := start(t, config(dir))
	c := client(t, dir, "test")
	install(t, c)
	topic := layout.Jobs("low")
	write(t, c, topic, 3, 10)
	at := kafka.Commit{Topic: topic, Offset: 3, Metadata: kafka.FirstMetadata}
	if err := c.CommitOffsets(t.Context(), kafka.Member{Group: layout.Group(), Generation: -1}, []kafka.Commit{at}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	err := filepath.WalkDir(filepath.Join(dir, "log"), func(path string, _ os.DirEntry, err error) error {
		if strings.Contains(path, "jobs.low") && (strings.HasSuffix(path, ".dat") || strings.HasSuffix(path, "snapshot.json")) {
			return os.Remove(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := Start(config(dir)); err == nil || !strings.Contains(err.Error(), topic+"/0 (committed 3, ends at 0)") {
		b.Close()
		t.Errorf("error is %v", err)
	}
}

func TestOneBrokerADirectory(t *testing.T) {
	dir := newDir(t)
	b := start(t, config(dir))
	other := config(dir)
	other.Socket = filepath.Join(newDir(t), "s")
	if _, err := Start(other); !errors.Is(err, ErrLocked) {
		t.Errorf("error is %v", err)
	}
	b.Close()
	start(t, other)
}

// TestWaitsForTheFormerBroker: when dev is killed its broker still closes its
// store; a dev that is started meanwhile must not fail for that.
func TestWaitsForTheFormerBroker(t *testing.T) {
	dir := newDir(t)
	former := start(t, config(dir))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, config(dir)) }()
	select {
	case err := <-ended:
		t.Fatalf("ended while the former one lived: %v", err)
	case <-time.After(3 * lockPoll):
	}
	former.Close()
	client(t, dir, "x") // the next one serves
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestRefusesUnsafePlaces(t *testing.T) {
	open := newDir(t)
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	taken := newDir(t)
	if err := os.WriteFile(filepath.Join(taken, "s"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	long := newDir(t)
	for name, c := range map[string]Config{
		"a directory open to others": config(open),
		"a file in the way":          config(taken),
		"a long path":                {Dir: long, Socket: filepath.Join(long, strings.Repeat("x", 100))},
		"a tiny store":               {Dir: long, Socket: filepath.Join(long, "s"), MaxBytes: 1000},
	} {
		if b, err := Start(c); err == nil {
			b.Close()
			t.Errorf("%s: started", name)
		}
	}
	if _, err := os.Stat(filepath.Join(taken, "s")); err != nil {
		t.Errorf("the file in the way is gone: %v", err)
	}
}

// From 90 % new work is refused, from 100 % everything, until there is room.
func TestStoreCap(t *testing.T) {
	dir := newDir(t)
	c := config(dir)
	c.MaxBytes = 16 << 20
	b := start(t, c)
	admin := client(t, dir, "test")
	install(t, admin)
	scheduler, enqueue := client(t, dir, "scheduler-1"), client(t, dir, "enqueue-1")
	topic, chunk := layout.Jobs("bulk"), 512<<10
	try := func(c *kafka.Client) error {
		_, err := c.Append(t.Context(), topic, 1, incompressible(1000))
		return err
	}
	refused := func(err error) bool { return errors.Is(err, kafka.ErrFull) && errors.Is(err, kafka.ErrUnsent) }

	for b.store.used.Load() < c.MaxBytes*85/100 {
		write(t, admin, topic, 1, chunk)
	}
	if err := try(enqueue); err != nil {
		t.Fatalf("below 90 %%: %v", err)
	}
	for b.store.used.Load() < c.MaxBytes*90/100 {
		write(t, admin, topic, 1, chunk)
	}
	if err := try(enqueue); !refused(err) {
		t.Errorf("enqueue from 90 %%: %v", err)
	}
	if err := try(scheduler); err != nil {
		t.Errorf("scheduler from 90 %%: %v", err)
	}
	for size := chunk; size >= 100; size /= 8 { // to the brim
		for err := error(nil); !refused(err); {
			if _, err = admin.Append(t.Context(), topic, 0, incompressible(size)); err != nil && !refused(err) {
				t.Fatal(err)
			}
		}
	}
	for range 10 { // refusals must not count as used
		_ = try(enqueue)
	}
	if used := b.store.used.Load(); used > c.MaxBytes {
		t.Errorf("%d bytes used of %d", used, c.MaxBytes)
	}
	for _, c := range []*kafka.Client{enqueue, scheduler} {
		if err := try(c); !refused(err) {
			t.Errorf("full: %s: %v", c.ClientID(), err)
		}
	}
	ends, err := admin.Ends(t.Context(), topic, []int{0, 1})
	if err != nil || ends[1].Next != 2 {
		t.Errorf("ends are %v (%v): a refused record was written", ends, err)
	}

	if err := admin.DeleteRecords(t.Context(), topic, map[int]int64{0: ends[0].Next - 1}); err != nil {
		t.Fatal(err)
	}
	for range calmScans + 1 {
		if err := b.store.scan(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []*kafka.Client{enqueue, scheduler} {
		if err := try(c); err != nil {
			t.Errorf("with room: %s: %v", c.ClientID(), err)
		}
	}
	if b.store.armed {
		t.Error("the refusal is still armed")
	}
}

// K5: what would kill kfake, or make it allocate gigabytes, is hung up on.
func TestHostileRequests(t *testing.T) {
	dir := newDir(t)
	start(t, config(dir))
	for name, request := range map[string][]byte{
		"unknown key": frame(10, 2000, 0),
		"negative":    frame(10, -5, 0),
		"4 GiB":       frame(0xffffffff, 3, 1),
		"100 MiB":     frame(100<<20, 0, 8),
		"too short":   frame(3, 3, 1),
	} {
		conn, err := net.Dial("unix", filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: read %d bytes (%v), want a closed connection", name, n, err)
		}
	}
	client(t, dir, "test") // it still serves
}

func frame(size uint32, key, version int16) []byte {
	b := binary.BigEndian.AppendUint32(nil, size)
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	return append(b, 0, 0, 0, 1, 0xff, 0xff)
}

// FuzzGuard: whatever bytes come, the guard neither panics nor changes a
// request of somebody who is not refused.
func FuzzGuard(f *testing.F) {
	f.Add(frame(10, 3, 1), false)
	f.Add(append(frame(23, 0, 8), "enqueue\xff\xff\xff\xff\x00\x00"...), true)
	f.Fuzz(func(t *testing.T, data []byte, tight bool) {
		s := &store{limit: 1 << 40, log: nil, last: roomy}
		if tight {
			s.used.Store(s.limit / 100 * 95)
			s.last = 1
		}
		g := &guard{Conn: &memory{data}, store: s}
		var out []byte
		p := make([]byte, 7)
		for {
			n, err := g.Read(p)
			out = append(out, p[:n]...)
			if err != nil {
				break
			}
		}
		if !tight && !strings.HasPrefix(string(data), string(out)) {
			t.Errorf("%x became %x", data, out)
		}
	})
}

// memory is a connection that only brings data.
type memory struct{ data []byte }

func (m *memory) Read(p []byte) (int, error) {
	if len(m.data) == 0 {
		return 0, net.ErrClosed
	}
	n := copy(p, m.data)
	m.data = m.data[n:]
	return n, nil
}
func (*memory) Write(p []byte) (int, error)      { return len(p), nil }
func (*memory) Close() error                     { return nil }
func (*memory) LocalAddr() net.Addr              { return hostPort{} }
func (*memory) RemoteAddr() net.Addr             { return hostPort{} }
func (*memory) SetDeadline(time.Time) error      { return nil }
func (*memory) SetReadDeadline(time.Time) error  { return nil }
func (*memory) SetWriteDeadline(time.Time) error { return nil }

func TestTrim(t *testing.T) {
	dir := newDir(t)
	b := start(t, config(dir))
	c := client(t, dir, "test")
	install(t, c)
	for _, topic := range []string{layout.Status(), layout.Outcomes()} {
		write(t, c, topic, 20, 100)
	}
	commit := kafka.Commit{Topic: layout.Outcomes(), Offset: 12, Metadata: kafka.FirstMetadata}
	if err := c.CommitOffsets(t.Context(), kafka.Member{Group: layout.Group(), Generation: -1}, []kafka.Commit{commit}); err != nil {
		t.Fatal(err)
	}
	check := func(now time.Time, status, outcomes int64) {
		t.Helper()
		if err := trim(t.Context(), b.cluster, b.client, b.topics, now); err != nil {
			t.Fatal(err)
		}
		for topic, first := range map[string]int64{layout.Status(): status, layout.Outcomes(): outcomes} {
			ends, err := c.Ends(t.Context(), topic, []int{0})
			if err != nil || ends[0] != (kafka.Range{First: first, Next: 20}) {
				t.Errorf("%s holds %v (%v), want from %d", topic, ends[0], err, first)
			}
		}
	}
	check(time.Now(), 0, 0)
	check(time.Now().Add(2*time.Hour), 19, 0)     // never the last
	check(time.Now().Add(8*24*time.Hour), 19, 12) // never above the commit
}

func TestTrimToSize(t *testing.T) {
	dir := newDir(t)
	b := start(t, config(dir))
	c := client(t, dir, "test")
	install(t, c)
	topic := layout.Status()
	write(t, c, topic, 100, 1000)
	p := b.cluster.PartitionInfo(topic, 0)
	at, err := rule{topic: topic, age: time.Hour}.cut(t.Context(), b.client, p, p.NumBytes/4, time.Now())
	if err != nil || at < 70 || at > 80 {
		t.Errorf("keeps from %d (%v), want about 75", at, err)
	}
}

// K6: a member cannot ask for a rebalance that waits longer than 3 s.
func TestRebalanceTimeout(t *testing.T) {
	for asked, want := range map[int32]int32{60_000: maxRebalance, 2000: 2000} {
		req := kmsg.NewPtrJoinGroupRequest()
		req.RebalanceTimeoutMillis = asked
		if _, err, handled := shortenRebalance(req); err != nil || handled {
			t.Fatalf("handled %v, error %v: the join must go on", handled, err)
		}
		if req.RebalanceTimeoutMillis != want {
			t.Errorf("asked for %d ms, got %d", asked, req.RebalanceTimeoutMillis)
		}
	}
}
