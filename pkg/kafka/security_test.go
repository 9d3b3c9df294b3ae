package kafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
)

// certificate makes a certificate for host that signs itself, and the pool that
// trusts it.
func certificate(t *testing.T, host string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func login(user, password string) kafka.Security {
	return kafka.Security{Mechanism: kafka.ScramSHA512, User: user, Password: config.NewSecret(password)}
}

func open(t *testing.T, broker *kafkatest.Broker, security kafka.Security) *kafka.Client {
	t.Helper()
	c := broker.Config("secure")
	c.Security = security
	client, err := kafka.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// TestLoginOverTLS: a cluster that wants both gets both, and a client that comes
// with less is told in words what is wrong. What nobody can help but a person
// ends soon, the rest with its deadline.
func TestLoginOverTLS(t *testing.T) { synctest.Test(t, loginOverTLS) }

func loginOverTLS(t *testing.T) {
	cert, pool := certificate(t, "broker-0")
	broker := kafkatest.StartSecure(t, nil, &tls.Config{Certificates: []tls.Certificate{cert}})
	good := login(kafkatest.Admin, kafkatest.Admin)
	good.TLS = &tls.Config{RootCAs: pool}

	client := open(t, broker, good)
	if err := client.Ready(t.Context()); err != nil {
		t.Fatalf("ready: %v", err)
	}
	if err := kafka.Install(t.Context(), client, layout); err != nil {
		t.Fatalf("install: %v", err)
	}
	for _, mechanism := range []string{kafka.ScramSHA256, kafka.Plain} {
		security := good
		security.Mechanism = mechanism
		if err := open(t, broker, security).Ready(t.Context()); err != nil {
			t.Errorf("%s: %v", mechanism, err)
		}
	}

	_, foreign := certificate(t, "broker-0")
	for name, c := range map[string]struct {
		change  func(*kafka.Security)
		says    string
		refused bool
	}{
		"wrong password": {func(s *kafka.Security) { s.Password = config.NewSecret("wrong") }, "user or password that is wrong", false},
		"unknown user":   {func(s *kafka.Security) { s.User = "nobody" }, "user or password that is wrong", false},
		"unknown CA":     {func(s *kafka.Security) { s.TLS = &tls.Config{RootCAs: foreign} }, "is this the cluster's CA", true},
		"another host":   {func(s *kafka.Security) { s.TLS = &tls.Config{RootCAs: pool, ServerName: "elsewhere"} }, "is valid for broker-0", true},
		"no TLS":         {func(s *kafka.Security) { s.TLS = nil }, "brokers that want TLS hang up like this", false},
	} {
		security := good
		c.change(&security)
		limit := 5 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		began := time.Now()
		err := open(t, broker, security).Ready(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.says) || kafka.Refused(err) != c.refused {
			t.Errorf("%s: %v; refused %v, want %v and %q", name, err, kafka.Refused(err), c.refused, c.says)
		}
		if took := time.Since(began); c.refused && took > limit/2 || took > limit+time.Second {
			t.Errorf("%s: it took %v to say so", name, took)
		}
		if c.refused && kafka.Retriable(err) {
			t.Errorf("%s: such an error counts as a passing one", name)
		}
	}
}

// TestAMissingRightIsNamed: a user without rights sees no topics, so that the
// error has to name the right as a possible cause.
func TestAMissingRightIsNamed(t *testing.T) { synctest.Test(t, missingRight) }

func missingRight(t *testing.T) {
	broker := kafkatest.StartSecure(t, map[string]string{"guest": "secret"}, nil)
	broker.CreateTopic(t, "t", 1)
	client := open(t, broker, login("guest", "secret"))
	if err := client.Ready(t.Context()); err != nil {
		t.Fatalf("ready: %v", err)
	}
	_, partitions := client.Partitions(t.Context(), "t")
	_, appended := client.Append(t.Context(), "t", 0, []kafka.Record{{Value: []byte("v")}})
	_, fetched := client.Fetch(t.Context(), "t", 0, 0, 1<<20, time.Second)
	for call, err := range map[string]error{"partitions": partitions, "append": appended, "fetch": fetched} {
		if err == nil || !strings.Contains(err.Error(), "no right to see") {
			t.Errorf("%s: %v; want the missing right named", call, err)
		}
	}
}

// TestAPasswordThatChanges takes effect with the next connection: it is put into
// its file while services run.
func TestAPasswordThatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := kafkatest.StartSecure(t, nil, nil)
		now := "yesterday's"
		security := login(kafkatest.Admin, now)
		security.Reread = func() (config.Secret, error) {
			if now == "" {
				return config.Secret{}, errors.New("no password file")
			}
			return config.NewSecret(now), nil
		}
		client := open(t, broker, security)
		if err := client.Refresh(t.Context()); err == nil {
			t.Error("logged in with an old password")
		}
		now = ""
		time.Sleep(time.Second) // a refresh that failed answers for a moment
		if err := client.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "no password file") {
			t.Errorf("without a password: %v", err)
		}
		now = kafkatest.Admin
		time.Sleep(time.Second)
		if err := client.Refresh(t.Context()); err != nil {
			t.Errorf("with the new password: %v", err)
		}
	})
}

// TestClientCertificate: a broker that wants to know its clients by certificate
// is shown one.
func TestClientCertificate(t *testing.T) { synctest.Test(t, clientCertificate) }

func clientCertificate(t *testing.T) {
	brokers, ca := certificate(t, "broker-0")
	own, clients := certificate(t, "client")
	broker := kafkatest.StartSecure(t, nil, &tls.Config{
		Certificates: []tls.Certificate{brokers}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
	})
	security := login(kafkatest.Admin, kafkatest.Admin)
	security.TLS = &tls.Config{RootCAs: ca, Certificates: []tls.Certificate{own}}
	if err := open(t, broker, security).Ready(t.Context()); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
}

// TestS46AClientDoesNotShowItsPassword, whatever is printed of it.
func TestS46AClientDoesNotShowItsPassword(t *testing.T) {
	const canary = "canary-51c0"
	for _, mechanism := range []string{kafka.ScramSHA512, kafka.ScramSHA256, kafka.Plain} {
		c := kafka.Config{Addresses: []string{"127.0.0.1:1"}, Security: kafka.Security{
			TLS: &tls.Config{}, Mechanism: mechanism, User: "u", Password: config.NewSecret(canary),
		}}
		client, err := kafka.New(c)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for _, verb := range []string{"%v", "%+v", "%#v"} {
			if shown := fmt.Sprintf(verb+verb, c, client); strings.Contains(shown, canary) {
				t.Errorf("%s shows the password of %s", verb, mechanism)
			}
		}
	}
}

func TestSecurityThatCannotBe(t *testing.T) {
	secret := config.NewSecret("x")
	for says, s := range map[string]kafka.Security{
		"PLAIN without TLS": {Mechanism: kafka.Plain, User: "u", Password: secret},
		"is none of":        {Mechanism: "GSSAPI", User: "u", Password: secret},
		"needs a user":      {Mechanism: kafka.ScramSHA512, User: "u"},
		"no SASL mechanism": {User: "u"},
	} {
		if _, err := kafka.New(kafka.Config{Addresses: []string{"127.0.0.1:1"}, Security: s}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
	if _, err := kafka.New(kafka.Config{Addresses: []string{"unix:/tmp/socket"}, Security: login("u", "x")}); err == nil {
		t.Error("a login on a local broker's socket")
	}
}

// TestABrokerThatFreezesInALoginKeepsNothing: kafka-go logs in without a
// deadline, so the connection has to have one, or each attempt would keep its
// connection and its goroutine until the broker wakes up.
func TestABrokerThatFreezesInALoginKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := kafkatest.StartSecure(t, nil, nil)
		config := broker.Config("frozen")
		config.Security = login(kafkatest.Admin, kafkatest.Admin)
		var dialled, closed atomic.Int64
		config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := broker.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			dialled.Add(1)
			return &freezing{Conn: conn, closed: &closed}, nil
		}
		client, err := kafka.New(config)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err := client.Refresh(t.Context()); err == nil {
			t.Error("it has logged in")
		}
		client.Close() // no more attempts
		time.Sleep(2 * kafka.CallTimeout)
		if dialled.Load() == 0 || closed.Load() != dialled.Load() {
			t.Errorf("%d connections were made, %d of them closed", dialled.Load(), closed.Load())
		}
	})
}

// freezing is a connection whose other side answers the first request, which
// is for versions, and no other.
type freezing struct {
	net.Conn
	closed *atomic.Int64
	mu     sync.Mutex
	n      int // requests written
}

// Write implements net.Conn.
func (c *freezing) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n++; c.n > 1 {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *freezing) Close() error {
	c.closed.Add(1)
	return c.Conn.Close()
}
