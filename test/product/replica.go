package product

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Replica is one more service process of a dev's installation. Nobody but the
// test starts it again.
type Replica struct {
	*Process
	// Name is the replica's name, GRPC its address, host:port, and Admin the
	// base URL of its admin listener. All are kept when it is started again.
	Name, GRPC, Admin string
	// Websocket is where a notifier's subscribers connect, a URL; "" for other services.
	Websocket string

	dev     *Dev
	service string
	env     []string
}

// readyLimit is how long a service may take to be ready after its start: it folds
// the control log and, as a scheduler, joins its group, which takes a session of
// 6 s when a member has died.
const readyLimit = 30 * time.Second

// Serve starts `spillway serve <service>` against the dev's installation, under
// a replica name and on ports of its own, and returns without waiting until it is
// ready. env adds settings, NAME=VALUE, or overrides them.
func (d *Dev) Serve(service, name string, env ...string) *Replica {
	d.t.Helper()
	r := &Replica{Name: name, GRPC: FreeAddress(d.t), Admin: "http://" + FreeAddress(d.t), dev: d, service: service, env: env}
	if service == "notifier" {
		r.Websocket = "ws://" + FreeAddress(d.t) + "/v1/ws"
	}
	r.Start()
	return r
}

// Start starts the replica again after it has ended, as the same replica at the
// same addresses.
func (r *Replica) Start() {
	t := r.dev.t
	t.Helper()
	if r.Process != nil && !r.Ended() {
		t.Fatalf("%s is still running", r.Name)
	}
	f := r.dev.File()
	cmd := exec.Command(Binary(t), "serve", r.service, "--until-stdin-closes")
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "SPILLWAY_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	for name, value := range map[string]string{
		"": f.Broker.Address, "_CA_FILE": f.Broker.CAFile, "_CERT_FILE": f.Broker.CertFile, "_KEY_FILE": f.Broker.KeyFile,
		"_SASL": f.Broker.SASL, "_USER": f.Broker.User, "_PASSWORD_FILE": f.Broker.PasswordFile,
	} {
		if value != "" {
			cmd.Env = append(cmd.Env, "SPILLWAY_KAFKA"+name+"="+value)
		}
	}
	if f.Broker.TLS {
		cmd.Env = append(cmd.Env, "SPILLWAY_KAFKA_TLS=on")
	}
	durability := "single"
	if strings.Count(f.Broker.Address, ",") >= 2 { // three brokers, as dev decides
		durability = "replicated"
	}
	cmd.Env = append(cmd.Env,
		"SPILLWAY_PREFIX="+f.Prefix,
		"SPILLWAY_LISTEN="+r.GRPC,
		"SPILLWAY_ADMIN_LISTEN="+strings.TrimPrefix(r.Admin, "http://"),
		"SPILLWAY_REPLICA="+r.Name,
		"SPILLWAY_TOKEN_KEYS="+f.TokenKeys,
		"SPILLWAY_MAC_KEY_FILE="+f.MACKeyFile,
		"SPILLWAY_DURABILITY="+durability,
		"SPILLWAY_METRICS=true",
		"GOMAXPROCS=1", // as dev's children on few cores
	)
	if r.Websocket != "" {
		web, _ := strings.CutSuffix(strings.TrimPrefix(r.Websocket, "ws://"), "/v1/ws")
		cmd.Env = append(cmd.Env,
			"SPILLWAY_NOTIFIER_LISTEN="+web,
			"SPILLWAY_NOTIFIER_SCHEDULERS="+strings.Join(f.Endpoints.Scheduler, ","),
			"SPILLWAY_NOTIFIER_WORKER_TOKEN_FILE="+filepath.Join(filepath.Dir(f.MACKeyFile), "worker.token"))
	}
	cmd.Env = append(cmd.Env, r.env...)
	r.Process = Launch(t, r.Name, cmd, true, nil)
}

// AwaitReady waits until the replica says that it is ready.
func (r *Replica) AwaitReady() {
	r.dev.t.Helper()
	awaitReady(r.dev.t, readyLimit, r.Name, r.Admin)
}

func awaitReady(t testing.TB, limit time.Duration, name, admin string) {
	t.Helper()
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	Until(t, limit, name+" is ready", func() bool {
		resp, err := client.Get(admin + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// FreeAddress is a loopback address that nobody uses now. It may be taken before
// it is used; the replica then says so and ends.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
