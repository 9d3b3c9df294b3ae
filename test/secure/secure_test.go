package secure

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/rights"
	"github.com/spillway/spillway/pkg/kafka/rights/rightstest"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/worker"
	"github.com/spillway/spillway/test/apache"
	"github.com/spillway/spillway/test/product"
)

const (
	// readyLimit is how long a service may take on a busy machine: it logs in,
	// folds the control log and, as a scheduler, joins its group.
	readyLimit = time.Minute
	// jobsLimit is how long a few jobs may take from end to end.
	jobsLimit = 30 * time.Second
	prefix    = "secure."
	// quiet is how many lines a service may log that cannot get in, in its first
	// seconds: a few for each of its clients.
	quiet = 20
)

// site is an installation on a cluster that wants TLS, logins and rights, with
// nothing running.
type site struct {
	t       *testing.T
	cluster *apache.Cluster
	brokers string
	dir     string
}

// build starts the cluster, makes users and keys, and installs as its
// administrator, twice: with rights for everybody but the guest.
func build(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, cluster: apache.Start(t, apache.Config{Brokers: 1, Secure: true}), dir: t.TempDir()}
	s.brokers = strings.Join(s.cluster.Addresses(), ",")
	user, password := s.cluster.Admin()
	s.keep(user, password)
	for _, user := range []string{"spillway-enqueue", "spillway-scheduler", "spillway-automation", "spillway-notifier", "spillway-operator", "guest"} {
		s.cluster.AddUser(user, "password of "+user)
		s.keep(user, "password of "+user)
	}
	s.command(0, "", nil, "keys", "make", "--signing-dir", s.path("signing"), "--service-dir", s.path("keys"))
	var before string
	for range 2 {
		out := s.command(0, "", s.as(user), "install", "--mac-key-file", s.path("keys", "mac.key"), "--prefix", prefix,
			"--partitions", "4", "--lanes", "2", "--durability", "single", "--acls", "-o", "json")
		if before != "" && out != before {
			t.Errorf("installed again: %s, before: %s", out, before)
		}
		before = out
	}
	t.Logf("installed: %s", strings.TrimSpace(before))
	s.command(0, "", s.as("spillway-operator"), "keys", "tokens", "--signing-dir", s.path("signing"), "--prefix", prefix,
		"--mac-key-file", s.path("keys", "mac.key"),
		"--token", "operator:read,operate,admin:"+s.path("operator.token"),
		"--token", "worker:worker:"+s.path("worker.token"), "--token", "caller:enqueue:"+s.path("caller.token"))
	return s
}

func (s *site) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// keep writes a password file.
func (s *site) keep(user, password string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(user+".password"), []byte(password+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// as is how a user reaches the cluster.
func (s *site) as(user string) []string {
	return []string{
		"SPILLWAY_KAFKA=" + s.brokers, "SPILLWAY_KAFKA_TLS=on", "SPILLWAY_KAFKA_CA_FILE=" + s.cluster.CAFile(),
		"SPILLWAY_KAFKA_SASL=SCRAM-SHA-512", "SPILLWAY_KAFKA_USER=" + user, "SPILLWAY_KAFKA_PASSWORD_FILE=" + s.path(user+".password"),
	}
}

// client is a client of a user's own, with no service around it.
func (s *site) client(user string) *kafka.Client {
	s.t.Helper()
	password, err := os.ReadFile(s.path(user + ".password"))
	if err != nil {
		s.t.Fatal(err)
	}
	ca, err := os.ReadFile(s.cluster.CAFile())
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c, err := kafka.New(kafka.Config{Addresses: s.cluster.Addresses(), ClientID: user, Security: kafka.Security{
		TLS: &tls.Config{RootCAs: roots}, Mechanism: kafka.ScramSHA512, User: user,
		Password: config.NewSecret(strings.TrimSpace(string(password))),
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// process describes a process in an environment without settings but env; of a
// variable that is there twice, the last counts.
func (s *site) process(env []string, args ...string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(product.Binary(s.t), args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "SPILLWAY_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// command runs a command to its end. It has to end with code, within
// answerLimit, and to say something.
func (s *site) command(code int, says string, env []string, args ...string) string {
	s.t.Helper()
	var out strings.Builder
	began := time.Now()
	p := product.Launch(s.t, strings.Join(args[:min(2, len(args))], " "), s.process(env, args...), false, &out)
	p.Await(answerLimit)
	if p.ExitCode() != code || !strings.Contains(out.String()+p.Said(), says) {
		s.t.Fatalf("spillway %s ended with %d after %v, want %d and %q:\n%s%s", strings.Join(args, " "), p.ExitCode(), time.Since(began), code, says, out.String(), p.Said())
	}
	if code != 0 {
		s.t.Logf("after %v: %s", time.Since(began).Round(time.Millisecond), strings.TrimSpace(p.Said()))
	}
	return out.String()
}

// server is a running service.
type server struct {
	*product.Process
	grpc, admin string
}

// serve starts a service as a user.
func (s *site) serve(service, user string, env ...string) *server {
	s.t.Helper()
	r := &server{grpc: product.FreeAddress(s.t), admin: product.FreeAddress(s.t)}
	env = append(append(s.as(user),
		"SPILLWAY_PREFIX="+prefix, "SPILLWAY_LISTEN="+r.grpc, "SPILLWAY_ADMIN_LISTEN="+r.admin, "SPILLWAY_REPLICA="+service+"-0",
		"SPILLWAY_TOKEN_KEYS="+s.path("keys", rpc.JWKSFile), "SPILLWAY_MAC_KEY_FILE="+s.path("keys", "mac.key"), "SPILLWAY_DURABILITY=single",
	), env...)
	r.Process = product.Launch(s.t, service, s.process(env, "serve", service, "--until-stdin-closes"), true, nil)
	return r
}

// ready asks a service whether it is ready, and why not.
func (r *server) ready() (bool, string) {
	c := &http.Client{Timeout: time.Second}
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://" + r.admin + "/readyz")
	if err != nil {
		return false, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode == http.StatusOK, string(b)
}

func (s *site) awaitReady(servers ...*server) {
	s.t.Helper()
	for _, r := range servers {
		product.Until(s.t, readyLimit, "a service is ready", func() bool {
			if r.Ended() {
				s.t.Fatalf("it ended:\n%s", r.Said())
			}
			ok, _ := r.ready()
			return ok
		})
	}
}

// TestApacheSecureEndToEnd: each service with a principal of its own, on a
// cluster that wants TLS, a login and rights. Jobs go from end to end, a hold
// holds, with automation and without, and the ledger adds up: so the transport
// and the group get through, and the rights of the table suffice.
func TestApacheSecureEndToEnd(t *testing.T) {
	s := build(t)
	automation := s.serve("automation", "spillway-automation")
	scheduler := s.serve("scheduler", "spillway-scheduler")
	enqueue := s.serve("enqueue", "spillway-enqueue")
	s.awaitReady(automation, scheduler, enqueue)

	operator := append(s.as("spillway-operator"),
		"SPILLWAY_PREFIX="+prefix, "SPILLWAY_TOKEN_FILE="+s.path("operator.token"), "SPILLWAY_MAC_KEY_FILE="+s.path("keys", "mac.key"),
		"SPILLWAY_AUTOMATION_ADDRESS="+automation.grpc)
	s.command(0, "", operator, "source", "register", "crm", "--type", "tag", "--principal", "caller", "--reason", "a test")

	work := s.work(scheduler.grpc)
	caller, err := client.Dial(enqueue.grpc, client.WithTokenFile(s.path("caller.token")))
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	send := func(n int) {
		t.Helper()
		for range n {
			ctx, cancel := context.WithTimeout(t.Context(), jobsLimit)
			_, err := caller.Enqueue(ctx, client.Job{Source: "crm", Type: "tag", Payload: []byte("p")})
			cancel()
			if err != nil {
				t.Fatalf("enqueue: %v", err)
			}
		}
	}
	send(100)
	product.Until(t, jobsLimit, "100 jobs have run", func() bool { return work.ran() == 100 })

	for _, flags := range [][]string{nil, {"--break-glass"}} {
		before := work.ran()
		if flags != nil {
			automation.Stop() // nobody is left to ask
		}
		s.command(0, "", operator, append([]string{"switch", "hold", "crm", "--reason", "a test"}, flags...)...)
		send(20)
		time.Sleep(time.Second) // what would start does so in milliseconds
		if n := work.ran() - before; n != 0 {
			t.Errorf("held %v: %d jobs ran", flags, n)
		}
		s.command(0, "", operator, append([]string{"switch", "resume", "crm", "--reason", "a test"}, flags...)...)
		product.Until(t, jobsLimit, "the held jobs have run", func() bool { return work.ran() == before+20 })
	}

	product.Until(t, jobsLimit, "the ledger says that all jobs have succeeded", func() bool {
		var ledger struct{ Accepted, Succeeded, Difference int64 }
		if err := json.Unmarshal([]byte(s.command(0, "", operator, "ledger", "-o", "json")), &ledger); err != nil {
			t.Fatal(err)
		}
		return ledger.Accepted == 140 && ledger.Succeeded == 140 && ledger.Difference == 0
	})

	// A scheduler that dies is replaced: the group takes another member in.
	scheduler.Kill()
	scheduler = s.serve("scheduler", "spillway-scheduler", "SPILLWAY_LISTEN="+scheduler.grpc)
	s.awaitReady(scheduler)
	send(20)
	product.Until(t, readyLimit, "jobs run under the next scheduler", func() bool { return work.ran() >= 160 })
}

// crew is a worker that counts what it ran.
type crew struct {
	mu sync.Mutex
	n  int
}

func (c *crew) ran() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// work runs a worker until the test ends.
func (s *site) work(schedulers string) *crew {
	s.t.Helper()
	w, err := worker.New(worker.Config{Schedulers: schedulers, Concurrency: 8, TokenFile: s.path("worker.token"), Drain: time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	c := &crew{}
	w.Handle("tag", func(context.Context, *worker.Job) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.n++
		return nil
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			s.t.Errorf("worker: %v", err)
		}
	})
	return c
}

// TestApacheSecureRefusals: what a client lacks is named, in its log and in its
// readiness, and a command that cannot get in ends soon.
func TestApacheSecureRefusals(t *testing.T) {
	s := build(t)
	if err := os.WriteFile(s.path("wrong.password"), []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("foreign.pem"), authority(t), 0o600); err != nil {
		t.Fatal(err)
	}
	operator := s.as("spillway-operator")
	with := func(extra ...string) []string { return append(append([]string{}, operator...), extra...) }

	t.Run("commands", func(t *testing.T) {
		for says, env := range map[string][]string{
			`login of user "spillway-operator" refused`: with("SPILLWAY_KAFKA_PASSWORD_FILE=" + s.path("wrong.password")),
			`login of user "nobody" refused`:            with("SPILLWAY_KAFKA_USER=nobody"),
			"is this the cluster's CA":                  with("SPILLWAY_KAFKA_CA_FILE=" + s.path("foreign.pem")),
			"the brokers have no SCRAM-SHA-256 logins":  with("SPILLWAY_KAFKA_SASL=SCRAM-SHA-256"),
			"brokers that want a login":                 with("SPILLWAY_KAFKA_SASL=", "SPILLWAY_KAFKA_USER=", "SPILLWAY_KAFKA_PASSWORD_FILE="),
			"brokers that want TLS":                     {"SPILLWAY_KAFKA=" + s.brokers},
		} {
			s.command(6, says, append(env, "SPILLWAY_PREFIX="+prefix), "ledger")
		}
	})
	for _, c := range []struct {
		name, service, user, says string
		env                       []string
	}{
		{"a user without rights", "enqueue", "guest", "no right to see the topic", nil},
		{"a wrong password", "scheduler", "spillway-scheduler", `login of user \"spillway-scheduler\" refused`,
			[]string{"SPILLWAY_KAFKA_PASSWORD_FILE=" + s.path("wrong.password")}},
		{"an unknown authority", "automation", "spillway-automation", "is this the cluster's CA",
			[]string{"SPILLWAY_KAFKA_CA_FILE=" + s.path("foreign.pem")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := s.serve(c.service, c.user, c.env...)
			product.Until(t, readyLimit, "its log and its readiness name the cause", func() bool {
				if r.Ended() {
					t.Fatalf("it ended:\n%s", r.Said())
				}
				ok, why := r.ready()
				return !ok && strings.Contains(why, c.says) && strings.Contains(r.Said(), c.says)
			})
			// Nor does it fill its log while nobody comes to help.
			time.Sleep(5 * time.Second)
			if lines := strings.Count(r.Said(), "\n"); lines > quiet {
				t.Errorf("it said %d lines:\n%s", lines, r.Said())
			}
		})
	}
	t.Run("a service with another's rights", func(t *testing.T) {
		// Enqueue may see every topic, and not join the schedulers' group.
		r := s.serve("scheduler", "spillway-enqueue")
		product.Until(t, readyLimit, "its log names the group's right", func() bool {
			if r.Ended() {
				t.Fatalf("it ended:\n%s", r.Said())
			}
			return strings.Contains(r.Said(), "Group Authorization Failed")
		})
		time.Sleep(5 * time.Second)
		if ok, _ := r.ready(); ok || r.Ended() {
			t.Errorf("ready %v, ended %v", ok, r.Ended())
		}
		if lines := strings.Count(r.Said(), "\n"); lines > quiet {
			t.Errorf("it said %d lines:\n%s", lines, r.Said())
		}
	})
}

// TestApacheSecureRights tries the whole table of rights with the principals that
// install granted them to: enqueue's cannot write control or outcomes nor commit
// for the group, the scheduler's cannot write control, and so on.
func TestApacheSecureRights(t *testing.T) {
	s := build(t)
	as := func(user string) *kafka.Client {
		c := s.client(user)
		t.Cleanup(c.Close)
		return c
	}
	admin, _ := s.cluster.Admin()
	layout := kafka.Layout{Topics: kafka.Topics{Prefix: prefix}, Shards: 4, Lanes: 2, Durability: kafka.Single}
	rightstest.Try(t, as(admin), layout, func(role rights.Role) *kafka.Client { return as("spillway-" + string(role)) })
}

// TestApacheSecureDev: dev gets in with what its environment says, hands that on
// to its services, and commands find it in dev.json.
func TestApacheSecureDev(t *testing.T) {
	cluster := apache.Start(t, apache.Config{Brokers: 1, Secure: true})
	user, password := cluster.Admin()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{
		"SPILLWAY_KAFKA_TLS": "on", "SPILLWAY_KAFKA_CA_FILE": cluster.CAFile(), "SPILLWAY_KAFKA_SASL": "SCRAM-SHA-512",
		"SPILLWAY_KAFKA_USER": user, "SPILLWAY_KAFKA_PASSWORD_FILE": file,
	}
	for name, value := range settings {
		t.Setenv(name, value)
	}
	dev := product.StartDev(t, t.TempDir(), "--kafka", strings.Join(cluster.Addresses(), ","))
	for name := range settings {
		os.Unsetenv(name) // Setenv restores it
	}
	load(t, dev)
	run(t, 0, "", "switch", "hold", "a", "--reason", "a test", "--break-glass", "--data-dir", dev.Dir)
	if b, err := os.ReadFile(filepath.Join(dev.Dir, "dev.json")); err != nil || strings.Contains(string(b), password) {
		t.Errorf("dev.json holds the password, or cannot be read: %v", err)
	}
}

// authority returns the certificate of an authority that has signed nothing.
func authority(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nobody"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
