package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// notifier is one that the benchmark starts itself, so that it is gone for as long as it is wanted gone.
type notifier struct {
	i                *installation
	grpc, admin, web string
	cmd              *exec.Cmd
	gone             chan struct{}
}

// newNotifier finds addresses for one; they are kept when it starts again.
func (i *installation) newNotifier() (*notifier, error) {
	n := &notifier{i: i}
	for _, to := range []*string{&n.grpc, &n.admin, &n.web} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		*to = l.Addr().String()
	}
	return n, nil
}

func (n *notifier) websocket() string { return "ws://" + n.web + "/v1/ws" }

// start starts it as dev would and waits until it is ready.
func (n *notifier) start(ctx context.Context) error {
	f := n.i.File
	durability := "single"
	if strings.Count(f.Broker.Address, ",") >= 2 { // three brokers, as dev decides
		durability = "replicated"
	}
	cmd := exec.Command(n.i.bin, "serve", "notifier", "--until-stdin-closes")
	cmd.Env = append(os.Environ(),
		"SPILLWAY_KAFKA="+f.Broker.Address, "SPILLWAY_PREFIX="+f.Prefix, "SPILLWAY_DURABILITY="+durability,
		"SPILLWAY_LISTEN="+n.grpc, "SPILLWAY_ADMIN_LISTEN="+n.admin, "SPILLWAY_NOTIFIER_LISTEN="+n.web, "SPILLWAY_REPLICA=notifier",
		"SPILLWAY_TOKEN_KEYS="+f.TokenKeys, "SPILLWAY_MAC_KEY_FILE="+f.MACKeyFile, "SPILLWAY_METRICS=true", "SPILLWAY_LOG_LEVEL=WARN",
		"SPILLWAY_NOTIFIER_SCHEDULERS="+strings.Join(f.Endpoints.Scheduler, ","),
		"SPILLWAY_NOTIFIER_WORKER_TOKEN_FILE="+filepath.Join(filepath.Dir(f.MACKeyFile), "worker.token"),
		"GOMEMLIMIT=270MiB")
	if runtime.NumCPU() <= 2 {
		cmd.Env = append(cmd.Env, "GOMAXPROCS=1")
	}
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // it ends when the benchmark does
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	n.cmd, n.gone = cmd, gone
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	probe := http.Client{Timeout: time.Second}
	return until(ctx, readyTime, "the notifier is ready", func() (bool, error) {
		select {
		case <-gone:
			return false, errors.New("the notifier has ended")
		default:
		}
		answer, err := probe.Get("http://" + n.admin + "/readyz")
		if err != nil {
			return false, nil
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK, nil
	})
}

// kill ends it as a crash does.
func (n *notifier) kill() { end(n.cmd, n.gone, os.Kill) }

func (n *notifier) stop() {
	if n.cmd != nil {
		end(n.cmd, n.gone, os.Interrupt)
	}
}
