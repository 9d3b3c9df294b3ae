package connect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/pkg/config"
)

func TestSettingsThatContradictThemselves(t *testing.T) {
	for _, c := range []struct {
		settings Settings
		says     []string // nil: nothing is wrong
	}{
		{Settings{Kafka: "h:1"}, nil},
		{Settings{Kafka: "h:1", TLS: On, CAFile: "ca", SASL: "SCRAM-SHA-512", User: "u", PasswordFile: "p"}, nil},
		{Settings{Kafka: "h:1", TLS: On, SASL: "PLAIN", User: "u", PasswordFile: "p"}, nil},
		{Settings{TLS: "yes"}, []string{"SPILLWAY_KAFKA is not set", "SPILLWAY_KAFKA_TLS is neither"}},
		{Settings{Kafka: "h:1", CAFile: "ca"}, []string{"SPILLWAY_KAFKA_CA_FILE is set, but SPILLWAY_KAFKA_TLS is off"}},
		{Settings{Kafka: "h:1", TLS: On, CertFile: "c"}, []string{"SPILLWAY_KAFKA_KEY_FILE is not set"}},
		{Settings{Kafka: "h:1", TLS: On, KeyFile: "c"}, []string{"SPILLWAY_KAFKA_CERT_FILE is not set"}},
		{Settings{Kafka: "h:1", SASL: "PLAIN", User: "u", PasswordFile: "p"}, []string{"PLAIN without TLS"}},
		{Settings{Kafka: "h:1", SASL: "OAUTHBEARER"}, []string{`"OAUTHBEARER"`, "SPILLWAY_KAFKA_USER is not set", "SPILLWAY_KAFKA_PASSWORD_FILE is not set"}},
		{Settings{Kafka: "h:1", User: "u", PasswordFile: "p"}, []string{"SPILLWAY_KAFKA_USER is set, but", "SPILLWAY_KAFKA_PASSWORD_FILE is set, but"}},
	} {
		err := c.settings.Validate()
		if (err != nil) != (len(c.says) > 0) {
			t.Errorf("%+v: %v", c.settings, err)
			continue
		}
		for _, says := range c.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%+v: %v; want %q", c.settings, err, says)
			}
		}
	}
}

// TestTheEnvironmentHandsOnWhatItSays: what a dev reads from its environment
// reaches its services and, through its ready file, other commands.
func TestTheEnvironmentHandsOnWhatItSays(t *testing.T) {
	want := Settings{
		Kafka: "a:1,b:2", TLS: On, CAFile: "ca", CertFile: "cert", KeyFile: "key", SASL: "SCRAM-SHA-256", User: "u", PasswordFile: "p",
	}
	for _, pair := range want.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	if got, err := Environment(); err != nil || got != want {
		t.Errorf("read again: %+v, %v", got, err)
	}
	if got := Of(want.Broker("kafka")); got != want {
		t.Errorf("through a ready file: %+v", got)
	}
	t.Setenv("SPILLWAY_KAFKA_PASSWROD_FILE", "p")
	if _, err := Environment(); err == nil || !strings.Contains(err.Error(), "SPILLWAY_KAFKA_PASSWORD_FILE") {
		t.Errorf("a misspelt variable: %v; want the nearest named", err)
	}
}

func TestFilesOfSettings(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := Settings{Kafka: "127.0.0.1:1", SASL: "SCRAM-SHA-512", User: "u", PasswordFile: write("password", "s3cret\r\n", 0o600)}
	o, err := good.Opener()
	if err != nil || o.security.Password.Reveal() != "s3cret" {
		t.Errorf("password %q, %v", o.security.Password.Reveal(), err)
	}
	write("password", "changed", 0o600)
	if now, err := o.security.Reread(); err != nil || now.Reveal() != "changed" {
		t.Errorf("the password that was changed is %q, %v", now.Reveal(), err)
	}
	if c, err := o.Client("test"); err != nil {
		t.Errorf("client: %v", err)
	} else {
		c.Close()
	}
	open := good
	open.PasswordFile = write("open", "s3cret", 0o644)
	if _, err := open.Opener(); err == nil || !strings.Contains(err.Error(), "SPILLWAY_KAFKA_PASSWORD_FILE") {
		t.Errorf("a password that everybody may read: %v", err)
	}
	for says, s := range map[string]Settings{
		"holds no certificate":   {Kafka: "127.0.0.1:1", TLS: On, CAFile: write("ca", "no", 0o644)},
		"SPILLWAY_KAFKA_CA_FILE": {Kafka: "127.0.0.1:1", TLS: On, CAFile: filepath.Join(dir, "absent")},
		"_CERT_FILE and _KEY":    {Kafka: "127.0.0.1:1", TLS: On, CertFile: write("cert", "no", 0o644), KeyFile: write("key", "no", 0o600)},
	} {
		if _, err := s.Opener(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
}

// TestACommandDoesNotWaitForEver: brokers that are not there end a command
// with the code for that, naming them.
func TestACommandDoesNotWaitForEver(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Reach(ctx, Settings{Kafka: "127.0.0.1:1,127.0.0.1:2"}, "test")
	if exit.Code(err) != exit.Unavailable || !strings.Contains(err.Error(), "127.0.0.1:1,127.0.0.1:2") {
		t.Errorf("%v; want exit code %d and both addresses", err, exit.Unavailable)
	}
	_, err = Reach(ctx, Settings{Kafka: "no-port"}, "test")
	if failed := (*exit.Error)(nil); !errors.As(err, &failed) || failed.Code != exit.Usage {
		t.Errorf("%v; want a usage error", err)
	}
}

// TestTheGuideNamesEverySetting as it is.
func TestTheGuideNamesEverySetting(t *testing.T) {
	guide, err := os.ReadFile("../../../../docs/guides/kafka.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range config.Doc(&Settings{}) {
		fallback := ""
		if s.Default != "" {
			fallback = "`" + s.Default + "` "
		}
		if row := fmt.Sprintf("| `%s` | %s| %s |\n", s.Env, fallback, s.Doc); !strings.Contains(string(guide), row) {
			t.Errorf("docs/guides/kafka.md lacks %s", row)
		}
	}
}
