package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type part struct {
	Listen string `env:"SPILLWAY_LISTEN" default:"127.0.0.1:0" doc:"where it listens"`
}

type sample struct {
	part
	Memory  int64         `env:"SPILLWAY_MEMORY" default:"1024" unit:"bytes"`
	Wait    time.Duration `env:"SPILLWAY_WAIT" default:"3s"`
	Ratio   float64       `env:"SPILLWAY_RATIO"`
	On      bool          `env:"SPILLWAY_ON"`
	Level   slog.Level    `env:"SPILLWAY_LEVEL" default:"INFO"`
	Key     Secret        `env:"SPILLWAY_KEY"`
	Ignored int
	hidden  Secret
}

func TestLoad(t *testing.T) {
	var c sample
	err := Load([]string{
		"SPILLWAY_MEMORY=6", "SPILLWAY_MEMORY=7", "SPILLWAY_WAIT=", "SPILLWAY_RATIO=0.5", "SPILLWAY_ON=true", "SPILLWAY_LEVEL=warn",
		"SPILLWAY_KEY=s=3cret", "HOME=/", "SPILLWAY_TOKEN_FILE=x",
	}, &c)
	if err != nil || c.Key.Reveal() != "s=3cret" {
		t.Fatalf("%+v, %v", c, err)
	}
	c.Key = Secret{}
	if want := (sample{part: part{"127.0.0.1:0"}, Memory: 7, Wait: 3 * time.Second, Ratio: 0.5, On: true, Level: slog.LevelWarn}); c != want {
		t.Errorf("%+v", c)
	}
}

func TestLoadSaysEverythingAtOnce(t *testing.T) {
	var c sample
	err := Load([]string{
		"SPILLWAY_MEMORY=lots", "SPILLWAY_WAIT=3", "SPILLWAY_RATIO=NaN", "SPILLWAY_ON=maybe", "SPILLWAY_LEVEL=loud", "SPILLWAY_MEMROY=7",
	}, &c)
	for _, want := range []string{
		`SPILLWAY_MEMORY: "lots"`, `SPILLWAY_WAIT: "3"`, `SPILLWAY_RATIO: "NaN"`, `SPILLWAY_ON: "maybe"`, `SPILLWAY_LEVEL: "loud"`,
		"SPILLWAY_MEMROY is no setting of this service; the nearest is SPILLWAY_MEMORY",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestDoc(t *testing.T) {
	list := Doc(&sample{})
	if len(list) != 7 || list[0].Env != "SPILLWAY_LISTEN" || list[1].Unit != "bytes" || list[2].Type != "time.Duration" {
		t.Fatalf("%+v", list)
	}
}

// TestS46SecretsDoNotShow: no way of printing a config shows a secret, not even one that fmt cannot call methods on or a wrong verb.
func TestS46SecretsDoNotShow(t *testing.T) {
	const canary = "canary-7f3a"
	c := sample{Key: NewSecret(canary), hidden: NewSecret(canary)}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("config", "config", c, "key", c.Key)
	slog.New(slog.NewTextHandler(&log, nil)).Info("config", "config", c, "key", c.Key)
	shown := []string{string(text), log.String(), c.Key.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown = append(shown, fmt.Sprintf(verb, c), fmt.Sprintf(verb, &c), fmt.Sprintf(verb, c.Key), fmt.Sprintf(verb, []any{c.Key}))
	}
	for _, s := range shown {
		if strings.Contains(s, canary) || strings.Contains(s, fmt.Sprintf("%x", canary)) {
			t.Errorf("shown in %s", s)
		}
	}
	if c.Key.Reveal() != canary || !strings.Contains(string(text), `"Key":"[redacted]"`) || NewSecret("").String() != "" {
		t.Errorf("revealed %q, JSON %s", c.Key.Reveal(), text)
	}
}

func TestS46SecretFilesAreTheOwnersAlone(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mac")
	write := func(data string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(name, []byte(data), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("key\n", 0o600)
	if got, err := ReadSecretFile(name); err != nil || string(got) != "key\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o644, 0o777} {
		write("key", mode)
		if _, err := ReadSecretFile(name); err == nil {
			t.Errorf("mode %o accepted", mode)
		}
	}
	for _, data := range []string{"", strings.Repeat("x", maxSecretFile+1)} {
		write(data, 0o600)
		if _, err := ReadSecretFile(name); err == nil {
			t.Errorf("%d bytes accepted", len(data))
		}
	}
	if _, err := ReadSecretFile(filepath.Dir(name)); err == nil {
		t.Error("a directory is accepted")
	}
	if _, err := ReadSecretFile(name + "x"); err == nil {
		t.Error("an absent file is accepted")
	}
}

func TestShortMACKeyIsRefused(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mac")
	for n, ok := range map[int]bool{3: false, LeastMACKey - 1: false, LeastMACKey: true, 64: true} {
		if err := os.WriteFile(name, []byte(strings.Repeat("k", n)), 0o600); err != nil {
			t.Fatal(err)
		}
		if key, err := ReadMACKey(name); (err == nil) != ok || (len(key) == n) != ok {
			t.Errorf("%d bytes: %d, %v", n, len(key), err)
		}
	}
}
