package apache

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const (
	// admin is the user who may do everything, the brokers' own included.
	admin = "admin"
	// iterations of SCRAM: the least that Kafka accepts.
	iterations = 4096
	// scramSHA512 is the mechanism's number in Kafka's protocol.
	scramSHA512 = 2
)

// secrets are what a secure cluster needs. Certificates are made anew for each.
type secrets struct {
	password string // of admin
	ca       string // file of the authority that signed the brokers' certificate
	key      string // file of the brokers' key and certificate
	roots    *x509.CertPool
}

// newSecrets makes an authority, and a certificate of it for 127.0.0.1 and
// localhost, and writes both to a directory.
func newSecrets(dir string) (*secrets, error) {
	s := &secrets{
		password: rand.Text(), roots: x509.NewCertPool(),
		ca: filepath.Join(dir, "ca.pem"), key: filepath.Join(dir, "broker.pem"),
	}
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		}
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	authority := template("Spillway test authority")
	authority.IsCA, authority.KeyUsage = true, x509.KeyUsageCertSign
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return nil, err
	}
	brokerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	broker := template("broker")
	broker.DNSNames, broker.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	broker.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} // brokers call each other
	brokerDER, err := x509.CreateCertificate(rand.Reader, broker, authority, brokerKey.Public(), authorityKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(brokerKey)
	if err != nil {
		return nil, err
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	certificate := block("CERTIFICATE", authorityDER)
	s.roots.AppendCertsFromPEM(certificate)
	chain := append(block("PRIVATE KEY", keyDER), append(block("CERTIFICATE", brokerDER), certificate...)...)
	return s, errors.Join(os.WriteFile(s.ca, certificate, 0o644), os.WriteFile(s.key, chain, 0o600))
}

// settings are what makes a broker a secure one. Its controllers stay without,
// on their own listener: only brokers know their ports.
func (s *secrets) settings() map[string]string {
	return map[string]string{
		"authorizer.class.name":                "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":                          "User:" + admin + ";User:ANONYMOUS", // ANONYMOUS are the controllers
		"sasl.enabled.mechanisms":              "SCRAM-SHA-512",
		"sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
		"listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": fmt.Sprintf(
			"org.apache.kafka.common.security.scram.ScramLoginModule required username=%q password=%q;", admin, s.password),
		"ssl.keystore.type":       "PEM",
		"ssl.keystore.location":   s.key,
		"ssl.truststore.type":     "PEM",
		"ssl.truststore.location": s.ca,
	}
}

// options are how the admin reaches the cluster.
func (s *secrets) options(user, password string) []kgo.Opt {
	return []kgo.Opt{
		kgo.DialTLSConfig(&tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12}),
		kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha512Mechanism()),
	}
}

// CAFile returns the file of the certificate, as PEM, by which to know the
// brokers of a secure cluster.
func (c *Cluster) CAFile() string { return c.secrets.ca }

// Admin returns the user of a secure cluster who may do everything.
func (c *Cluster) Admin() (user, password string) { return admin, c.secrets.password }

// AddUser adds a user, or gives one a new password, and returns once every
// broker knows it. A user may do nothing until an ACL says so.
func (c *Cluster) AddUser(user, password string) {
	c.check(c.addUser(user, password), "add user "+user)
}

func (c *Cluster) addUser(user, password string) error {
	ctx, cancel := context.WithTimeout(context.Background(), userTimeout)
	defer cancel()
	client, err := kgo.NewClient(append(c.secrets.options(c.Admin()), kgo.SeedBrokers(c.Addresses()...))...)
	if err != nil {
		return err
	}
	defer client.Close()
	salt := make([]byte, 32)
	rand.Read(salt)
	salted, err := pbkdf2.Key(sha512.New, password, salt, iterations, sha512.Size)
	if err != nil {
		return err
	}
	request := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	request.Upsertions = []kmsg.AlterUserSCRAMCredentialsRequestUpsertion{
		{Name: user, Mechanism: scramSHA512, Iterations: iterations, Salt: salt, SaltedPassword: salted},
	}
	answer, err := request.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	for _, result := range answer.Results {
		if err := kerr.ErrorForCode(result.ErrorCode); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		if err := serves(ctx, n.address(), c.secrets.options(user, password)); err != nil {
			return err
		}
	}
	return nil
}

// uuid returns an identifier as Kafka makes them: 16 bytes in base64, none that
// begins with a dash, which its commands would take for a flag.
func uuid() string {
	for {
		raw := make([]byte, 16)
		rand.Read(raw)
		if id := base64.RawURLEncoding.EncodeToString(raw); !strings.HasPrefix(id, "-") {
			return id
		}
	}
}
