// Package connect is how every command and every service reaches the log: one
// set of settings from the environment, and one place that makes clients of it.
package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/kafka"
)

// prefix is what the names of all variables of Settings begin with.
const prefix = "SPILLWAY_KAFKA"

// On and Off are the values of Settings.TLS.
const (
	On  = "on"
	Off = "off"
)

// Settings say where the log is and how to get in. They hold no secret, only
// the names of files with secrets.
type Settings struct {
	Kafka        string `env:"SPILLWAY_KAFKA" doc:"brokers: host:port, several separated by commas, or unix:PATH"`
	TLS          string `env:"SPILLWAY_KAFKA_TLS" default:"off" doc:"on: every connection to a broker uses TLS 1.2 or later; off: none does"`
	CAFile       string `env:"SPILLWAY_KAFKA_CA_FILE" doc:"PEM file with the CAs that the brokers' certificates may come from; empty: those of the system"`
	CertFile     string `env:"SPILLWAY_KAFKA_CERT_FILE" doc:"PEM file with the certificate that this client shows the brokers; empty: none"`
	KeyFile      string `env:"SPILLWAY_KAFKA_KEY_FILE" doc:"PEM file with the key of that certificate, readable by its owner only"`
	SASL         string `env:"SPILLWAY_KAFKA_SASL" doc:"how to log in: SCRAM-SHA-512, SCRAM-SHA-256, or PLAIN (only over TLS); empty: not at all"`
	User         string `env:"SPILLWAY_KAFKA_USER" doc:"who logs in"`
	PasswordFile string `env:"SPILLWAY_KAFKA_PASSWORD_FILE" doc:"file with the password, readable by its owner only; a line break at its end does not count"`
}

// Environment returns the settings that the environment of this process holds.
// A variable that begins as they do and is none of them is an error.
func Environment() (Settings, error) {
	var s Settings
	var own []string
	for _, pair := range os.Environ() {
		if strings.HasPrefix(pair, prefix) {
			own = append(own, pair)
		}
	}
	return s, config.Load(own, &s)
}

// Of returns the settings that lead to the broker of a ready file.
func Of(b readyfile.Broker) Settings {
	s := Settings{
		Kafka: b.Address, TLS: Off, CAFile: b.CAFile, CertFile: b.CertFile, KeyFile: b.KeyFile,
		SASL: b.SASL, User: b.User, PasswordFile: b.PasswordFile,
	}
	if b.TLS {
		s.TLS = On
	}
	return s
}

// Broker is the reverse of Of; kind is "kafka" or "embedded".
func (s Settings) Broker(kind string) readyfile.Broker {
	return readyfile.Broker{
		Kind: kind, Address: s.Kafka, TLS: s.TLS == On, CAFile: s.CAFile, CertFile: s.CertFile, KeyFile: s.KeyFile,
		SASL: s.SASL, User: s.User, PasswordFile: s.PasswordFile,
	}
}

// Environ returns the settings as variables, for a child process.
func (s Settings) Environ() []string {
	var list []string
	for _, v := range []struct{ name, value string }{
		{"", s.Kafka}, {"_TLS", s.TLS}, {"_CA_FILE", s.CAFile}, {"_CERT_FILE", s.CertFile}, {"_KEY_FILE", s.KeyFile},
		{"_SASL", s.SASL}, {"_USER", s.User}, {"_PASSWORD_FILE", s.PasswordFile},
	} {
		if v.value != "" {
			list = append(list, prefix+v.name+"="+v.value)
		}
	}
	return list
}

// Absolute returns s with the full paths of its files, for programs that run in
// other directories.
func (s Settings) Absolute() (Settings, error) {
	for _, file := range []*string{&s.CAFile, &s.CertFile, &s.KeyFile, &s.PasswordFile} {
		if *file == "" {
			continue
		}
		full, err := filepath.Abs(*file)
		if err != nil {
			return s, fmt.Errorf("full path of %s: %w", *file, err)
		}
		*file = full
	}
	return s, nil
}

// Addresses are the brokers.
func (s Settings) Addresses() []string { return strings.Split(s.Kafka, ",") }

// Validate says what is wrong with s, everything at once, without reading a
// file.
func (s Settings) Validate() error {
	var wrong []error
	say := func(bad bool, name, reason string) {
		if bad {
			wrong = append(wrong, fmt.Errorf("%s%s %s", prefix, name, reason))
		}
	}
	say(s.Kafka == "", "", "is not set")
	say(!slices.Contains([]string{"", On, Off}, s.TLS), "_TLS", "is neither on nor off")
	if s.TLS != On {
		for name, file := range map[string]string{"_CA_FILE": s.CAFile, "_CERT_FILE": s.CertFile, "_KEY_FILE": s.KeyFile} {
			say(file != "", name, "is set, but "+prefix+"_TLS is off")
		}
	}
	say(s.CertFile != "" && s.KeyFile == "", "_KEY_FILE", "is not set, but the certificate is")
	say(s.KeyFile != "" && s.CertFile == "", "_CERT_FILE", "is not set, but its key is")
	if s.SASL == "" {
		say(s.User != "", "_USER", "is set, but "+prefix+"_SASL is not")
		say(s.PasswordFile != "", "_PASSWORD_FILE", "is set, but "+prefix+"_SASL is not")
	} else {
		say(!slices.Contains([]string{kafka.ScramSHA512, kafka.ScramSHA256, kafka.Plain}, s.SASL), "_SASL",
			fmt.Sprintf("is %q, want %s, %s or %s", s.SASL, kafka.ScramSHA512, kafka.ScramSHA256, kafka.Plain))
		say(s.SASL == kafka.Plain && s.TLS != On, "_SASL",
			"is PLAIN without TLS, which would send the password in clear: set "+prefix+"_TLS=on or use "+kafka.ScramSHA512)
		say(s.User == "", "_USER", "is not set, but "+prefix+"_SASL is")
		say(s.PasswordFile == "", "_PASSWORD_FILE", "is not set, but "+prefix+"_SASL is")
	}
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(wrong...)
}

// Opener makes clients of the log.
type Opener struct {
	addresses []string
	security  kafka.Security
}

// Opener reads the files that s names. A password or a client certificate that
// changes takes effect with the next connection, CAs with the next start.
func (s Settings) Opener() (Opener, error) {
	if err := s.Validate(); err != nil {
		return Opener{}, err
	}
	o := Opener{addresses: s.Addresses(), security: kafka.Security{Mechanism: s.SASL, User: s.User}}
	if s.SASL != "" {
		o.security.Reread = s.password
		var err error
		if o.security.Password, err = s.password(); err != nil {
			return Opener{}, err
		}
	}
	if s.TLS == On {
		var err error
		if o.security.TLS, err = s.tls(); err != nil {
			return Opener{}, err
		}
	}
	return o, nil
}

// Client returns a client that sees only these topics, or all without any. It
// does no I/O.
func (o Opener) Client(clientID string, topics ...string) (*kafka.Client, error) {
	return kafka.New(kafka.Config{Addresses: o.addresses, ClientID: clientID, Topics: topics, Security: o.security})
}

// within is how long a command waits for brokers: longer than one that was
// killed needs to be back, 8 to 19 s.
const within = 20 * time.Second

// Reach returns a client as Opener.Client does, once a broker has answered it.
// What is wrong with the settings is a usage error, brokers that cannot be
// reached or turn us away within 20 s are an unavailable log.
func Reach(ctx context.Context, s Settings, clientID string, topics ...string) (*kafka.Client, error) {
	o, err := s.Opener()
	if err != nil {
		return nil, exit.With(exit.Usage, err)
	}
	client, err := o.Client(clientID, topics...)
	if err != nil {
		return nil, exit.With(exit.Usage, err)
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := client.Ready(ctx); err != nil {
		client.Close()
		return nil, exit.With(exit.Unavailable, err)
	}
	return client, nil
}

func (s Settings) password() (config.Secret, error) {
	b, err := config.ReadSecretFile(s.PasswordFile)
	if err != nil {
		return config.Secret{}, fmt.Errorf("%s_PASSWORD_FILE: %w", prefix, err)
	}
	return config.NewSecret(strings.TrimRight(string(b), "\r\n")), nil
}

func (s Settings) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12} // brokers before Java 11 have no 1.3
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%s_CA_FILE: %w", prefix, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s_CA_FILE: %s holds no certificate in PEM form", prefix, s.CAFile)
		}
	}
	if s.CertFile != "" {
		if _, err := s.certificate(); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.certificate() }
	}
	return c, nil
}

func (s Settings) certificate() (*tls.Certificate, error) {
	cert, err := os.ReadFile(s.CertFile)
	if err != nil {
		return nil, fmt.Errorf("%s_CERT_FILE: %w", prefix, err)
	}
	key, err := config.ReadSecretFile(s.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("%s_KEY_FILE: %w", prefix, err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s_CERT_FILE and _KEY_FILE: %w", prefix, err)
	}
	return &pair, nil
}
