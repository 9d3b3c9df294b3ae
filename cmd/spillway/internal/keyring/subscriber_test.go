package keyring

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/rpc"
)

func TestParseSubscribers(t *testing.T) {
	list, err := parseSubscribers([]string{"ada@acme:/t/ada", "bob@acme:-"}, nil)
	if err != nil || len(list) != 2 || list[0].User != "ada" || list[0].Tenant != "acme" || list[0].File != "/t/ada" || list[1].File != printed {
		t.Errorf("%+v, %v", list, err)
	}
	if want := []string{"tenant:acme", "user:acme:ada", "topic:acme:*"}; !slices.Equal(list[0].Channels, want) {
		t.Errorf("channels %v, want %v", list[0].Channels, want)
	}
	if list, err := parseSubscribers([]string{"ada@acme:-"}, []string{"topic:acme:news"}); err != nil || !slices.Equal(list[0].Channels, []string{"topic:acme:news"}) {
		t.Errorf("%+v, %v", list, err)
	}
	for _, spec := range []string{"", "ada", "ada@acme", "ada@acme:", "@acme:-", "ada@:-", "ada:-"} {
		if _, err := parseSubscribers([]string{spec}, nil); err == nil {
			t.Errorf("%q was accepted", spec)
		}
	}
	if _, err := parseSubscribers(nil, []string{"topic:acme:news"}); err == nil {
		t.Error("channels of nobody were accepted")
	}
}

// TestNamesInChannels: a name with a separator stays one part, so that nobody reads another's channel by choosing a name.
func TestNamesInChannels(t *testing.T) {
	if got, want := Channels("a:b@c", "ü"), []string{"tenant:%C3%BC", "user:%C3%BC:a%3Ab%40c", "topic:%C3%BC:*"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestSubscriberTokens: what is signed opens a websocket for ten minutes and no gRPC port; it is printed alone, or lies in a file of mode 0600.
func TestSubscriberTokens(t *testing.T) {
	ring, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	list, err := parseSubscribers([]string{"ada@acme:" + file, "ada@acme:-"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	var out strings.Builder
	if err := signSubscribers(&out, ring.Signer, list, "cluster", now); err != nil {
		t.Fatal(err)
	}
	said := strings.Split(out.String(), "\n")
	if len(said) != 3 || !strings.HasPrefix(said[0], "ada@acme until ") || strings.Contains(said[1], " ") {
		t.Fatalf("it says %q", said)
	}
	kept, err := rpc.ReadTokenFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	v, err := rpc.NewVerifier(ring.JWKS, func() string { return "cluster" }, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{kept, said[1]} {
		s, err := v.Subscriber(token, now)
		if err != nil || s.Subject != "ada" || s.Tenant != "acme" || len(s.Channels) != 3 || s.Expires.After(now.Add(SubscriberTTL)) {
			t.Errorf("%+v, %v", s, err)
		}
		if caller, err := v.Verify(token, now); err == nil {
			t.Errorf("a service takes it for %+v", caller)
		}
	}
}
