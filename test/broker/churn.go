package broker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
)

// The measure of the churn suite.
const (
	churnShards = 6
	// churnEvery is the time between two events, churnFor how long they go on.
	churnEvery, churnFor = 2500 * time.Millisecond, 35 * time.Second
	// churnRate is what the producer offers, in records a second. A member's
	// workers can do about half as much again (16 at 10 ms each).
	churnRate = 1000
	// churnSettle bounds finishing what is left once events have stopped: the
	// session of a member killed last, and the backlog it left.
	churnSettle = 25 * time.Second
	// maxDuplicates is the bound on records settled more than once.
	maxDuplicates = 0.01
)

// Member is what a member process is told.
type Member struct {
	Name      string
	Addresses []string
	Prefix    string
	// Effects is the file to which the member appends one line for each record
	// it settles: the record's value.
	Effects string
}

// Process is a running member.
type Process interface {
	Signal(os.Signal) error
	// Wait returns when the process has ended; nil means exit status 0.
	Wait() error
}

// churn is one run of Churn.
type churn struct {
	t       *testing.T
	target  Target
	layout  kafka.Layout
	dir     string
	spawn   func(Member) (Process, error)
	members []*running // the living ones, the oldest first
	names   int
	joined  int
	stopped int
	killed  int
	slowest time.Duration // orderly stop
}

type running struct {
	Member
	process Process
}

// Churn runs members while records are written, and every churnEvery kills one,
// stops one in order or starts one. spawn starts a member process. Every
// acknowledged record must be settled, and hardly any more than once.
func Churn(t *testing.T, target Target, spawn func(Member) (Process, error)) {
	c := &churn{t: t, target: target, layout: target.layout(churnShards), dir: t.TempDir(), spawn: spawn}
	target.install(t, c.layout)
	t.Cleanup(func() {
		for _, m := range c.members {
			_ = m.process.Signal(syscall.SIGKILL)
			_ = m.process.Wait()
		}
	})
	for range 3 {
		c.join()
	}

	client := target.client(t, "producer", c.layout.Scheduled()...)
	producer := produce.New(client, produce.Config{MaxBytes: 16 << 20, Deadline: 20 * time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- producer.Run(ctx) }()
	var acked, failed atomic.Int64
	events := make(chan struct{})
	go func() {
		defer close(events)
		c.events(time.Now().Add(churnFor))
	}()
	began, sent := time.Now(), 0
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		for due := int(time.Since(began).Seconds() * churnRate); sent < due; sent++ {
			topic := churnTopics(c.layout.Topics)[sent%3]
			record := produce.Record{Topic: topic, Partition: sent / 3 % churnShards, Value: strconv.AppendInt(nil, int64(sent), 10)}
			err := producer.Send(record, func(_ int64, err error) {
				if err != nil {
					failed.Add(1)
				} else {
					acked.Add(1)
				}
			})
			if err != nil {
				t.Fatalf("record %d: %v", sent, err)
			}
		}
		select {
		case <-tick.C:
		case <-events:
			running = false
		}
	}
	if err := producer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("producer: %v", err)
	}
	if t.Failed() {
		return
	}

	// Everything must come to be settled; then members stop in order.
	settledIn := time.Now()
	var settled map[int]int
	for deadline := time.Now().Add(churnSettle); ; time.Sleep(200 * time.Millisecond) {
		if settled = c.effects(); len(settled) == sent || time.Now().After(deadline) {
			break
		}
	}
	took := time.Since(settledIn)
	for len(c.members) > 0 {
		c.leave()
	}
	c.report(sent, int(failed.Load()), took)
}

func churnTopics(topics kafka.Topics) []string {
	return []string{topics.Jobs("high"), topics.Jobs("default"), topics.Jobs("low")}
}

// events goes round kill, join, stop, join until the deadline.
func (c *churn) events(until time.Time) {
	tick := time.NewTicker(churnEvery)
	defer tick.Stop()
	for event := 0; ; event++ {
		<-tick.C
		if time.Now().After(until) || c.t.Failed() {
			return
		}
		switch event % 4 {
		case 0:
			c.kill()
		case 2:
			c.leave()
		default:
			c.join()
		}
	}
}

func (c *churn) join() {
	c.names++
	m := Member{
		Name: fmt.Sprintf("member-%02d", c.names), Addresses: c.target.Addresses, Prefix: c.layout.Prefix,
		Effects: filepath.Join(c.dir, fmt.Sprintf("%02d.effects", c.names)),
	}
	process, err := c.spawn(m)
	if err != nil {
		c.t.Errorf("start %s: %v", m.Name, err)
		return
	}
	c.members = append(c.members, &running{m, process})
	c.joined++
}

// kill takes the youngest but one: neither always the leader, nor one that has
// only begun to join.
func (c *churn) kill() {
	i := max(0, len(c.members)-2)
	m := c.members[i]
	c.members = append(c.members[:i], c.members[i+1:]...)
	_ = m.process.Signal(syscall.SIGKILL)
	_ = m.process.Wait()
	c.killed++
}

// leave stops the oldest in order.
func (c *churn) leave() {
	m := c.members[0]
	c.members = c.members[1:]
	began := time.Now()
	if err := m.process.Signal(syscall.SIGTERM); err != nil {
		c.t.Errorf("stop %s: %v", m.Name, err)
	}
	if err := m.process.Wait(); err != nil {
		c.t.Errorf("%s ended with %v", m.Name, err)
	}
	c.slowest = max(c.slowest, time.Since(began))
	c.stopped++
}

// effects counts how often each record was settled, over all members.
func (c *churn) effects() map[int]int {
	count := make(map[int]int)
	files, err := filepath.Glob(filepath.Join(c.dir, "*.effects"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			c.t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			id, err := strconv.Atoi(lines.Text())
			if err == nil { // a line cut off by a kill is no effect
				count[id]++
			}
		}
		f.Close()
	}
	return count
}

// report judges the run and prints the table.
func (c *churn) report(sent, failed int, settledIn time.Duration) {
	t := c.t
	settled := c.effects()
	lost, again := 0, 0
	for id := range sent {
		switch n := settled[id]; {
		case n == 0:
			lost++
		case n > 1:
			again += n - 1
		}
	}
	var lag int64
	client := c.target.client(t, "report", c.layout.Scheduled()...)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	partitions := kafka.Owned(0, 1, churnShards)
	for _, topic := range churnTopics(c.layout.Topics) {
		ends, err := client.Ends(ctx, topic, partitions)
		if err != nil {
			t.Fatal(err)
		}
		commits, err := client.Committed(ctx, c.layout.Group(), topic, partitions)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range partitions {
			lag += ends[p].Next - commits[p].Offset
		}
	}
	generations, slowest := c.logs()
	duplicates := float64(again) / float64(sent)
	var b strings.Builder
	for _, row := range []struct {
		name  string
		value any
	}{
		{"members joined / stopped / killed", fmt.Sprintf("%d / %d / %d", c.joined, c.stopped, c.killed)},
		{"generations, over all members", generations},
		{"records acknowledged", sent - failed},
		{"lost", lost},
		{"settled again", fmt.Sprintf("%d (%.2f %%)", again, 100*duplicates)},
		{"committed lag at the end", lag},
		{"slowest drain / orderly stop", fmt.Sprintf("%s / %s", slowest.Round(time.Millisecond), c.slowest.Round(time.Millisecond))},
		{"all settled after the last event", settledIn.Round(time.Millisecond)},
	} {
		fmt.Fprintf(&b, "\n  %-36s %v", row.name, row.value)
	}
	t.Log(b.String())
	if failed > 0 || lost > 0 {
		t.Errorf("%d records were not acknowledged, %d were lost", failed, lost)
	}
	if duplicates > maxDuplicates {
		t.Errorf("%.2f %% were settled again, more than %.0f %%", 100*duplicates, 100*maxDuplicates)
	}
	if lag != 0 {
		t.Errorf("%d settled records are not in the commits", lag)
	}
	if slowest > 2*time.Second {
		t.Errorf("a drain took %s", slowest)
	}
}

// logs reads what the members logged: how many generations there were, and the
// slowest drain of one.
func (c *churn) logs() (generations int, slowest time.Duration) {
	files, err := filepath.Glob(filepath.Join(c.dir, "*.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			c.t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var line struct {
				Msg     string        `json:"msg"`
				Level   string        `json:"level"`
				Drained time.Duration `json:"drained_in"`
			}
			if json.Unmarshal(lines.Bytes(), &line) != nil {
				continue
			}
			if line.Msg == "generation began" {
				generations++
			}
			if line.Level == "ERROR" {
				c.t.Errorf("%s: %s", filepath.Base(name), lines.Text())
			}
			slowest = max(slowest, line.Drained)
		}
		f.Close()
	}
	return generations, slowest
}
