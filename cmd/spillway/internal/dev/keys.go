package dev

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/rpc"
)

const (
	keysDir = "keys"
	macFile = "mac.key"
	// macBytes is the length of the MAC key: that of the hash that it keys.
	macBytes = 32
	// tokenTTL is how long dev's tokens are good for. They are signed anew at
	// every start, and a dev that runs longer signs again before they expire.
	tokenTTL = 30 * 24 * time.Hour
	// tokenRenewal is when it does.
	tokenRenewal = tokenTTL / 2
)

// keys are a data directory's secrets, made on first use, all 0600.
type keys struct {
	signer  *rpc.Signer
	macPath string
	mac     []byte
}

func openKeys(dataDir string) (keys, error) {
	dir := filepath.Join(dataDir, keysDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return keys{}, fmt.Errorf("keys: %w", err)
	}
	signer, err := rpc.OpenSigner(dir)
	if err != nil {
		return keys{}, fmt.Errorf("keys: %w", err)
	}
	k := keys{signer: signer, macPath: filepath.Join(dir, macFile)}
	k.mac, err = config.ReadSecretFile(k.macPath)
	if errors.Is(err, fs.ErrNotExist) {
		raw := make([]byte, macBytes)
		rand.Read(raw) // never fails
		k.mac = []byte(hex.EncodeToString(raw))
		err = os.WriteFile(k.macPath, k.mac, 0o600)
	}
	if err != nil {
		return keys{}, fmt.Errorf("MAC key: %w", err)
	}
	return k, nil
}

// tokens signs what dev hands out and writes each token to <name>.token beside
// the keys, for programs that take a file. issuer is the cluster's id.
func (k keys) tokens(issuer string, now time.Time) (readyfile.Tokens, error) {
	var t readyfile.Tokens
	for _, want := range []struct {
		to      *string
		subject string
		roles   []rpc.Role
	}{
		{&t.Operator, "operator", []rpc.Role{rpc.RoleRead, rpc.RoleOperate, rpc.RoleAdmin}},
		{&t.Worker, "worker", []rpc.Role{rpc.RoleWorker}},
		{&t.Service, "service", []rpc.Role{rpc.RoleEnqueue, rpc.RolePublish}},
	} {
		token, err := k.signer.Sign(rpc.Claims{Issuer: issuer, Subject: want.subject, Roles: want.roles, TTL: tokenTTL}, now)
		if err != nil {
			return t, fmt.Errorf("sign token of %s: %w", want.subject, err)
		}
		*want.to = token
		if err := os.WriteFile(k.tokenFile(want.subject), []byte(token+"\n"), 0o600); err != nil {
			return t, fmt.Errorf("token of %s: %w", want.subject, err)
		}
	}
	return t, nil
}

// tokenFile is where a token lies.
func (k keys) tokenFile(subject string) string {
	return filepath.Join(filepath.Dir(k.macPath), subject+".token")
}
