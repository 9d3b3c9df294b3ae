package config

import (
	"encoding/json"
	"fmt"
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
	Key     Secret        `env:"SPILLWAY_KEY"`
	Ignored int
}

func TestLoad(t *testing.T) {
	var c sample
	err := Load([]string{"SPILLWAY_MEMORY=7", "SPILLWAY_RATIO=0.5", "SPILLWAY_ON=true", "SPILLWAY_KEY=s3cret", "HOME=/", "SPILLWAY_TOKEN_FILE=x"}, &c)
	want := sample{part: part{"127.0.0.1:0"}, Memory: 7, Wait: 3 * time.Second, Ratio: 0.5, On: true, Key: "s3cret"}
	if err != nil || c != want {
		t.Fatalf("%+v, %v", c, err)
	}
}

func TestLoadSaysEverythingAtOnce(t *testing.T) {
	var c sample
	err := Load([]string{"SPILLWAY_MEMORY=lots", "SPILLWAY_WAIT=3", "SPILLWAY_RATIO=NaN", "SPILLWAY_ON=maybe", "SPILLWAY_MEMROY=7"}, &c)
	for _, want := range []string{`SPILLWAY_MEMORY: "lots"`, `SPILLWAY_WAIT: "3"`, `SPILLWAY_RATIO: "NaN"`, `SPILLWAY_ON: "maybe"`, "SPILLWAY_MEMROY is no setting of this service; the nearest is SPILLWAY_MEMORY"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// TestSecretsDoNotShow is S46: no way of printing a config shows a secret.
func TestSecretsDoNotShow(t *testing.T) {
	c := sample{Key: "s3cret"}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{string(text), fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%s %q %v", c.Key, c.Key, &c)} {
		if strings.Contains(shown, "s3cret") {
			t.Errorf("shown in %s", shown)
		}
	}
	if c.Key.Reveal() != "s3cret" {
		t.Error("not revealed when asked")
	}
}

func TestDoc(t *testing.T) {
	list := Doc(&sample{})
	if len(list) != 6 || list[0].Env != "SPILLWAY_LISTEN" || list[1].Unit != "bytes" || list[2].Type != "time.Duration" {
		t.Fatalf("%+v", list)
	}
}
