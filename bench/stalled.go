package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/subscriber"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

const (
	benchTenant  = "bench"
	benchChannel = "tenant:bench"
	benchSource  = "bench"
	userSessions = 10 // below what the notifier allows a user
)

// installation is a running `spillway dev`.
type installation struct {
	cmd   *exec.Cmd
	conns []*grpc.ClientConn
	File  struct {
		DataDir   string `json:"data_dir"`
		Endpoints struct {
			Notifier, Automation, Websocket string
		}
		Admin     struct{ Notifier string }
		Processes []struct {
			Name string
			PID  int
		}
		Tokens struct{ Operator, Service, Subscriber string }
	}
	publish notifierv1.NotifierServiceClient
	signer  *rpc.Signer
	issuer  string
}

// install starts one in the benchmark's directory.
func (b *bench) install() (*installation, error) {
	dir, err := os.MkdirTemp(b.dir, "dev-")
	if err != nil {
		return nil, err
	}
	ready := filepath.Join(dir, "ready.json")
	i := &installation{cmd: exec.Command(filepath.Join(b.dir, "spillway"), "dev", "--data-dir", dir, "--port-base", "0", "--ready-file", ready, "--log-level", "WARN")}
	i.cmd.Stderr = os.Stderr
	if err := i.cmd.Start(); err != nil {
		return nil, err
	}
	for range 600 {
		if text, err := os.ReadFile(ready); err == nil {
			return i, i.open(text)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return i, errors.New("spillway dev is not ready after 30 s")
}

func (i *installation) open(ready []byte) (err error) {
	if err = json.Unmarshal(ready, &i.File); err != nil {
		return err
	}
	if i.signer, err = rpc.OpenSigner(filepath.Join(i.File.DataDir, "keys")); err != nil {
		return err
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	parts := strings.Split(i.File.Tokens.Subscriber, ".")
	if len(parts) != 3 {
		return errors.New("dev.json has no subscriber's token")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(body, &claims) != nil {
		return errors.New("the subscriber's token of dev.json is none")
	}
	i.issuer = claims.Issuer
	dial := func(address, token string) *grpc.ClientConn {
		conn, failed := rpc.Dial(address, rpc.DialConfig{Token: token})
		if failed != nil {
			err = errors.Join(err, failed)
			return nil
		}
		i.conns = append(i.conns, conn)
		return conn
	}
	automation, notifier := dial(i.File.Endpoints.Automation, i.File.Tokens.Operator), dial(i.File.Endpoints.Notifier, i.File.Tokens.Service)
	if err != nil {
		return err
	}
	i.publish = notifierv1.NewNotifierServiceClient(notifier)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = automationv1.NewSourceAdminServiceClient(automation).RegisterSource(ctx, &automationv1.RegisterSourceRequest{
		Reason: "bench", Source: &automationv1.Source{Name: benchSource, Types: []string{"bench"}, Owner: "bench", Principals: []string{"*"}},
	}, grpc.WaitForReady(true))
	return err
}

func (i *installation) stop() {
	for _, c := range i.conns {
		_ = c.Close()
	}
	_ = i.cmd.Process.Signal(os.Interrupt)
	_ = i.cmd.Wait()
}

// send publishes at a rate that waits for nobody; the data begins with the moment at which it should have been sent.
func (i *installation) send(ctx context.Context, rate int, d time.Duration) error {
	var calls sync.WaitGroup
	var mu sync.Mutex
	var failed error
	begun := time.Now()
	for n := range int(float64(rate) * d.Seconds()) {
		due := begun.Add(time.Duration(n) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		data := fmt.Sprintf(`"%d|%s"`, due.UnixNano(), strings.Repeat("x", 256+(n*389)%(1024-256+1)-24))
		calls.Go(func() {
			_, err := i.publish.Publish(ctx, &notifierv1.PublishRequest{
				Channel: benchChannel, Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Data: []byte(data), Source: benchSource, Tenant: benchTenant,
			})
			if err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		})
	}
	calls.Wait()
	return failed
}

// crowd is websocket clients of a run. Some of them never read after their hello was answered.
type crowd struct {
	conns   []net.Conn
	readers sync.WaitGroup
	mu      sync.Mutex
	ages    []time.Duration
	gaps    int
}

func (i *installation) crowd(clients, stalled int) (*crowd, error) {
	c := &crowd{}
	for n := range clients {
		user := fmt.Sprintf("u%d", n/userSessions)
		token, err := i.signer.SignSubscriber(rpc.SubscriberClaims{
			Issuer: i.issuer, Subject: user, Tenant: benchTenant, Channels: []string{benchChannel}, TTL: 10 * time.Minute,
		}, time.Now())
		if err == nil {
			err = c.join(i.File.Endpoints.Websocket, token, n < stalled)
		}
		if err != nil {
			c.leave()
			return nil, fmt.Errorf("client %d: %w", n, err)
		}
	}
	return c, nil
}

// join connects by hand: a client costs a buffer of 4 KiB, so that thousands fit beside what is measured.
func (c *crowd) join(endpoint, token string, stalls bool) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", u.Host, 5*time.Second)
	if err != nil {
		return err
	}
	c.conns = append(c.conns, conn)
	if stalls {
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10) // full soon
	}
	var key [16]byte
	rand.Read(key[:]) // never fails
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
		u.Path, u.Host, base64.StdEncoding.EncodeToString(key[:]), subscriber.Subprotocol)
	in := bufio.NewReaderSize(conn, 4<<10)
	answer, err := http.ReadResponse(in, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("handshake: %v, %w", answer, err)
	}
	hello := subscriber.Encode(subscriber.Request{T: "hello", Auth: token, Channels: []string{benchChannel}})
	frame := append([]byte{0x81, 0x80 | 126}, binary.BigEndian.AppendUint16(nil, uint16(len(hello)))...) // a token has more than 125 bytes
	if _, err := conn.Write(append(append(frame, 0, 0, 0, 0), hello...)); err != nil {
		return err
	}
	for {
		payload, err := message(in)
		if err != nil {
			return err
		}
		if bytes.Contains(payload, []byte(`"t":"sub"`)) {
			if !bytes.Contains(payload, []byte(`"ok":true`)) {
				return fmt.Errorf("refused: %s", payload)
			}
			break
		}
	}
	_ = conn.SetDeadline(time.Time{})
	if !stalls {
		c.readers.Go(func() { c.read(in) })
	}
	return nil
}

// message reads one frame. The slice is the reader's where it fits.
func message(in *bufio.Reader) ([]byte, error) {
	head, err := in.Peek(4)
	if err != nil {
		return nil, err
	}
	skip, size := 2, int(head[1])
	switch size {
	case 126:
		skip, size = 4, int(binary.BigEndian.Uint16(head[2:]))
	case 127:
		return nil, errors.New("a frame of more than 64 KiB")
	}
	if head[0] != 0x81 {
		return nil, io.EOF
	}
	payload := make([]byte, size)
	_, _ = in.Discard(skip)
	_, err = io.ReadFull(in, payload)
	return payload, err
}

func (c *crowd) read(in *bufio.Reader) {
	var ages []time.Duration
	gaps := 0
	for {
		payload, err := message(in)
		if err != nil {
			break
		}
		now := time.Now()
		if _, data, ok := bytes.Cut(payload, []byte(`"data":"`)); ok {
			text, _, _ := bytes.Cut(data, []byte("|"))
			if due, err := strconv.ParseInt(string(text), 10, 64); err == nil {
				ages = append(ages, now.Sub(time.Unix(0, due)))
			}
		} else if bytes.Contains(payload, []byte(`"t":"gap"`)) {
			gaps++
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ages, c.gaps = append(c.ages, ages...), c.gaps+gaps
}

func (c *crowd) leave() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.readers.Wait()
}

// use is the memory of the notifier, in bytes: what is resident, and what the last collection of its heap found alive, which is half of where the next
// one begins (GOGC is 100; the ceiling is far).
// slow is how often a session fell behind since the process began.
type use struct{ resident, alive, slow float64 }

func (i *installation) use() (use, error) {
	var u use
	for _, p := range i.File.Processes {
		if !strings.HasPrefix(p.Name, "notifier") {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
		if err != nil {
			return u, err
		}
		_, after, _ := strings.Cut(string(text), "VmRSS:")
		var kib float64
		if _, err := fmt.Sscan(after, &kib); err != nil {
			return u, err
		}
		u.resident = kib * 1024
	}
	answer, err := http.Get(i.File.Admin.Notifier + "/metrics")
	if err != nil {
		return u, err
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "go_memstats_next_gc_bytes "); ok {
			u.alive, err = strconv.ParseFloat(value, 64)
			u.alive /= 2
		} else if strings.HasPrefix(lines.Text(), "spillway_notifier_slow_total") {
			u.slow, err = strconv.ParseFloat(lines.Text()[strings.LastIndexByte(lines.Text(), ' ')+1:], 64)
		}
	}
	return u, errors.Join(err, lines.Err())
}

// stalled measures what readers who stop reading cost the others and the notifier.
func (b *bench) stalled(runs int) error {
	i, err := b.install()
	if i != nil {
		defer i.stop()
	}
	if err != nil {
		return err
	}
	ctx := context.Background()
	fmt.Printf("%d cores, %s, %s, %d pairs, %s\n\n", runtime.NumCPU(), runtime.Version(), b.log(), runs, time.Now().UTC().Format(time.DateOnly))
	var p50s, p99s [2][]float64
	var ratio []float64
	for range runs + 1 { // the first pair warms up
		for side, stalled := range []int{0, 10} {
			c, err := i.crowd(100, stalled)
			if err != nil {
				return err
			}
			err = i.send(ctx, 200, 10*time.Second)
			time.Sleep(300 * time.Millisecond)
			c.leave()
			if err != nil {
				return err
			}
			if want := (100 - stalled) * 2000; len(c.ages) != want || c.gaps > 0 {
				return fmt.Errorf("the healthy got %d of %d and %d gaps", len(c.ages), want, c.gaps)
			}
			slices.Sort(c.ages)
			at := func(q float64) float64 {
				return float64(c.ages[int(q*float64(len(c.ages)-1))].Microseconds()) / 1000
			}
			p50s[side], p99s[side] = append(p50s[side], at(.5)), append(p99s[side], at(.99))
		}
		ratio = append(ratio, p99s[1][len(p99s[1])-1]/p99s[0][len(p99s[0])-1])
	}
	fmt.Println("100 clients of one channel, 200 messages/s of 256 to 1,024 bytes for 10 s, from when each was due until a client has read it:")
	fmt.Printf("\n| | p50 | p99 |\n|---|---|---|\n| all read | %s ms | %s ms |\n| 10 stopped, the others | %s ms | %s ms |\n\np99 with over p99 without: %s\n\n",
		show(p50s[0][1:]), show(p99s[0][1:]), show(p50s[1][1:]), show(p99s[1][1:]), show(ratio[1:]))

	var resident, heap [2][]float64
	var more, moreHeap []float64
	for n := range runs + 1 {
		for side, stalled := range []int{0, 1000} {
			c, err := i.crowd(2000, stalled)
			if err != nil {
				return err
			}
			before, err := i.use()
			if err != nil {
				return err
			}
			sent := make(chan error, 1)
			go func() { sent <- i.send(ctx, 25, 14*time.Second) }()
			time.Sleep(8500 * time.Millisecond) // until their sockets are full
			var rss, alive []float64
			var now use
			for range 20 {
				if now, err = i.use(); err != nil {
					return err
				}
				rss, alive = append(rss, now.resident), append(alive, now.alive)
				time.Sleep(250 * time.Millisecond)
			}
			err = <-sent
			c.leave()
			time.Sleep(time.Second) // until the notifier has seen them go
			if err != nil {
				return err
			}
			if fell := now.slow - before.slow; fell < float64(stalled) {
				return fmt.Errorf("%.0f sessions fell behind, %d were to", fell, stalled)
			}
			if n == 0 {
				continue
			}
			slices.Sort(rss)
			slices.Sort(alive)
			resident[side], heap[side] = append(resident[side], rss[len(rss)/2]/(1<<20)), append(heap[side], alive[len(alive)/2]/(1<<20))
		}
		if n > 0 {
			last := len(resident[0]) - 1
			more = append(more, (resident[1][last]-resident[0][last])*1024/1000)
			moreHeap = append(moreHeap, (heap[1][last]-heap[0][last])*1024/1000)
		}
	}
	fmt.Printf("2,000 clients of one channel, 25 messages/s; the notifier's process alone, which holds no client:\n\n| | resident | heap alive |\n|---|---|---|\n")
	fmt.Printf("| all read | %s MiB | %s MiB |\n| 1,000 stopped | %s MiB | %s MiB |\n| more for each that stopped | %s KiB | %s KiB |\n",
		show(resident[0]), show(heap[0]), show(resident[1]), show(heap[1]), show(more), show(moreHeap))
	return nil
}
