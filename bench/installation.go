package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

const (
	benchTenant  = "bench"
	benchChannel = "tenant:bench"
	benchSource  = "bench"

	pollEvery = 20 * time.Millisecond
	readyTime = 60 * time.Second // on a machine that is busy
	stopTime  = 60 * time.Second // longer than dev's own budget for all its services
)

// installation is a running `spillway dev`.
type installation struct {
	bin   string
	cmd   *exec.Cmd
	gone  chan struct{} // closed when it has ended
	end   func()        // of its cluster; nil: it has the embedded broker
	conns []*grpc.ClientConn
	File  devFile

	sources automationv1.SourceAdminServiceClient
	publish notifierv1.NotifierServiceClient // nil without a notifier
	signer  *rpc.Signer
	issuer  string
}

// devFile is what is used of dev.json.
type devFile struct {
	DataDir    string `json:"data_dir"`
	Prefix     string `json:"prefix"`
	MACKeyFile string `json:"mac_key_file"`
	TokenKeys  string `json:"token_keys"`
	Broker     struct{ Address string }
	Endpoints  struct {
		Enqueue, Notifier, Automation, Websocket string
		Scheduler                                []string
	}
	Admin     struct{ Notifier string }
	Processes []struct {
		Name          string
		PID, Restarts int
	}
	Tokens struct{ Operator, Worker, Service, Subscriber string }
}

// install starts one in the benchmark's directory, with more flags if wanted. It is to be stopped whatever the error, if there is one.
func (b *bench) install(flags ...string) (*installation, error) {
	dir, err := os.MkdirTemp(b.dir, "dev-")
	if err != nil {
		return nil, err
	}
	ready := filepath.Join(dir, "ready.json")
	i := &installation{bin: filepath.Join(b.dir, "spillway"), gone: make(chan struct{})}
	args := append([]string{"dev", "--data-dir", dir, "--port-base", "0", "--ready-file", ready, "--log-level", "WARN"}, flags...)
	if b.brokers > 0 {
		addresses, end, err := b.kafka()
		if err != nil {
			return nil, err
		}
		i.end = end
		args = append(args, "--kafka", addresses)
	}
	i.cmd = exec.Command(i.bin, args...)
	i.cmd.Stderr = os.Stderr
	if err := i.cmd.Start(); err != nil {
		if i.end != nil {
			i.end()
		}
		return nil, err
	}
	go func() {
		_ = i.cmd.Wait()
		close(i.gone)
	}()
	err = until(context.Background(), readyTime, "spillway dev is ready", func() (bool, error) {
		select {
		case <-i.gone:
			return false, errors.New("spillway dev has ended")
		default:
		}
		_, err := os.Stat(ready)
		return err == nil, nil
	})
	if err != nil {
		return i, err
	}
	text, err := os.ReadFile(ready)
	if err != nil {
		return i, err
	}
	return i, i.open(text)
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
	parts := strings.Split(i.File.Tokens.Service, ".")
	if len(parts) != 3 {
		return errors.New("dev.json has no token")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(body, &claims) != nil {
		return errors.New("the token of dev.json is none")
	}
	i.issuer = claims.Issuer
	automation, err := i.dial(i.File.Endpoints.Automation, i.File.Tokens.Operator)
	if err != nil {
		return err
	}
	i.sources = automationv1.NewSourceAdminServiceClient(automation)
	if i.File.Endpoints.Notifier != "" {
		notifier, err := i.dial(i.File.Endpoints.Notifier, i.File.Tokens.Service)
		if err != nil {
			return err
		}
		i.publish = notifierv1.NewNotifierServiceClient(notifier)
	}
	return nil
}

func (i *installation) dial(address, token string) (*grpc.ClientConn, error) {
	conn, err := rpc.Dial(address, rpc.DialConfig{Token: token})
	if err == nil {
		i.conns = append(i.conns, conn)
	}
	return conn, err
}

// register makes a source; a quota of nil is the one that sources get by default.
func (i *installation) register(name string, quota *automationv1.Quota, types ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := i.sources.RegisterSource(ctx, &automationv1.RegisterSourceRequest{
		Reason: "bench", Source: &automationv1.Source{Name: name, Types: types, Owner: "bench", Principals: []string{"*"}, Quota: quota},
	}, grpc.WaitForReady(true))
	return err
}

func (i *installation) stop() {
	for _, c := range i.conns {
		_ = c.Close()
	}
	end(i.cmd, i.gone, os.Interrupt)
	if i.end != nil {
		i.end()
	}
}

// end asks a process to stop, and kills it when it takes too long.
func end(cmd *exec.Cmd, gone <-chan struct{}, how os.Signal) {
	_ = cmd.Process.Signal(how)
	select {
	case <-gone:
	case <-time.After(stopTime):
		_ = cmd.Process.Kill()
		<-gone
	}
}

// intact says what is wrong with an installation whose figures are to count: a process that was started again, a job that was lost, or one of
// those sent that has not succeeded; sent below 0: it does not matter how many have.
func (i *installation) intact(sent int) error {
	text, err := os.ReadFile(filepath.Join(i.File.DataDir, "dev.json"))
	if err != nil {
		return err
	}
	var now devFile
	if err := json.Unmarshal(text, &now); err != nil {
		return err
	}
	for _, p := range now.Processes {
		if p.Restarts > 0 {
			return fmt.Errorf("%s was started again %d times", p.Name, p.Restarts)
		}
	}
	// What has ended a moment ago may not be in the logs yet.
	var wrong error
	err = until(context.Background(), time.Minute, "the ledger adds up", func() (bool, error) {
		var failed error
		wrong, failed = i.ledger(sent)
		return wrong == nil, failed
	})
	if wrong != nil {
		return wrong
	}
	return err
}

// ledger has the product count its logs. wrong says what does not add up.
func (i *installation) ledger(sent int) (wrong, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, i.bin, "ledger", "--data-dir", i.File.DataDir, "-o", "json").Output()
	var book struct{ Accepted, Succeeded, Difference int }
	if json.Unmarshal(out, &book) != nil { // it also fails, with an account, when that does not add up
		return nil, fmt.Errorf("ledger: %w: %s", err, out)
	}
	if book.Difference != 0 {
		return fmt.Errorf("%d jobs were lost", book.Difference), nil
	}
	if sent >= 0 && (book.Accepted != sent || book.Succeeded != sent) {
		return fmt.Errorf("%d jobs were sent, %d accepted, and %d succeeded", sent, book.Accepted, book.Succeeded), nil
	}
	return nil, nil
}

// pid is that of the first process whose name begins so.
func (i *installation) pid(name string) int {
	for _, p := range i.File.Processes {
		if strings.HasPrefix(p.Name, name) {
			return p.PID
		}
	}
	return 0
}

// memory reads a line of a process's account, such as VmRSS, in bytes.
func memory(pid int, line string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), line+":")
	var kib float64
	_, err = fmt.Sscan(after, &kib)
	return kib * 1024, err
}

// peak is the highest resident memory of a process since its start or forget, in MiB.
func peak(pid int) (float64, error) {
	bytes, err := memory(pid, "VmHWM")
	return bytes / (1 << 20), err
}

// cpuTime is what a process has used of all cores. The kernel counts hundredths of a second.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold spaces: user and system time are the 12th and 13th field after it.
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// forget begins the peak of a process's memory anew: 5 is the kernel's word for it.
func forget(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// metrics adds up, by name, what the notifier counts.
func (i *installation) metrics() (map[string]float64, error) {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get(i.File.Admin.Notifier + "/metrics")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	sums := make(map[string]float64)
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		text := lines.Text()
		at := strings.LastIndexByte(text, ' ')
		if at < 0 || text[0] == '#' {
			continue
		}
		if value, err := strconv.ParseFloat(text[at+1:], 64); err == nil {
			name, _, _ := strings.Cut(text[:at], "{")
			sums[name] += value
		}
	}
	return sums, lines.Err()
}

// until looks again and again whether ok holds, which may say that it never will.
func until(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if yes, err := ok(); err != nil || yes {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %s: %w", limit, what, ctx.Err())
		case <-tick.C:
		}
	}
}
