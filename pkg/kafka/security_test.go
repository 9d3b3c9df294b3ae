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
	"math/big"
	"net"
	"strings"
	"sync"
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

// TestLoginOverTLS: a cluster that wants both gets both, from the transport and
// from the group's dialer, and says in words what is wrong with a client that
// comes with less. Those that nobody can help but a person end soon, the others
// with their deadline.
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
	conn, err := client.Dialer().DialContext(t.Context(), "tcp", client.Addresses()[0])
	if err != nil {
		t.Fatalf("the group's dialer: %v", err)
	}
	defer conn.Close()
	if parts, err := conn.ReadPartitions(layout.Control()); err != nil || len(parts) != 1 {
		t.Errorf("the group's dialer reads %v, %v", parts, err)
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

// TestABrokerThatFreezesInALoginLetsGo: kafka-go logs in without a deadline, in
// the transport and in the group's dialer, so the connection has to have one. A
// bubble does not end before its goroutines have.
func TestABrokerThatFreezesInALoginLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := kafkatest.StartSecure(t, nil, nil)
		config := broker.Config("frozen")
		config.Security = login(kafkatest.Admin, kafkatest.Admin)
		config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := broker.Dial(ctx, network, address)
			return &freezing{Conn: conn}, err
		}
		client, err := kafka.New(config)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		began := time.Now()
		_, err = client.Dialer().DialContext(t.Context(), "tcp", client.Addresses()[0])
		var timeout net.Error
		if took := time.Since(began); !errors.As(err, &timeout) || !timeout.Timeout() || took > kafka.CallTimeout {
			t.Errorf("the group's dialer: %v after %v; want a timeout", err, took)
		}
		if err := client.Refresh(t.Context()); err == nil {
			t.Error("the transport has logged in")
		}
	})
}

// freezing is a connection whose other side answers the first request, which
// is for versions, and no other.
type freezing struct {
	net.Conn
	mu       sync.Mutex
	requests int
}

// Write implements net.Conn.
func (c *freezing) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.requests++; c.requests > 1 {
		return len(b), nil
	}
	return c.Conn.Write(b)
}
