package keyring

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/install"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/rpc"
)

func TestKeysAreMadeOnce(t *testing.T) {
	signing, service := filepath.Join(t.TempDir(), "signing"), filepath.Join(t.TempDir(), "service")
	first, err := Open(signing, service)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(signing, service)
	if err != nil || string(again.MAC) != string(first.MAC) || !again.Signer.Public().Equal(first.Signer.Public()) {
		t.Errorf("opened again: other keys, %v", err)
	}
	if len(first.MAC) != 2*macBytes {
		t.Errorf("MAC key of %d bytes", len(first.MAC))
	}
	// What services get: nothing that signs, and only for their user.
	entries, err := os.ReadDir(service)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if got := strings.Join(names, " "); got != "mac.key tokens.jwks" {
		t.Errorf("services get %s", got)
	}
	for _, dir := range []string{signing, service} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
}

// TestKeysInOneFolder: dev's layout, which a data directory of an earlier start has already.
func TestKeysInOneFolder(t *testing.T) {
	dir := t.TempDir()
	signer, err := rpc.OpenSigner(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, macFile), []byte("there already, and as long as it has to be"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir, dir)
	if err != nil || string(r.MAC) != "there already, and as long as it has to be" || r.JWKS != signer.JWKS() || !r.Signer.Public().Equal(signer.Public()) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestS46KeysThatOthersMayReadAreRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, macFile), []byte("key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, dir); err == nil {
		t.Error("a MAC key with mode 640 was taken")
	}
}

func TestParseTokens(t *testing.T) {
	tokens, err := parseTokens([]string{"cli:read,operate:/t/cli", "worker:worker:C:/t"})
	if err != nil || len(tokens) != 2 || len(tokens[0].Roles) != 2 || tokens[0].File != "/t/cli" || tokens[1].File != "C:/t" {
		t.Errorf("%+v, %v", tokens, err)
	}
	for _, spec := range []string{"", "cli", "cli:read", "cli:read:", ":read:/t", "cli::/t", "cli:read,:/t", "cli:root:/t"} {
		if _, err := parseTokens([]string{spec}); err == nil {
			t.Errorf("%q was accepted", spec)
		}
	}
}

// TestTokensOfAnInstallation: what is signed opens the door that the services' verifier keeps, and only of that cluster.
func TestTokensOfAnInstallation(t *testing.T) {
	ring, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	client := kafkatest.Start(t).Client(t, "test")
	layout := kafka.Layout{Topics: kafka.Topics{Prefix: kafka.DefaultPrefix}, Shards: 2, Lanes: 2, Durability: kafka.Single}
	if err := kafka.Install(t.Context(), client, layout); err != nil {
		t.Fatal(err)
	}
	if _, err := clusterID(t.Context(), client, layout.Control(), ring.MAC); exit.Code(err) != exit.Precondition {
		t.Errorf("topics without a cluster: %v", err)
	}
	cluster, err := install.Run(t.Context(), client, layout, ring.MAC)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := clusterID(t.Context(), client, layout.Control(), ring.MAC)
	if err != nil || issuer != cluster {
		t.Fatalf("cluster %q, %v; installed %q", issuer, err, cluster)
	}
	now := time.Now()
	file := filepath.Join(t.TempDir(), "token")
	tokens := []Token{{Subject: "cli", Roles: []rpc.Role{rpc.RoleRead, rpc.RoleOperate}, File: file}}
	if err := sign(io.Discard, ring.Signer, tokens, issuer, time.Hour, now); err != nil {
		t.Fatal(err)
	}
	token, err := rpc.ReadTokenFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for issuer, good := range map[string]bool{cluster: true, "another": false} {
		v, err := rpc.NewVerifier(ring.JWKS, func() string { return issuer }, now)
		if err != nil {
			t.Fatal(err)
		}
		caller, err := v.Verify(token, now)
		if (err == nil) != good {
			t.Errorf("cluster %s: %v", issuer, err)
		}
		if good && (caller.Subject != "cli" || !caller.Has(rpc.RoleOperate) || caller.Has(rpc.RoleAdmin) || caller.Expires.After(now.Add(2*time.Hour))) {
			t.Errorf("%+v", caller)
		}
	}
}

func TestWrongArgumentsAreUsage(t *testing.T) {
	mac := filepath.Join(t.TempDir(), macFile)
	if err := os.WriteFile(mac, []byte("a key of thirty-two bytes, no less"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"make"}, {"make", "--signing-dir", "x"}, {"tokens"},
		{"tokens", "--signing-dir", filepath.Join(t.TempDir(), "absent"), "--kafka", "127.0.0.1:1", "--mac-key-file", "x", "--token", "a:read:b"},
		{"tokens", "--signing-dir", t.TempDir(), "--kafka", "127.0.0.1:1", "--mac-key-file", mac, "--token", "a:read:b"},
		{"tokens", "--signing-dir", t.TempDir(), "--kafka", "127.0.0.1:1", "--mac-key-file", "x", "--token", "a:read:b", "--ttl", "0s"},
		{"tokens", "--signing-dir", t.TempDir(), "--kafka", "127.0.0.1:1", "--mac-key-file", mac, "--subscriber", "ada:b"},
		{"tokens", "--signing-dir", t.TempDir(), "--kafka", "127.0.0.1:1", "--mac-key-file", mac, "--token", "a:read:b", "--channel", "tenant:a"},
	} {
		cmd := Command()
		cmd.SetArgs(args)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		if err := cmd.ExecuteContext(t.Context()); exit.Code(err) != exit.Usage {
			t.Errorf("%v: %v", args, err)
		}
	}
}
